"""``signed_export``: a function into one signed file, for other processes to call."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
from jax import export

from safejax import _jax
from safejax._file_errors import FormatError
from safejax._files import check_free, remove_leftovers, write_small
from safejax.contract._contract import Contract
from safejax.export._assemble import assemble
from safejax.export._facts import facts_of
from safejax.export._flat import read_program
from safejax.export._specs import to_structs
from safejax.export._terms import is_parameter, terms_of
from safejax.keys import KeyRing
from safejax.limits import Limits
from safejax.signing._blob import seal
from safejax.signing._canonical import encode
from safejax.signing._origin import new_origin

PURPOSE: Final = "program"

_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def signed_export(  # noqa: PLR0913  each is a fact about the file
    path: str | os.PathLike[str],
    fun: Any,
    *specs: Any,
    key: KeyRing,
    named: Mapping[str, Any] | None = None,
    context: str = "",
    step: int | None = None,
    run_id: str = "",
    metadata: Mapping[str, Any] | None = None,
    expires_in_s: float | None = None,
    platforms: Sequence[str] | None = None,
    vjp_order: int = 0,
    overwrite: bool = True,
) -> None:
    """Exports a function with ``jax.export`` into a signed file, whole or not at all.

    The file holds the program as StableHLO and, if the function has one, its contract.
    Arrays that the function captures are in the program, readable by anyone.

    Args:
        path: Where the file is to stand. Its folder must exist.
        fun: A function, also one of ``jax.jit`` or :func:`safejax.safe_jit`, or what
            ``jax.export.export`` gave.
        *specs: What the function is to be called with: arrays,
            ``jax.ShapeDtypeStruct``, or :func:`safejax.spec`, in any tree. Axes with
            names, as in ``"f32[b<=64, 784]"``, stay open.
        key: Its primary key signs.
        named: The same for arguments that are passed by name.
        context: What this is: importing needs the same text.
        step: A version or a training step, which importing can ask for.
        run_id: Which run this is, which importing can ask for.
        metadata: Plain data that is signed with it.
        expires_in_s: After how many seconds it is refused; None for never.
        platforms: Which platforms it is for: ``"cpu"``, ``"cuda"``, ``"rocm"``,
            ``"tpu"``; by default the one that JAX uses.
        vjp_order: How often the imported function can be differentiated, at most 4.
        overwrite: Whether a file at ``path`` may be replaced.

    Raises:
        FormatError: The contract can't be written down (``SJ507``), the package
            flatbuffers is not installed, or the program is out of proportion.
        SigningKeyError: The ring can't sign.
        StorageError: The system refused; what stood at ``path`` still does.
        ValueError: A spec leaves open what a program must know.

    Example:
        >>> import tempfile, jax.numpy as jnp, safejax
        >>> path, ring = tempfile.mkdtemp() + "/f", safejax.KeyRing.generate()
        >>> safejax.signed_export(path, jnp.sin, safejax.spec("f32[n]"), key=ring)
        >>> f = safejax.signed_import(path, key=ring)
        >>> float(f(jnp.zeros(3)).sum())
        0.0
    """
    check_flatbuffers()
    place = Path(path)
    origin = new_origin(
        context,
        step,
        run_id,
        dict(metadata or {}),
        function="signed_export",
        expires_in_s=expires_in_s,
    )
    check_free(place, overwrite=overwrite)
    _ = key.primary
    contract, bare = getattr(fun, _jax.BEHIND_CONTRACT, (None, fun))
    exported, names = _exported(bare, specs, dict(named or {}), platforms)
    payload = bytes(exported.serialize(vjp_order=vjp_order))
    facts = facts_of(read_program(payload))
    parameters = _checked(names, facts.positional) + facts.named
    terms = _terms(contract, exported, parameters)
    # What importing would refuse is refused here.
    assemble(
        exported,
        parameters=parameters,
        terms=terms,
        limits=Limits(),
        isolation=None,
    )
    description = {
        **facts.as_data(),
        "parameters": parameters,
        "contract": terms,
        "jax": jax.__version__,
        "jaxlib": _jax.jaxlib_version,
    }
    fields = {**origin.fields(), "program": encode(description).decode()}
    sealed = seal(payload, purpose=PURPOSE, ring=key, fields=fields)
    remove_leftovers(place.parent, place.name)
    write_small(place, sealed, overwrite=overwrite, mode=0o644)


def check_flatbuffers() -> None:
    """Refuses to go on without the package that ``jax.export`` writes and reads with.

    Raises:
        FormatError: It is not installed.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise FormatError(
            "exported programs need the package flatbuffers",
            hint="install with `python -m pip install flatbuffers`, or safejax's extra "
            "`export`",
        )


def _exported(
    fun: Any,
    specs: tuple[Any, ...],
    named: dict[str, Any],
    platforms: Sequence[str] | None,
) -> tuple[Any, list[str]]:
    """The exported program, and the names of the arguments passed by position."""
    if isinstance(fun, export.Exported):
        if specs or named or platforms is not None:
            raise ValueError(
                "signed_export() of what is exported already takes no specs"
            )
        return fun, []
    jitted = fun if hasattr(fun, "trace") and hasattr(fun, "lower") else jax.jit(fun)
    args, kwargs = to_structs(specs, named)
    exported = export.export(jitted, platforms=platforms)(*args, **kwargs)
    return exported, _names(fun, args, kwargs)


def _names(fun: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """The names of the arguments passed by position; empty where nobody knows."""
    try:
        signature = inspect.signature(fun)
        signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        return []
    found = [p.name for p in signature.parameters.values() if p.kind in _POSITIONAL]
    return found[: len(args)]


def _checked(names: list[str], positional: int) -> list[str]:
    """The names if they are those of the program's arguments, or names made up."""
    if len(names) == positional and all(map(is_parameter, names)):
        return names
    return [f"arg{i}" for i in range(positional)]


def _terms(
    contract: Contract | None, exported: Any, parameters: Sequence[str]
) -> dict[str, Any]:
    """The contract of the function, with the constraints of the exported dimensions."""
    terms: dict[str, Any] = {"trees": {}, "constraints": [], "on_dtype": "error"}
    if contract is not None:
        terms = terms_of(contract)
    # JAX does not write these down.
    dimensions = [axis for aval in exported.in_avals for axis in aval.shape]
    found = [text for axis in dimensions for text in _jax.explicit_constraints(axis)]
    terms["constraints"] = list(dict.fromkeys([*terms["constraints"], *found]))
    lost = terms["trees"].keys() - set(parameters)
    if lost:
        raise FormatError(
            f"the contract of {', '.join(sorted(lost))} can't be signed: it is on no "
            "parameter that the program takes by its name",
            code="SJ507",
            hint="export a function without *args, and pass every argument",
        )
    return terms


signed_export.__module__ = "safejax"
