"""Bounds on what a program can cost, from one look at each of its equations.

Most programs are far below their budgets, and then this is all it takes: no liveness,
no fusion, every value counted as if it lived to the end. What is above a budget here
is looked at in full.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from safejax.review import _flops, _shapes
from safejax.review._walk import Nest, Role, Walk


class Bounds(NamedTuple):
    """At most so much, calls written out.

    Attributes:
        made: Bytes of all values, those of a loop once, and of what makes them.
        largest: Bytes of the largest of them.
        operations: Floating-point operations.
        unknown: Values and equations whose shape has a name in it.
    """

    made: int
    largest: int
    operations: float
    unknown: int


def bounds_of(found: Walk) -> Bounds:
    """Bounds of a program and all that is nested in it."""
    counts: dict[tuple[Any, ...], int | None] = {}
    known: dict[int, Bounds] = {}
    for nest in found.nests:
        known[id(nest)] = _with_nested(nest, _alone(nest, counts), known)
    return known[id(found.root)]


def _alone(nest: Nest, counts: dict[tuple[Any, ...], int | None]) -> Bounds:
    made = elements = largest = unknown = 0
    for equation in nest.jaxpr.eqns:
        for var in equation.outvars:
            aval = var.aval
            try:
                shape, dtype = aval.shape, aval.dtype
            except AttributeError:  # a token
                continue
            count = counts.get(shape, -1)
            if count == -1:
                count = counts[shape] = _shapes.elements_of(aval)
            if count is None:
                unknown += 1
                continue
            size = count * dtype.itemsize
            elements += count
            made += size
            largest = max(largest, size)
    heavy = [p for p in nest.primitives if p.name in _HEAVY]
    beside, operations, more = _heavy(nest, set(heavy)) if heavy else (0, 0.0, 0)
    return Bounds(made + beside, largest, elements + operations, unknown + more)


_HEAVY = _flops.HEAVY | _shapes.NEEDS_SCRATCH


def _heavy(nest: Nest, heavy: set[Any]) -> tuple[int, float, int]:
    """Scratch, operations and unknown shapes of operations that are not elementwise."""
    beside, operations, unknown = 0, 0.0, 0
    for equation in nest.jaxpr.eqns:
        if equation.primitive in heavy:
            count = _flops.operations_of(equation)
            if count is None:
                unknown += 1
                continue
            operations += count
            if equation.primitive.name in _shapes.NEEDS_SCRATCH:
                ins, outs = map(_size_of, (equation.invars, equation.outvars))
                beside += _shapes.scratch(equation, ins, outs)
    return beside, operations, unknown


def _size_of(atoms: Any) -> int:
    return sum(_shapes.bytes_of(atom.aval) or 0 for atom in atoms)


def _with_nested(nest: Nest, own: Bounds, known: dict[int, Bounds]) -> Bounds:
    made, largest, operations, unknown = own
    nothing = Bounds(0, 0, 0.0, 0)
    for call in nest.calls.values():
        trips = min(call.trips, _flops.MANY)
        for inner in call.nested:
            bounds = known.get(id(inner), nothing)
            # Slices that a loop takes are there beside the array they are taken from.
            slices = 0 if call.role is Role.CALL else _size_of(inner.jaxpr.invars)
            made += bounds.made + call.copies * slices
            if call.role is Role.SCAN:  # results may be there up to 3 times: `Books`
                made += 2 * _size_of(call.equation.outvars)
            largest = max(largest, bounds.largest)
            unknown += bounds.unknown
            if call.role is Role.EACH:
                elements = _flops.elements_for(call.equation)
                unknown += elements is None
                operations += (elements or 0.0) * bounds.operations
            else:
                operations += trips * max(1.0, bounds.operations)
    return Bounds(made, largest, operations, unknown)
