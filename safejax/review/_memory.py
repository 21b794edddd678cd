"""Estimates how much memory a program needs at its peak, before XLA has seen it.

A model of what XLA does with buffers, on the program as it was traced: elementwise
operations are fused into whoever reads them and have no buffer, results take the place
of operands that die, a loop keeps its carry in place. The estimate is made to be too
high rather than too low; docs/review.md has what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from safejax.review import _shapes, _sharding
from safejax.review._books import Books, Buffer, Inner, Peak, Use, uses_of
from safejax.review._flow import Flow, is_written_out, write_out
from safejax.review._walk import Nest, Walk, captured_in

# Temporaries of XLA against those of this model, at most, in the programs of
# benchmarks/bench_review.py: copies with other layouts for matrix products and
# convolutions, broadcasts that are not fused, and an order of operations that is made
# for speed.
MARGIN = 1.3
# Above this, only what has a single caller is written out.
_FEW = 200_000


def peak_of(
    found: Walk,
    *,
    donated: Sequence[bool] = (),
    shardings: Sequence[Any] = (),
    out_shardings: Sequence[Any] = (),
    details: bool = False,
) -> Peak:
    """The estimated peak of a program, arguments and results included.

    Args:
        found: The program.
        donated: Which arguments the program may overwrite.
        shardings: How each argument is laid out over devices, or ``None``.
        out_shardings: How each result is laid out over devices, or ``None``.
        details: Whether to say which buffers are alive, and the curve.
    """
    inner: Inner = {}
    few = found.root.equations <= _FEW
    spread = (shardings, out_shardings) if _is_spread(found, shardings) else None
    wanted: dict[int, set[Use]] = {}
    for nest in found.nests:
        for call in nest.calls.values():
            if not is_written_out(call, few=few):
                for body, use in zip(call.nested, uses_of(call), strict=True):
                    wanted.setdefault(id(body), set()).add(use)
    for nest in found.nests:
        for use in wanted.get(id(nest), ()):
            inner[id(nest), use] = _peak_inside(
                nest, use, inner, few=few, details=details
            )
    raw = _peak_outside(found.root, donated, spread, inner, few=few, details=details)
    constants = [
        Buffer(_shapes.bytes_of_value(c.value), "constant", i, None, c.value)
        for i, c in enumerate(captured_in(found))
    ]
    extra = sum(buffer.size for buffer in constants)
    held = raw.held + extra
    unknown = raw.unknown + sum(peak.unknown for peak in inner.values())
    size = held + round(MARGIN * (raw.size - raw.held))
    largest = max(peak.largest for peak in (raw, *inner.values()))
    if not details:
        return Peak(size, held, unknown, largest)
    alive = sorted((*raw.alive, *constants), key=lambda b: b.size, reverse=True)
    # With the same margin, so that the curve's top is the peak that is reported.
    beyond = [max(0, c - raw.held) for c in raw.curve]
    curve = tuple(
        c + extra + round((MARGIN - 1) * more)
        for c, more in zip(raw.curve, beyond, strict=True)
    )
    return Peak(size, held, unknown, largest, tuple(b for b in alive if b.size), curve)


def _is_spread(found: Walk, shardings: Sequence[Any]) -> bool:
    """Whether anything may be on several devices."""
    names = {p.name for nest in found.nests for p in nest.primitives}
    if "shard_map" in names or "sharding_constraint" in names or "reshard" in names:
        return True
    return any(
        math.prod(_sharding.parts_of(var.aval, sharding)) > 1
        for var, sharding in zip_longest(
            found.root.jaxpr.invars, shardings[: len(found.root.jaxpr.invars)]
        )
    )


def _peak_outside(
    nest: Nest,
    donated: Sequence[bool],
    spread: tuple[Sequence[Any], Sequence[Any]] | None,
    inner: Inner,
    *,
    few: bool,
    details: bool,
) -> Peak:
    flow = Flow()
    inputs = [flow.value(v.aval) for v in nest.jaxpr.invars]
    outs = write_out(nest, flow, inputs, few=few)
    if spread is not None:
        _sharding.divide(flow, inputs, outs, *spread)
    books = Books(flow, inner, inputs=inputs, outputs=outs)
    return books.balance(books.donate(donated), details=details)


def _peak_inside(
    nest: Nest, use: Use, inner: Inner, *, few: bool, details: bool
) -> Peak:
    flow = Flow()
    inputs = [flow.value(v.aval) for v in nest.jaxpr.invars]
    for number in inputs[: use.pinned]:
        flow.size[number] = 0
    carried = inputs[use.pinned : use.pinned + use.carried]
    outs = write_out(nest, flow, inputs, few=few)
    kept = outs[: use.carried] if use.sliced else outs
    books = Books(flow, inner, inputs=carried, outputs=kept)
    books.slices = inputs[use.pinned + use.carried :]
    if use.sliced:
        books.write_into_caller(outs[use.carried :])
    peak = books.balance(0, details=details)
    return peak._replace(size=max(0, peak.size - peak.held))
