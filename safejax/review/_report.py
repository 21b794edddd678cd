"""Makes the report of a traced program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from safejax import _jax
from safejax.guard._policy import Policy
from safejax.review import _flops, _memory, _refused, _shapes, _sources
from safejax.review._advice import advice_on
from safejax.review._books import Buffer
from safejax.review._records import (
    POINTS,
    ProgramReport,
    ReportedArray,
    ReportedBuffer,
    ReportedItem,
    ReportedLoop,
    plain,
)
from safejax.review._walk import LOOPS, Constant, Walk, captured_in, walk

# Of what a page shows; the rest is in the sums.
_MOST = 1000
_LARGEST = 1e300


def report_of(
    program: Any,
    *,
    function: str,
    donated: Sequence[bool] | None = None,
    names: Sequence[str] | None = None,
    policies: Sequence[Policy] = (Policy.strict(),),
) -> ProgramReport:
    """What a traced program would cost.

    Args:
        program: What ``jax.jit(f).trace(...)`` returned, or the program in it.
        function: The name of the function.
        donated: Which flat arguments the program may overwrite; as traced, if absent.
        names: Names of the flat arguments; as traced, if absent.
        policies: What its primitives are held against.
    """
    found = walk(_jax.program_of(program))
    donated = _jax.donated_of(program) if donated is None else donated
    names = _jax.argument_names(program) if names is None else names
    peak = _memory.peak_of(
        found,
        donated=donated,
        shardings=_jax.shardings_of(program),
        out_shardings=_jax.out_shardings_of(program),
        details=True,
    )
    flops = _flops.flops_of(found)
    inputs = tuple(_inputs(found, donated, names))
    outputs = tuple(
        _array(f"result {at}", var.aval)
        for at, var in enumerate(found.root.jaxpr.outvars)
    )
    lines = _sources.heaviest(_sources.weighed(found, _each_counts, loops=False))
    return ProgramReport(
        function=function,
        equations=found.root.equations,
        primitives=_primitives(found),
        inputs=inputs,
        outputs=outputs,
        constants=tuple(map(_constant, captured_in(found))),
        peak_bytes=peak.size,
        held_bytes=peak.held,
        alive=tuple(_buffer(b, inputs) for b in peak.alive[:_MOST]),
        curve=_thinned(peak.curve),
        flops=min(flops.total, _LARGEST),
        flops_are_exact=not (flops.endless or flops.unknown),
        loops=tuple(_loops(found))[:_MOST],
        loop_nesting=found.root.loops,
        depth=found.root.depth,
        refused=tuple(
            ReportedItem(
                name=r.name, verdict=r.verdict, path=r.path, source=r.source.short
            )
            for r in _refused.refused_in(found, policies)
        ),
        uncounted=peak.unknown,
        advice=advice_on(peak, inputs=inputs, outputs=outputs, heaviest=lines),
    )


def _each_counts(_equation: Any, _holds: bool) -> float:  # noqa: FBT001
    return 1.0


def _inputs(
    found: Walk, donated: Sequence[bool], names: Sequence[str]
) -> Iterator[ReportedArray]:
    for at, var in enumerate(found.root.jaxpr.invars):
        name = names[at] if at < len(names) and names[at] else f"argument {at}"
        yield _array(name, var.aval, donated=at < len(donated) and bool(donated[at]))


def _array(name: str, aval: Any, *, donated: bool = False) -> ReportedArray:
    return ReportedArray(
        name=name,
        dtype=str(getattr(aval, "dtype", type(aval).__name__)),
        shape=tuple(map(plain, getattr(aval, "shape", ()))),
        nbytes=_shapes.bytes_of(aval),
        donated=donated,
    )


def _constant(constant: Constant) -> ReportedArray:
    """A captured array, named by the first line that uses it."""
    atom = constant.atom
    users = (
        e for e in constant.jaxpr.eqns if e is atom or any(v is atom for v in e.invars)
    )
    line = _sources.source_of(next(users, None)).short
    return ReportedArray(
        name=f"captured at {line}",
        dtype=str(getattr(constant.value, "dtype", type(constant.value).__name__)),
        shape=tuple(getattr(constant.value, "shape", ())),
        nbytes=_shapes.bytes_of_value(constant.value),
    )


def _buffer(buffer: Buffer, inputs: Sequence[ReportedArray]) -> ReportedBuffer:
    name = buffer.what
    if buffer.what == "argument":
        name = inputs[buffer.position].name
    elif buffer.equation is not None:
        name = buffer.equation.primitive.name
    source = _sources.source_of_first((buffer.equation, *buffer.around))
    return ReportedBuffer(
        nbytes=buffer.size,
        kind=buffer.what,
        name=name,
        dtype=str(getattr(buffer.aval, "dtype", "")),
        shape=tuple(map(plain, getattr(buffer.aval, "shape", ()))),
        source=source.short if buffer.equation is not None else "",
    )


def _thinned(curve: Sequence[int]) -> tuple[int, ...]:
    step = -(-len(curve) // POINTS) or 1
    return tuple(max(curve[at : at + step]) for at in range(0, len(curve), step))


def _primitives(found: Walk) -> dict[str, int]:
    times = _sources.times_of(found, loops=False)
    counts: Counter[str] = Counter()
    for nest in found.nests:
        here = round(min(times.get(id(nest), 0.0), _LARGEST))
        for equation in nest.jaxpr.eqns:
            counts[equation.primitive.name] += here
    return dict(counts.most_common())


def _loops(found: Walk) -> Iterator[ReportedLoop]:
    around: dict[int, int] = {}
    for nest in reversed(found.nests):
        outside = around.get(id(nest), 0)
        for call in nest.calls.values():
            kind = call.equation.primitive.name
            here = outside + (kind in LOOPS)
            for inner in call.nested:
                around[id(inner)] = max(here, around.get(id(inner), 0))
            if kind in LOOPS:
                yield ReportedLoop(
                    kind=kind,
                    trips=call.trips if call.known else None,
                    nesting=here,
                    equations=sum(inner.equations for inner in call.nested),
                    source=_sources.source_of(call.equation).short,
                )
