"""Counts floating-point operations, one program at a time, loops multiplied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from safejax.review import _shapes
from safejax.review._walk import Call, Nest, Role, Walk

# More trips than this are as good as without end, and would not fit into a float.
MANY = 1 << 500


class Flops(NamedTuple):
    """How many operations one call of a program takes, estimated.

    Attributes:
        total: The operations. ``while`` loops count once, branches as the largest.
        moved: Elements that are copied without an operation on them. They count in
            the trips of a ``scan``, which may do nothing else for days.
        endless: Whether there is a ``while`` loop, whose trips nobody knows.
        unknown: Equations whose shape has a name in it, not counted.
    """

    total: float
    moved: float
    endless: bool
    unknown: int


def flops_of(walk: Walk) -> Flops:
    """Counts the operations of a program and all in it."""
    known: dict[int, Flops] = {}
    for nest in walk.nests:
        known[id(nest)] = _of_nest(nest, known)
    return known[id(walk.root)]


def _of_nest(nest: Nest, known: dict[int, Flops]) -> Flops:
    count, moved, endless, unknown = 0.0, 0.0, False, 0
    calls = nest.calls
    for at, equation in enumerate(nest.jaxpr.eqns):
        call = calls.get(at)
        if call is not None:
            inner = _of_call(call, known)
            count += inner.total
            moved += inner.moved
            endless |= inner.endless
            unknown += inner.unknown
            continue
        own = operations_of(equation)
        if own is None:
            unknown += 1
        elif own or equation.primitive.name in _RULES:
            count += own
        else:
            moved += _moved_by(equation)
    return Flops(count, moved, endless, unknown)


def _of_call(call: Call, known: dict[int, Flops]) -> Flops:
    nothing = Flops(0.0, 0.0, endless=False, unknown=0)
    inner = [known.get(id(nest), nothing) for nest in call.nested]
    most = max if call.role is Role.COND else sum
    total = most([f.total for f in inner]) if inner else 0.0
    moved = most([f.moved for f in inner]) if inner else 0.0
    unknown = sum(f.unknown for f in inner)
    if call.role is Role.SCAN:
        total, moved = min(call.trips, MANY) * max(1.0, total, moved), 0.0
    elif call.role is Role.EACH:
        elements = elements_for(call.equation)
        unknown += elements is None
        total = (elements or 0.0) * max(1.0, total)
    endless = not call.known or any(f.endless for f in inner)
    return Flops(total, moved, endless, unknown)


def elements_for(equation: Any) -> float | None:
    """For how many elements an equation runs its program for two scalars."""
    own = operations_of(equation)
    if own or own is None:
        return own
    sizes = [_shapes.elements_of(atom.aval) for atom in equation.invars]
    return None if None in sizes else float(max(filter(None, sizes), default=0))


def _moved_by(equation: Any) -> float:
    name = equation.primitive.name
    if _shapes.KINDS.get(name) is _shapes.Kind.ALIAS:
        return 0.0
    # Written in place, what is around it is not touched.
    in_place = name in ("dynamic_update_slice", "swap", "addupdate")
    atoms = equation.invars[1:2] if in_place else equation.outvars
    return float(sum(_shapes.elements_of(atom.aval) or 0 for atom in atoms))


def operations_of(equation: Any) -> float | None:
    """Operations of one equation; ``None`` where its shape has a name in it."""
    rule = _RULES.get(equation.primitive.name)
    if rule is None:
        return 0.0
    try:
        return rule(equation)
    except (TypeError, ValueError, LookupError, AttributeError):
        # A dimension is a name; or a primitive only has the name of one of JAX.
        return None


def _size(atom: Any) -> float:
    count = _shapes.elements_of(atom.aval)
    if count is None:
        raise TypeError
    return float(count)


def _product(sizes: Iterable[Any]) -> float:
    return float(math.prod(sizes))


def _of_result(equation: Any) -> float:
    return sum(_size(out) for out in equation.outvars)


def _of_operand(equation: Any) -> float:
    return _size(equation.invars[0])


def _of_dot(equation: Any) -> float:
    (contracting, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * _size(equation.outvars[0]) * _product(shape[d] for d in contracting)


def _of_conv(equation: Any) -> float:
    numbers = equation.params["dimension_numbers"]
    out_features: int = equation.invars[1].aval.shape[numbers.rhs_spec[0]]
    filters = _size(equation.invars[1]) / max(1, out_features)
    groups: int = equation.params["batch_group_count"]
    return 2.0 * _size(equation.outvars[0]) * filters / max(1, groups)


def _of_fft(equation: Any) -> float:
    lengths = _product(equation.params["fft_lengths"])
    return 5.0 * _size(equation.outvars[0]) * math.log2(max(2, lengths))


def _of_sort(equation: Any) -> float:
    operand = equation.invars[0].aval
    axis = equation.params.get("dimension", -1)
    length: int = operand.shape[axis] if operand.shape else 1
    moved = _size(equation.invars[0]) * len(equation.invars)
    return moved * math.log2(max(2, length))


def _of_sparse(equation: Any) -> float:
    """Each number of a sparse array with a row of the dense one."""
    (_, contracted), (_, batch) = equation.params["dimension_numbers"]
    dense = equation.invars[2].aval.shape
    row = _product(n for d, n in enumerate(dense) if d not in (*contracted, *batch))
    return 2.0 * _size(equation.invars[0]) * row


def _of_window(equation: Any) -> float:
    window = _product(equation.params.get("window_dimensions", ()))
    return _size(equation.outvars[0]) * window


def _cubic(factor: float) -> Callable[[Any], float]:
    def rule(equation: Any) -> float:
        *_, rows, columns = equation.invars[0].aval.shape
        return factor * _size(equation.invars[0]) * float(min(rows, columns))

    return rule


_RULES: dict[str, Callable[[Any], float]] = {
    **dict.fromkeys(_shapes.ARITHMETIC, _of_result),
    **dict.fromkeys(_shapes.REDUCES, _of_operand),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "random_bits"),
        _of_result,
    ),
    **dict.fromkeys(
        (
            "scatter",
            "scatter-add",
            "scatter-mul",
            "scatter-max",
            "scatter-min",
            "scatter-sub",
        ),
        lambda equation: _size(equation.invars[-1]),
    ),
    "dot_general": _of_dot,
    "ragged_dot_general": lambda equation: (
        2.0 * _size(equation.outvars[0]) * equation.invars[0].aval.shape[-1]
    ),
    "bcoo_dot_general": _of_sparse,
    "conv_general_dilated": _of_conv,
    "fft": _of_fft,
    "sort": _of_sort,
    "top_k": _of_sort,
    "reduce_window": _of_window,
    "reduce_window_max": _of_window,
    "reduce_window_min": _of_window,
    "reduce_window_sum": _of_window,
    "select_and_scatter_add": _of_operand,
    "select_and_scatter": _of_operand,
    "cholesky": _cubic(1 / 3),
    "lu": _cubic(2 / 3),
    "qr": _cubic(2.0),
    "geqrf": _cubic(2.0),
    "geqp3": _cubic(2.0),
    "ormqr": _cubic(4.0),
    "symmetric_product": _cubic(2.0),
    "tridiagonal": _cubic(4 / 3),
    "householder_product": _cubic(2.0),
    "triangular_solve": lambda equation: (
        _size(equation.invars[1]) * equation.invars[0].aval.shape[-1]
    ),
    "eigh": _cubic(9.0),
    "eig": _cubic(25.0),
    "schur": _cubic(25.0),
    "hessenberg": _cubic(10 / 3),
    "svd": _cubic(20.0),
}

# Those that take more than an operation for each element of the result.
HEAVY = frozenset(_RULES) - _shapes.ARITHMETIC
