"""``signed_import``: an exported program, verified and judged, as a function."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jax import export

from safejax._file_errors import FormatError
from safejax.compile._inquiry import look_into
from safejax.compile._service import Isolation
from safejax.export._assemble import assemble
from safejax.export._facts import Facts, facts_of
from safejax.export._flat import Table, malformed, read_program
from safejax.export._interface import check_interface
from safejax.export._judge import judge_findings
from safejax.export._save import PURPOSE, check_flatbuffers
from safejax.guard import _scope
from safejax.guard._policy import Policy
from safejax.keys import KeyRing
from safejax.limits import Limits, LoadLimits
from safejax.signing._blob import read_sealed
from safejax.signing._canonical import decode
from safejax.signing._origin import Wanted, read_origin

_DEFAULTS: Final = LoadLimits(max_data_bytes=1 << 28, max_header_bytes=16 << 20)


def signed_import(  # noqa: PLR0913  each is a question about the file
    path: str | os.PathLike[str],
    *,
    key: KeyRing,
    context: str = "",
    min_step: int | None = None,
    max_age_s: float | None = None,
    expect_run_id: str | None = None,
    policy: Policy | None = None,
    limits: Limits | None = None,
    isolation: Isolation | None = None,
    load_limits: LoadLimits | None = None,
) -> Any:
    """Loads a function that :func:`signed_export` has saved, once it is verified.

    The signature says who wrote the program, not that it is harmless: a confined
    worker reads its StableHLO first and says what it consists of, and only what the
    policy and the limits admit is handed to JAX.

    Args:
        path: The file.
        key: The keys that may have signed it.
        context: The text that the file must have been exported with.
        min_step: The least step it may be of.
        max_age_s: How old it may be, in seconds.
        expect_run_id: The run it must be of.
        policy: Which custom calls it may contain; ``Policy.strict()`` if absent.
        limits: What it may consist of and cost; ``Limits.serving()`` if absent.
            ``max_equations`` counts operations; ``max_flops`` is not estimated.
        isolation: Where it is compiled, as for :func:`safejax.safe_jit`.
        load_limits: How large the file may be; 256 MiB of program if absent.

    Returns:
        A :class:`safejax.SafeJitFunction` under the contract that it was exported
        with, or else under that of its types.

    Raises:
        SignatureError: The file was changed, or not signed by a key of the ring.
        RollbackError: It is genuine, but not the one asked for, or has expired.
        FormatError: It is no exported program, broken (``SJ503``), or none that can be
            used here: for another platform, or by a JAX too old or too new (``SJ511``).
        ProgramRejectedError: It contains what the policy does not admit (``SJ401``,
            ``SJ402``), or exceeds a budget.
        StorageError: It can't be read.
        WorkerError: No worker could be started to look into it.

    Example:
        >>> import tempfile, jax.numpy as jnp, numpy as np, safejax
        >>> path, ring = tempfile.mkdtemp() + "/f", safejax.KeyRing.generate()
        >>> rows = safejax.spec("f32[b, 3]")
        >>> safejax.signed_export(path, lambda x: x.sum(1), rows, key=ring)
        >>> f = safejax.signed_import(path, key=ring)
        >>> f(np.ones((2, 3), np.float32)).shape
        (2,)
        >>> try:
        ...     f(np.ones((2, 4), np.float32))
        ... except safejax.ContractError as error:
        ...     error.violations[0].rule
        'shape'
    """
    check_flatbuffers()
    wanted = Wanted(
        context=context,
        min_step=min_step,
        max_age_s=max_age_s,
        expect_run_id=expect_run_id,
    )
    payload, fields = read_sealed(
        Path(path), purpose=PURPOSE, ring=key, limits=load_limits or _DEFAULTS
    )
    wanted.check(read_origin(fields), "program")
    program = read_program(payload)
    facts = facts_of(program)
    description = _description(fields, facts)
    _check_usable(facts, description)
    within, own = limits or Limits.serving(), policy or Policy.strict()
    _look(program, facts, within, own)
    return assemble(
        _deserialized(payload),
        parameters=description["parameters"],
        terms=description["contract"],
        limits=within,
        isolation=isolation,
    )


def _description(fields: Mapping[str, str], facts: Facts) -> dict[str, Any]:
    """What the envelope says, once it says the same as the program."""
    try:
        found = decode(fields["program"], "description of the program")
        found = {**found}
        said = {name: found[name] for name in facts.as_data()}
        _ = found["parameters"], found["contract"], found["jax"]
    except (KeyError, TypeError):
        raise malformed("its description lacks a field") from None
    if said != facts.as_data():
        raise malformed("its description is another program's")
    return found


def _check_usable(facts: Facts, description: Mapping[str, Any]) -> None:
    """Refuses what this JAX can't run, before anything is read of the module."""
    least = export.minimum_supported_calling_convention_version
    most = export.maximum_supported_calling_convention_version
    made_by = str(description["jax"])[:50]
    if not least <= facts.calling_convention <= most:
        raise FormatError(
            f"the program was exported by JAX {made_by!r} with calling convention "
            f"{facts.calling_convention}; this JAX reads {least} to {most}",
            code="SJ511",
            details={"got": facts.calling_convention, "expected": [least, most]},
            hint="export it again: JAX reads what was exported within the last months",
        )
    platform = export.default_export_platform()
    if platform not in facts.platforms:
        raise FormatError(
            f"the program is for {', '.join(facts.platforms)}, this process runs on "
            f"{platform}",
            code="SJ511",
            details={"got": facts.platforms, "expected": platform},
            hint=f"signed_export(..., platforms=[{platform!r}, ...])",
        )


def _look(program: Table, facts: Facts, limits: Limits, policy: Policy) -> None:
    """Has a worker read each module, and judges what it finds."""
    policies = (*_scope.active(), policy)
    one = program
    for module in facts.modules:
        found = look_into(module, limits, facts.function)
        judge_findings(found, facts.function, limits, policies)
        check_interface(one, found.inputs, found.outputs)
        one = one.get("vjp", {})


def _deserialized(payload: bytes) -> Any:
    """The program as JAX has it; its derivatives are read as well."""
    try:
        exported = one = export.deserialize(bytearray(payload))
        while one.has_vjp():
            one = one.vjp()
    except Exception as error:
        # Classes that nobody has registered here, effects that this JAX lacks.
        raise FormatError(
            f"JAX can't read the program: {type(error).__name__}",
            details={"reason": type(error).__name__},
            hint="register the classes of its arguments with jax.export first",
        ) from error
    return exported


signed_import.__module__ = "safejax"
