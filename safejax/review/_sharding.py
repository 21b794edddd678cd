"""How arrays are spread over devices, as far as the program as traced tells.

Layouts of arguments and results are known, those of explicitly sharded types and of
``shard_map`` too. In between they are followed through operations that keep dimensions
as they are. Where that ends an array counts in full, also inside loops: the estimate
may be too high by the number of devices, never too low because of a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from safejax import _jax
from safejax.review import _shapes
from safejax.review._flow import Flow, Op

# Into how many parts each dimension of an array is cut.
Parts = tuple[int, ...]


def parts_of(aval: Any, sharding: Any = None) -> Parts:
    """How an array is cut by its sharding, or by its type; ones where unknown."""
    shape = tuple(getattr(aval, "shape", ()))
    sharding = sharding or getattr(aval, "sharding", None)
    if sharding is None or not _shapes.elements_of(aval):
        return (1,) * len(shape)
    try:
        part = sharding.shard_shape(shape)
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        return (1,) * len(shape)
    return tuple(whole // max(1, n) for whole, n in zip(shape, part, strict=True))


def divide(
    flow: Flow,
    inputs: Sequence[int],
    outputs: Sequence[int],
    shardings: Sequence[Any],
    out_shardings: Sequence[Any],
) -> None:
    """Divides the sizes of values by the number of devices that share them."""
    parts: dict[int, Parts] = {}
    for at, number in enumerate(inputs):
        sharding = shardings[at] if at < len(shardings) else None
        parts[number] = parts_of(flow.aval[number], sharding)
    for op in flow.ops:
        _follow(op, flow, parts)
    for at, number in enumerate(outputs):
        if at < len(out_shardings) and out_shardings[at] is not None:
            parts[number] = parts_of(flow.aval[number], out_shardings[at])
    for number, cut in parts.items():
        flow.size[number] //= max(1, math.prod(cut))


def _follow(op: Op, flow: Flow, parts: dict[int, Parts]) -> None:
    equation = op.equation
    if equation.primitive.name == "shard_map" and op.call is not None:
        _follow_shard_map(op, flow, parts)
        return
    cuts = _operand_cuts(op, flow, parts)
    for number, var in zip(op.outs, equation.outvars, strict=True):
        cut = parts_of(var.aval)
        if cuts and max(cut, default=1) == 1:
            rule = _RULES.get(equation.primitive.name, _kept)
            cut = rule(equation, cuts, tuple(getattr(var.aval, "shape", ())))
        if max(cut, default=1) > 1:
            parts[number] = cut


def _operand_cuts(
    op: Op, flow: Flow, parts: dict[int, Parts]
) -> list[tuple[tuple[int, ...], Parts]]:
    """Shape and cut of each operand as the equation sees it; reshapes are undone."""
    cuts = []
    read = iter(op.ins)
    for var in op.equation.invars:
        shape = tuple(getattr(var.aval, "shape", ()))
        cut: Parts = (1,) * len(shape)
        if type(var) is not _jax.Literal:
            number = next(read)
            known = parts.get(number, ())
            before = tuple(getattr(flow.aval[number], "shape", ()))
            if before == shape and known:
                cut = known
            elif known and shape and set(known[1:]) <= {1} and not shape[0] % known[0]:
                # Reshaped behind its first dimension, the only one that is cut.
                cut = (known[0], *cut[1:])
        cuts.append((shape, cut))
    return cuts


def _follow_shard_map(op: Op, flow: Flow, parts: dict[int, Parts]) -> None:
    body = op.call.nested[0].jaxpr if op.call and op.call.nested else None
    if body is None or len(body.invars) != len(op.ins):
        return
    for number, var in zip(op.ins, body.invars, strict=True):
        _share(number, flow, var.aval, parts)
    for number, var in zip(op.outs, body.outvars, strict=True):
        _share(number, flow, var.aval, parts)


def _share(number: int, flow: Flow, local: Any, parts: dict[int, Parts]) -> None:
    whole, part = _shapes.elements_of(flow.aval[number]), _shapes.elements_of(local)
    if whole and part and whole > part:
        known = parts.get(number, ())
        parts[number] = max(known, (whole // part,), key=math.prod)


_Cuts = Sequence[tuple[tuple[int, ...], Parts]]


def _kept(_equation: Any, cuts: _Cuts, shape: tuple[int, ...]) -> Parts:
    """Results shaped like an operand are cut like it."""
    alike = [cut for operand, cut in cuts if operand == shape]
    return tuple(max(column) for column in zip(*alike, strict=True)) if alike else ()


def _broadcast(equation: Any, cuts: _Cuts, shape: tuple[int, ...]) -> Parts:
    operand, cut = cuts[0]
    new = [1] * len(shape)
    for at, to in enumerate(equation.params["broadcast_dimensions"]):
        if operand[at] == shape[to]:
            new[to] = cut[at]
    return tuple(new)


def _transpose(equation: Any, cuts: _Cuts, _shape: tuple[int, ...]) -> Parts:
    return tuple(cuts[0][1][at] for at in equation.params["permutation"])


def _reduce(equation: Any, cuts: _Cuts, _shape: tuple[int, ...]) -> Parts:
    axes = equation.params.get("axes", equation.params.get("dimensions", ()))
    return tuple(n for at, n in enumerate(cuts[0][1]) if at not in axes)


def _dot(equation: Any, cuts: _Cuts, _shape: tuple[int, ...]) -> Parts:
    (left, right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    (_, a), (_, b) = cuts
    batch = [max(a[i], b[j]) for i, j in zip(batch_left, batch_right, strict=True)]
    free_a = [n for at, n in enumerate(a) if at not in (*left, *batch_left)]
    free_b = [n for at, n in enumerate(b) if at not in (*right, *batch_right)]
    if math.prod(free_a) > 1 and math.prod(free_b) > 1:
        free_b = [1] * len(free_b)  # one mesh axis can't cut both
    return (*batch, *free_a, *free_b)


def _conv(equation: Any, cuts: _Cuts, shape: tuple[int, ...]) -> Parts:
    numbers = equation.params["dimension_numbers"]
    new = [1] * len(shape)
    new[numbers.out_spec[0]] = cuts[0][1][numbers.lhs_spec[0]]
    return tuple(new)


_RULES: dict[str, Callable[[Any, _Cuts, tuple[int, ...]], Parts]] = {
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    **dict.fromkeys(_shapes.REDUCES, _reduce),
}
