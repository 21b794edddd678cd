"""Sizes of arrays, and what operations do with the memory of arrays."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

from safejax.review._admitted import ELEMENTWISE


class Kind(enum.IntEnum):
    """What an operation does with memory."""

    BUFFER = 0  # operands and results have buffers of their own
    ALIAS = 1  # the result is the operand, looked at differently
    FUSED = 2  # computed element by element, inside whoever reads it
    REDUCE = 3  # reads such a computation without a buffer in between
    IN_PLACE = 4  # the result takes the place of an operand that dies
    NESTED = 5  # runs other programs


_ALIASES = frozenset(
    {
        "reshape", "squeeze", "expand_dims", "stop_gradient", "optimization_barrier",
        "name", "sharding_constraint", "layout_constraint", "pvary", "reshard",
        "random_wrap", "random_unwrap", "copy_p", "tie", "pin", "unpin",
        "bitcast_convert_type", "with_memory_space_constraint", "freeze",
    }
)  # fmt: skip
_FUSED = ELEMENTWISE | {
    "broadcast_in_dim", "broadcast", "broadcast_to", "iota", "slice", "pad",
    "concatenate", "rev", "transpose", "tile", "stack", "split", "unstack",
    "dynamic_slice", "select_n", "clamp", "iota_2x32_shape",
}  # fmt: skip
REDUCES = frozenset(
    {
        "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and",
        "reduce_or", "reduce_xor", "argmax", "argmin", "reduce",
    }
)  # fmt: skip
_IN_PLACE = frozenset(
    {
        "dynamic_update_slice", "scatter", "scatter-add", "scatter-max", "scatter-min",
        "scatter-mul", "scatter-sub", "scatter_add", "scatter_max", "scatter_min",
        "scatter_mul", "scatter_sub", "sort", "swap", "addupdate", "cholesky", "lu",
        "triangular_solve",
    }
)  # fmt: skip
# Elementwise, and an operation on numbers rather than a way to look at them.
ARITHMETIC = ELEMENTWISE - {
    "convert_element_type", "bitcast_convert_type", "copy", "copy_p", "zeros_like",
    "real", "imag", "complex", "select_n",
}  # fmt: skip
# XLA computes these once for several readers, and the others once for each.
EXPENSIVE = frozenset(
    {
        "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
        "bessel_i1e", "cbrt", "cos", "cosh", "digamma", "div", "erf", "erf_inv", "erfc",
        "exp", "exp2", "expm1", "igamma", "igammac", "lgamma", "log", "log1p", "log2",
        "logistic", "pow", "rem", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh", "zeta",
        "polygamma", "random_gamma", "concatenate", "stack", "integer_pow",
    }
)  # fmt: skip

KINDS: dict[str, Kind] = {
    **dict.fromkeys(_ALIASES, Kind.ALIAS),
    **dict.fromkeys(_FUSED, Kind.FUSED),
    **dict.fromkeys(REDUCES, Kind.REDUCE),
    **dict.fromkeys(_IN_PLACE, Kind.IN_PLACE),
    "bitcast_convert_type": Kind.ALIAS,
}


def elements_of(aval: Any) -> int | None:
    """How many elements; ``None`` where a dimension is a name; 0 without a shape."""
    shape = getattr(aval, "shape", None)
    if shape is None:
        return 0
    count = 1
    for size in shape:
        if not isinstance(size, int):
            return None
        count *= size
    return count


def bytes_of(aval: Any) -> int | None:
    """How many bytes; ``None`` where a dimension is a name; 0 of what has no shape."""
    count = elements_of(aval)
    return count and count * getattr(getattr(aval, "dtype", None), "itemsize", 0)


def bytes_of_value(value: Any) -> int:
    """Bytes of an array that a program captured."""
    if isinstance(value, np.ndarray):
        # A subclass may have its own idea of its size.
        return int(np.ndarray.nbytes.__get__(value))
    return int(getattr(value, "nbytes", 0) or 0)


def in_words(value: Any) -> str:
    """``f32[8,64]``-like words for an aval or an array: dtype and shape, no values."""
    dtype = getattr(value, "dtype", None)
    shape = getattr(value, "shape", None)
    if shape is None:
        return type(value).__name__
    return f"{dtype}[{','.join(map(str, shape))}]"


def is_alias(equation: Any, sizes: list[int], ins: list[int]) -> bool:
    """Whether each result is the operand in its place, unchanged in memory."""
    outs = equation.outvars
    return len(outs) == len(ins) and all(
        bytes_of(out.aval) == sizes[number]
        for out, number in zip(outs, ins, strict=True)
    )


def absorbs(equation: Any, kind: Kind, position: int) -> bool:
    """Whether an operation computes this operand itself, element by element."""
    if kind is Kind.FUSED:
        return True
    if kind is Kind.REDUCE:
        # On CPU a reduction that leaves the last dimension is not fused: it would
        # read its operand against the grain.
        rank = len(getattr(equation.invars[0].aval, "shape", ()))
        params = equation.params
        axes = params.get("axes", params.get("dimensions", ()))
        return not axes or rank - 1 in axes
    return position > 0 and equation.primitive.name == "dynamic_update_slice"


def scratch(equation: Any, ins: int, outs: int) -> int:
    """Bytes that an operation needs beside its operands and results.

    Args:
        equation: The operation.
        ins: Bytes of its operands.
        outs: Bytes of its results.
    """
    rule = _SCRATCH.get(equation.primitive.name)
    try:
        return rule(equation, ins, outs) if rule else 0
    except (TypeError, ValueError, LookupError, AttributeError):
        return ins + outs  # not a primitive of JAX, whatever its name is


def _of_dot(equation: Any, ins: int, outs: int) -> int:
    (left, right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    total = 0
    for operand, contract, batch in (
        (equation.invars[0].aval, left, batch_left),
        (equation.invars[1].aval, right, batch_right),
    ):
        rank, n = len(operand.shape), len(batch)
        leading = tuple(batch) == tuple(range(n))
        ends = len(contract) == 1 and contract[0] in (n, rank - 1)
        if not (leading and ends and (n == 0 or rank - n <= 2)) and rank > 2:
            total += bytes_of(operand) or 0
    return total + _widened(equation, ins, outs)


def _widened(equation: Any, ins: int, outs: int) -> int:
    """On CPU products of 16-bit numbers are made of copies with 32."""
    return 2 * (ins + outs) if equation.outvars[0].aval.dtype.itemsize == 2 else 0


def _of_conv(equation: Any, ins: int, outs: int) -> int:
    numbers = equation.params["dimension_numbers"]
    rank = len(numbers.lhs_spec)
    # Batch, space, feature in the operand and the result; space, in, out in the
    # filter. Gradients of filters are laid out otherwise, and copied first.
    image = (0, rank - 1, *range(1, rank - 1))
    filters = (rank - 1, rank - 2, *range(rank - 2))
    if (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) == (
        image,
        filters,
        image,
    ):
        return _widened(equation, ins, outs)
    return 2 * (ins + outs)


def _of_pool_gradient(equation: Any, ins: int, outs: int) -> int:
    """XLA keeps where each maximum was: an index for each dimension."""
    shape = equation.outvars[0].aval.shape
    places = (elements_of(equation.invars[0].aval) or 0) * 4
    return (len(shape) + 1) * (
        places + 4 * (elements_of(equation.outvars[0].aval) or 0)
    )


def _twice_out(equation: Any, ins: int, outs: int) -> int:
    return 2 * outs


def _as_out(equation: Any, ins: int, outs: int) -> int:
    return outs


_SCRATCH: dict[str, Any] = {
    "dot_general": _of_dot,
    "conv_general_dilated": _of_conv,
    "select_and_scatter_add": _of_pool_gradient,
    "select_and_gather_add": _of_pool_gradient,
    "cumsum": _twice_out,
    "cumprod": _twice_out,
    "cummax": _twice_out,
    "cummin": _twice_out,
    "cumlogsumexp": _twice_out,
    "random_bits": _twice_out,
    "threefry2x32": _as_out,
    "qr": _twice_out,
    "eigh": _twice_out,
    "svd": _twice_out,
    "reduce_window": _as_out,
}

NEEDS_SCRATCH = frozenset(_SCRATCH)
