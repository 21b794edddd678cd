"""Functions that can't be served from buckets, in words."""

from __future__ import annotations

from typing import Any

import jax

from safejax.buckets._probe import Fault
from safejax.buckets._sizes import Sizes
from safejax.errors import ContractError

_MASK = (
    'take mask="mask" and leave out what it marks as padding, '
    "or serve the function without buckets"
)


def refusal(
    function: str, fault: Fault, structure: Any, names: tuple[str, ...]
) -> ContractError:
    """The error of a function in whose answer the padding shows."""
    where = output_name(structure, fault.output)
    sizes = _sizes_text(names, fault.real, fault.bucket)
    if fault.kind == "padding":
        quoted = " and ".join(map(repr, fault.names))
        what = f"{where} changes with what stands in the padding of {quoted}"
    else:
        what = f"{where} is not what the function answers without padding"
    return _error(
        function,
        f"{what} ({sizes})",
        _MASK,
        output=where,
        kind=fault.kind,
        names=list(fault.names),
        real=list(fault.real),
        bucket=list(fault.bucket),
    )


def blind(function: str) -> ContractError:
    """The error where no trial could tell whether the padding shows."""
    return _error(
        function,
        "whether the padding shows could not be tried: "
        "all of an answer is infinite or NaN",
        "give the specs of its arguments a minimum and a maximum that suit it",
        kind="blind",
    )


def unclear(function: str) -> ContractError:
    """The error where nobody knows what to cut off an answer."""
    return _error(
        function,
        "what the sizes of its answer follow from could not be found",
        "let each axis of the answer follow from one named dimension",
        kind="unclear",
    )


def _error(function: str, what: str, hint: str, **details: Any) -> ContractError:
    return ContractError(
        f"{function}() can't be served from buckets: {what}",
        code="SJ103",
        details={"function": function, **details},
        hint=hint,
    )


def output_name(structure: Any, index: int) -> str:
    """Where an array of an answer is, as in ``output['loss']``."""
    numbers = jax.tree.unflatten(structure, range(structure.num_leaves))
    path = jax.tree_util.tree_flatten_with_path(numbers)[0][index][0]
    return "output" + jax.tree_util.keystr(path)


def _sizes_text(names: tuple[str, ...], real: Sizes, bucket: Sizes) -> str:
    return ", ".join(
        f"{name}={size} in a bucket of {grown}"
        for name, size, grown in zip(names, real, bucket, strict=True)
    )
