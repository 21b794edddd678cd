"""The function that users call in place of an exported one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from safejax import _jax
from safejax._file_errors import FormatError
from safejax.compile._service import Isolation
from safejax.contract._spec import Spec, spec_from_struct
from safejax.errors import ContractError
from safejax.export._terms import read_terms, signature_of, with_constraints
from safejax.jit._safe_jit import safe_jit
from safejax.limits import Limits


def assemble(
    exported: Any,
    *,
    parameters: Any,
    terms: Mapping[str, Any],
    limits: Limits,
    isolation: Isolation | None,
) -> Any:
    """A function under a contract that calls an exported program.

    Args:
        exported: What ``jax.export`` gave.
        parameters: The names of its parameters, those by position first.
        terms: Its contract, as plain data; what it leaves open is as exported.
        limits: What it may cost.
        isolation: Where it is compiled.

    Raises:
        FormatError: The contract does not fit the program.
    """
    positional, named = _specs_of(exported)
    signature = signature_of(parameters, len(positional), list(named))
    trees, constraints, on_dtype = read_terms(terms)
    own = dict(zip(signature.parameters, positional, strict=False)) | named
    if not trees.keys() <= own.keys():
        raise FormatError("the contract is on other parameters than the program has")
    own |= {name: tree for name, tree in trees.items() if tree is not None}

    def imported(*args: Any, **kwargs: Any) -> Any:
        return exported.call(*args, **kwargs)

    imported.__name__ = imported.__qualname__ = exported.fun_name
    vars(imported)["__signature__"] = signature
    try:
        # Without a policy: nobody's Python is traced, and a worker has read the module.
        return safe_jit(
            imported,
            contract=with_constraints(own, constraints),
            on_dtype=on_dtype,
            limits=limits,
            isolation=isolation,
        )
    except ContractError as error:
        raise FormatError(
            f"the contract does not fit the program: {error.message}"
        ) from None


def _specs_of(exported: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the program was exported for, as trees of specs."""
    try:
        specs = [_spec_of(aval) for aval in exported.in_avals]
        args, kwargs = jax.tree.unflatten(exported.in_tree, specs)
    except Exception as error:
        # Of classes that the user has registered, whose code is run here.
        raise FormatError(
            f"the arguments of the program can't be described: {type(error).__name__}"
        ) from error
    return args, dict(sorted(kwargs.items()))


def _spec_of(aval: Any) -> Spec:
    struct = jax.ShapeDtypeStruct(aval.shape, aval.dtype)  # type: ignore[no-untyped-call]
    return spec_from_struct(struct, constraints_of=_jax.explicit_constraints)
