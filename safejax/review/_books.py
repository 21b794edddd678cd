"""Keeps account of the buffers of one program, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from safejax.review import _shapes
from safejax.review._flow import Flow, Op
from safejax.review._shapes import Kind
from safejax.review._walk import Call, Nest, Role

_NEVER = 1 << 62


class Buffer(NamedTuple):
    """An array that is alive at the peak.

    Attributes:
        size: Its bytes.
        what: ``"argument"``, ``"output"``, ``"constant"``, ``"temporary"``, or
            ``"copy"`` for what an operation needs beside its operands and results.
        position: Which argument or output it is, else -1.
        equation: What made it; ``None`` for arguments and constants.
        aval: Its shape and dtype.
        around: The calls that the equation is in, the innermost first.
    """

    size: int
    what: str
    position: int
    equation: Any
    aval: Any
    around: tuple[Any, ...] = ()


class Peak(NamedTuple):
    """The highest point of a program.

    Attributes:
        size: Bytes at the peak; of a nested program, without what its caller holds.
        held: How much of it is arguments, results and constants.
        unknown: Buffers whose size has a name in it, not counted.
        largest: Bytes of the largest value, in case it is not fused after all.
        alive: The buffers at the peak, the largest first; empty if not asked for.
        curve: Bytes alive at each operation, in order; empty if not asked for.
    """

    size: int
    held: int
    unknown: int
    largest: int
    alive: tuple[Buffer, ...] = ()
    curve: tuple[int, ...] = ()


class Use(NamedTuple):
    """How the inputs of a nested program are held by what runs it.

    Attributes:
        pinned: How many the caller keeps.
        carried: How many come next that the program may overwrite: they are its
            first results at its end.
        sliced: Whether the rest are slices of an array, and the results after the
            carried ones are written into one.
    """

    pinned: int
    carried: int
    sliced: bool


Inner = dict[tuple[int, Use], Peak]


def uses_of(call: Call) -> list[Use]:
    """How the programs of an equation are run."""
    if call.role is Role.SCAN:
        return [_use_of_scan(call.equation, nest) for nest in call.nested]
    if call.role is Role.WHILE and len(call.nested) == 2:
        carried = len(call.equation.outvars)
        condition, body = call.nested
        return [
            Use(len(condition.jaxpr.invars), 0, sliced=False),
            Use(len(body.jaxpr.invars) - carried, carried, sliced=False),
        ]
    return [Use(len(nest.jaxpr.invars), 0, sliced=False) for nest in call.nested]


def _use_of_scan(equation: Any, body: Nest) -> Use:
    """Told by ranks: JAX 0.10 and 0.12 write it down differently."""
    carried = sum(
        _rank(outer) == _rank(inner)
        for outer, inner in zip(equation.outvars, body.jaxpr.outvars, strict=True)
    )
    sliced = sum(
        _rank(outer) != _rank(inner)
        for outer, inner in zip(equation.invars, body.jaxpr.invars, strict=True)
    )
    return Use(len(body.jaxpr.invars) - carried - sliced, carried, sliced=True)


def _rank(atom: Any) -> int:
    return len(getattr(atom.aval, "shape", ()))


class Books:
    """Goes through the operations of one program and keeps account of its buffers."""

    def __init__(
        self, flow: Flow, inner: Inner, *, inputs: list[int], outputs: list[int]
    ) -> None:
        self._flow = flow
        self._inner = inner
        self._inputs = inputs
        self._outputs = outputs
        # Inputs that stay to the end, and results with memory of their own from the
        # beginning on: XLA gives them to nobody else.
        self.kept: set[int] = set()
        self.reserved: set[int] = set()
        self.slices: list[int] = []
        self._last = [-1] * len(flow.size)
        self._made = [_NEVER] * len(flow.size)
        for number in outputs:
            self._last[number] = _NEVER
            flow.fusable[number] = False

    def write_into_caller(self, numbers: list[int]) -> None:
        """Results that are copied into an array of the caller when they are made."""
        for number in numbers:
            self._last[number] = max(self._last[number], 0)

    def donate(self, donated: Sequence[bool]) -> int:
        """Settles which inputs the results replace; bytes of results without one."""
        size = self._flow.size
        results = sorted(size[n] for n in self._outputs)
        for at, number in enumerate(self._inputs):
            if not (at < len(donated) and donated[at]):
                self.kept.add(number)
            elif size[number] in results:
                results.remove(size[number])
                self.kept.add(number)
        self.reserved = set(self._outputs)
        return sum(results)

    def _is_virtual(self, op: Op) -> bool:
        """Whether an operation has no buffer: whoever reads it computes it."""
        if op.kind is not Kind.FUSED:
            return False
        fusable, readers = self._flow.fusable, self._flow.readers
        for number in op.outs:
            if not fusable[number] or (
                readers[number] > 1 and op.equation.primitive.name in _shapes.EXPENSIVE
            ):
                return False
        return True

    def _find_last_reads(self) -> None:
        """When each value is read last, by what has a buffer."""
        last, made, ops = self._last, self._made, self._flow.ops
        for at in range(len(ops) - 1, -1, -1):
            op = ops[at]
            when = -1
            for number in op.outs:
                when = max(when, last[number])
            if when < 0 and not op.equation.effects:
                continue  # nobody reads it: XLA drops it
            if not self._is_virtual(op):
                when = at
                for number in op.outs:
                    made[number] = at
                    last[number] = max(last[number], at)
            for number in op.ins:
                last[number] = max(last[number], when)

    def balance(self, held_results: int, *, details: bool) -> Peak:
        """Finds the peak.

        Args:
            held_results: Bytes of results that are there from the beginning on.
            details: Whether to keep the curve and the buffers at the peak.
        """
        self._find_last_reads()
        flow, last, made, reserved = self._flow, self._last, self._made, self.reserved
        size, ends = flow.size, self._at_start()
        live = held_results + sum([size[n] for n in self._inputs if made[n] < 0])
        held = live
        live += sum([size[n] for n in self.slices if made[n] < 0])
        peak, peak_at = live, -1
        curve = [live]
        for at, op in enumerate(flow.ops):
            outs = [n for n in op.outs if made[n] == at]
            dying = ends.pop(at, None)
            if outs:
                above = live + self._beside(op, outs)
                fresh = [n for n in outs if n not in reserved] if reserved else outs
                for n in fresh:
                    live += size[n]
                    above += size[n]
                    if last[n] != _NEVER:
                        if last[n] == at:
                            dying = [*(dying or ()), n]
                        else:
                            ends.setdefault(last[n], []).append(n)
                if dying and op.kind >= Kind.FUSED and op.kind is not Kind.REDUCE:
                    above -= _replaced(size, fresh, dying)
                if above > peak:
                    peak, peak_at = above, at
                if details:
                    curve.append(above)
            for n in dying or ():
                live -= size[n]
        alive = self._alive(peak_at) if details else ()
        return Peak(
            peak,
            held,
            flow.unknown,
            max(size, default=0),
            alive,
            tuple(curve) if details else (),
        )

    def _at_start(self) -> dict[int, list[int]]:
        """Marks the inputs that are read at all; when those that may go are free."""
        last, made = self._last, self._made
        ends: dict[int, list[int]] = {}
        for number in self._inputs:
            if last[number] >= 0:
                made[number] = -1
                if number not in self.kept and last[number] != _NEVER:
                    ends.setdefault(last[number], []).append(number)
        for number in self.slices:
            if last[number] >= 0 and not self._flow.fusable[number]:
                made[number] = -1
                ends.setdefault(last[number], []).append(number)
        return ends

    def _beside(self, op: Op, outs: list[int]) -> int:
        """Bytes that an operation needs beside its operands and results."""
        if op.call is None:
            if op.kind is not Kind.BUFFER:
                return 0
            size = self._flow.size
            ins = sum([size[n] for n in op.ins])
            return _shapes.scratch(op.equation, ins, sum([size[n] for n in outs]))
        most = max([peak.size for peak in self._inner_peaks(op)], default=0)
        if op.call.role is Role.SCAN:
            return most + self._shared_zeros(op) + _slices_of(op.call)
        if op.call.role is Role.WHILE:
            return most
        return max(0, most - sum([self._flow.size[n] for n in outs]))

    def _inner_peaks(self, op: Op) -> list[Peak]:
        if op.call is None:
            return []
        return [
            self._inner[id(nest), use]
            for nest, use in zip(op.call.nested, uses_of(op.call), strict=True)
        ]

    def _shared_zeros(self, op: Op) -> int:
        """XLA fills one array with zeros and copies it for each result like it."""
        bodies = op.call.nested if op.call else ()
        sizes = [
            self._flow.size[n]
            for body in bodies
            for n, outer, inner in zip(
                op.outs, op.equation.outvars, body.jaxpr.outvars, strict=True
            )
            if _rank(outer) != _rank(inner)
        ]
        return max((n for n in set(sizes) if sizes.count(n) > 1), default=0)

    def _alive(self, at: int) -> tuple[Buffer, ...]:
        """What there is in memory while one operation runs."""
        flow, last, made = self._flow, self._last, self._made
        makers = {n: op for op in flow.ops for n in op.outs}
        outputs = {n: i for i, n in enumerate(self._outputs)}
        inputs = {n: i for i, n in enumerate(self._inputs)}
        found = []
        for n, size in enumerate(flow.size):
            there = made[n] <= at <= last[n] or (n in self.kept and made[n] < 0)
            what, position = "temporary", -1
            if n in inputs:
                what, position = "argument", inputs[n]
            elif n in outputs:
                there = there or n in self.reserved
                what, position = "output", outputs[n]
            if there:
                op, aval = makers.get(n), flow.aval[n]
                buffer = Buffer(size, what, position, None, aval)
                if op is not None:
                    buffer = Buffer(size, what, position, op.equation, aval, op.around)
                found.append(buffer)
        if at >= 0:
            found.extend(self._alive_inside(flow.ops[at]))
        return tuple(found)

    def _alive_inside(self, op: Op) -> list[Buffer]:
        peaks = self._inner_peaks(op)
        around = (op.equation, *op.around)
        if peaks:
            most = max(peaks, key=lambda peak: peak.size)
            return [
                b._replace(what="temporary", position=-1, around=(*b.around, *around))
                for b in most.alive
            ]
        beside = self._beside(op, op.outs)
        return [Buffer(beside, "copy", -1, op.equation, None, around)] if beside else []


def _slices_of(loop: Call) -> int:
    """XLA keeps the slices of an unrolled loop beside the arrays they are parts of."""
    if loop.copies == 1:
        return 0
    (body,), equation = loop.nested, loop.equation
    pairs = (
        *zip(equation.invars, body.jaxpr.invars, strict=True),
        *zip(equation.outvars, body.jaxpr.outvars, strict=True),
    )
    return loop.copies * sum(
        _shapes.bytes_of(inner.aval) or 0
        for outer, inner in pairs
        if _rank(outer) != _rank(inner)
    )


def _replaced(size: list[int], outs: list[int], dying: Sequence[int]) -> int:
    """Bytes of results that take the place of operands that die."""
    free = [size[n] for n in dying if n not in outs]
    total = 0
    for number in outs:
        if size[number] in free:
            free.remove(size[number])
            total += size[number]
    return total
