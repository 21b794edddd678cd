"""Writes a program out as operations on numbered values, with calls written out.

Loops and branches stay single operations; their programs are written out on their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safejax import _jax
from safejax.review import _shapes
from safejax.review._shapes import KINDS, Kind
from safejax.review._walk import Call, Nest, Role

# A nested program is written out where it is called if it is that small, or has no
# other callers; else its own peak is added to its caller's. Keeps the work near the
# size of the program where few functions are called very often.
_WRITTEN_OUT = 256
# How many of the calls around an operation are kept, to find a line of the user's.
_SHOWN = 8


class Op:
    """One operation after calls are written out. Values are numbers."""

    __slots__ = ("around", "call", "equation", "ins", "kind", "outs")

    def __init__(
        self,
        equation: Any,
        kind: Kind,
        ins: list[int],
        call: Call | None,
        around: tuple[Any, ...],
    ) -> None:
        self.equation = equation
        self.kind = kind
        self.ins = ins
        self.outs: list[int] = []
        self.call = call
        self.around = around  # the calls it is in, the innermost first


class Flow:
    """The operations of one program, and the values between them, by number."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.size: list[int] = []
        self.aval: list[Any] = []
        self.readers: list[int] = []
        self.fusable: list[bool] = []
        self.unknown = 0

    def value(self, aval: Any) -> int:
        size = _shapes.bytes_of(aval)
        if size is None:
            self.unknown += 1
            size = 0
        self.size.append(size)
        self.aval.append(aval)
        self.readers.append(0)
        self.fusable.append(True)
        return len(self.size) - 1

    def number(self, atom: Any, env: dict[Any, int]) -> int:
        return self.value(atom.aval) if isinstance(atom, _jax.Literal) else env[atom]

    def add(self, op: Op) -> None:
        op.outs = [self.value(v.aval) for v in op.equation.outvars]
        self.ops.append(op)
        fusable, readers, kind = self.fusable, self.readers, op.kind
        for at, read in enumerate(op.ins):
            readers[read] += 1
            if kind is not Kind.FUSED and not _shapes.absorbs(op.equation, kind, at):
                fusable[read] = False


class _Frame:
    """A program that is being written out."""

    __slots__ = ("around", "env", "equations", "nest", "returns_to")

    def __init__(
        self, nest: Nest, inputs: Sequence[int], flow: Flow, around: tuple[Any, ...]
    ) -> None:
        jaxpr = nest.jaxpr
        self.nest = nest
        self.around = around
        self.env: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var in jaxpr.constvars:
            self.env[var] = flow.value(None)  # constants are counted once, elsewhere
        self.equations = iter(enumerate(jaxpr.eqns))
        self.returns_to: Any = None


def write_out(nest: Nest, flow: Flow, inputs: Sequence[int], *, few: bool) -> list[int]:
    """Turns a program into operations, calls replaced by what they call."""
    stack = [_Frame(nest, inputs, flow, ())]
    while True:
        frame = stack[-1]
        call = _until_call(frame, flow, few=few)
        if call is not None:
            frame.returns_to = call.equation
            given = [flow.number(v, frame.env) for v in call.equation.invars]
            around = (call.equation, *frame.around)
            stack.append(_Frame(call.nested[0], given, flow, around[:_SHOWN]))
            continue
        outs = [flow.number(v, frame.env) for v in frame.nest.jaxpr.outvars]
        stack.pop()
        if not stack:
            return outs
        above = stack[-1]
        above.env.update(zip(above.returns_to.outvars, outs, strict=True))


def _until_call(frame: _Frame, flow: Flow, *, few: bool) -> Call | None:
    """Goes on with a program until it calls another, or to its end."""
    env, calls = frame.env, frame.nest.calls
    for at, equation in frame.equations:
        call = calls.get(at)
        if call is None:
            kind = KINDS.get(equation.primitive.name, Kind.BUFFER)
        elif is_written_out(call, few=few):
            return call
        else:
            kind = KINDS.get(equation.primitive.name, Kind.NESTED)
        literal = _jax.Literal
        ins = [env[v] for v in equation.invars if type(v) is not literal]
        if kind is Kind.ALIAS and _shapes.is_alias(equation, flow.size, ins):
            env.update(zip(equation.outvars, ins, strict=True))
            continue
        if kind is Kind.ALIAS:
            kind = Kind.FUSED
        op = Op(equation, kind, ins, call, frame.around)
        flow.add(op)
        for var, number in zip(equation.outvars, op.outs, strict=True):
            env[var] = number
    return None


def is_written_out(call: Call, *, few: bool) -> bool:
    """Whether a call is replaced by the operations of the program it calls."""
    if call.role is not Role.CALL:
        return False
    inner = call.nested[0]
    return inner.users == 1 or (few and inner.equations <= _WRITTEN_OUT)
