"""Refuses programs that go beyond their budget or hold what no policy admits.

Only what is limited is looked at; a message names the lines that weigh most, and what
it takes to find them is done only when there is a message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from safejax import _jax
from safejax.errors import ProgramRejectedError
from safejax.guard._policy import Policy
from safejax.limits import Limits
from safejax.review import _flops, _log, _memory, _refused, _shapes
from safejax.review import _sources as _src
from safejax.review._books import Peak
from safejax.review._bounds import Bounds, bounds_of
from safejax.review._walk import LOOPS, Constant, Walk, captured_in, walk, weight_of

_BUDGETS = (
    "max_equations",
    "max_constant_bytes",
    "max_output_bytes",
    "max_memory_bytes",
    "max_flops",
    "max_loop_nesting",
)
# A value that is computed element by element, where it is read, needs no memory. That
# much larger than the budget it is refused all the same: whether it is fused, XLA says.
_FUSED_AT_MOST = 64


def judge(
    program: Any, *, function: str, limits: Limits, policies: Sequence[Policy]
) -> None:
    """Refuses a traced program that its limits or its policies don't admit.

    Args:
        program: What ``jax.jit(f).trace(...)`` returned, or the program in it.
        function: The name of the function, for messages.
        limits: Its budgets; those that are ``None`` cost nothing.
        policies: What its primitives are held against; all must admit them, and with
            none they are not looked at.

    Raises:
        ProgramRejectedError: ``SJ401``, a primitive; ``SJ403`` and ``SJ405`` to
            ``SJ409``, a budget.
    """
    if not policies and all(getattr(limits, name) is None for name in _BUDGETS):
        return
    court = _Court(program, function, limits)
    court.end()
    # Sizes first: they bound what the others cost.
    court.equations()
    court.nesting()
    if policies:
        court.primitives(policies)
    court.constants()
    court.outputs()
    court.flops()
    court.memory()


class _Court:
    """One program before its budgets."""

    def __init__(self, program: Any, function: str, limits: Limits) -> None:
        self._program = program
        self._function = function
        self._limits = limits
        self._constants: list[Constant] | None = None
        self._found: Walk = walk(_jax.program_of(program))
        needs_bounds = (
            limits.max_flops is not None or limits.max_memory_bytes is not None
        )
        self._bounds = bounds_of(self._found) if needs_bounds else None

    def end(self) -> None:
        if self._found.endless:
            raise ProgramRejectedError(
                f"{self._function}() refused: a program that holds itself",
                code="SJ401",
                details={"function": self._function, "items": []},
            )

    def equations(self) -> None:
        limit, got = self._limits.max_equations, self._found.root.equations
        if limit is not None and got > limit:
            raise self._over(
                "max_equations",
                "SJ403",
                got,
                f"{got:,} equations",
                lambda equation, _holds: weight_of(equation),
                hint="use lax.scan or lax.fori_loop instead of a Python loop",
            )

    def nesting(self) -> None:
        limit, got = self._limits.max_loop_nesting, self._found.root.loops
        if limit is not None and got > limit:
            raise self._over(
                "max_loop_nesting",
                "SJ409",
                got,
                f"{got} loops inside one another",
                lambda equation, _holds: equation.primitive.name in LOOPS,
            )

    def primitives(self, policies: Sequence[Policy]) -> None:
        refused = []
        for item in _refused.refused_in(self._found, policies):
            if item.verdict == "log":
                _log.admitted(self._function, "primitive", item.path)
            else:
                refused.append(item)
        if not refused:
            return
        places = [f"{item.path} ({item.source.short})" for item in refused]
        names = ", ".join(sorted({repr(item.name) for item in refused}))
        raise ProgramRejectedError(
            f"{self._function}() refused: not admitted: {'; '.join(places)}",
            code="SJ401",
            details={
                "function": self._function,
                "items": [item.as_data() for item in refused],
            },
            hint=f"a policy admits it with Policy(allow_primitives={{{names}}})",
        )

    def constants(self) -> None:
        limit = self._limits.max_constant_bytes
        if limit is None:
            return
        values = [constant.value for constant in self._captured()]
        got = sum(map(_shapes.bytes_of_value, values))
        if got > limit:
            largest = sorted(values, key=_shapes.bytes_of_value)[:-4:-1]
            shown = ", ".join(map(_shapes.in_words, largest))
            raise ProgramRejectedError(
                f"{self._function}() refused: max_constant_bytes={limit:,}: "
                f"{len(values)} captured arrays of {got:,} bytes; the largest: {shown}",
                code="SJ405",
                details={
                    "function": self._function,
                    "limit": limit,
                    "got": got,
                    "constants": [_shapes.in_words(c) for c in largest],
                },
                hint="pass these arrays as arguments",
            )

    def outputs(self) -> None:
        limit = self._limits.max_output_bytes
        if limit is None:
            return
        atoms = self._found.root.jaxpr.outvars
        sizes = [_shapes.bytes_of(atom.aval) for atom in atoms]
        if None in sizes:
            raise self._uncountable("max_output_bytes", "SJ406")
        got = sum(size or 0 for size in sizes)
        if got > limit:
            results = {id(atom) for atom in atoms}
            raise self._over(
                "max_output_bytes",
                "SJ406",
                got,
                f"{got:,} bytes of results",
                lambda equation, _holds: sum(
                    _shapes.bytes_of(v.aval) or 0
                    for v in equation.outvars
                    if id(v) in results
                ),
                show=_src.bytes_in_words,
            )

    def flops(self) -> None:
        limit, bounds = self._limits.max_flops, self._bounds
        if limit is None or bounds is None:
            return
        if bounds.operations <= limit and not bounds.unknown:
            return
        flops = _flops.flops_of(self._found)
        if flops.unknown:
            raise self._uncountable("max_flops", "SJ408")
        if flops.total > limit:
            raise self._over(
                "max_flops",
                "SJ408",
                flops.total,
                f"{flops.total:.3g} floating-point operations",
                lambda equation, holds: (
                    0.0 if holds else _flops.operations_of(equation) or 0.0
                ),
                loops=True,
                show=lambda count: f"{count:.3g}",
            )

    def memory(self) -> None:
        limit, bounds = self._limits.max_memory_bytes, self._bounds
        if limit is None or bounds is None:
            return
        if self._is_small(bounds, limit):
            return
        got = self._peak(details=False)
        if got.unknown:
            raise self._uncountable("max_memory_bytes", "SJ407")
        if got.largest > _FUSED_AT_MOST * limit:
            raise self._too_large(got.largest, limit)
        if got.size > limit:
            largest = self._peak(details=True).alive[:3]
            lines = [
                (_src.source_of_first((b.equation, *b.around)), b.size) for b in largest
            ]
            shown = [
                f"{_shapes.in_words(b.aval) if b.aval is not None else b.what} of "
                f"{s.short if b.equation else 'the ' + b.what + 's'} ({b.size:,})"
                for b, (s, _) in zip(largest, lines, strict=True)
            ]
            raise ProgramRejectedError(
                f"{self._function}() refused: max_memory_bytes={limit:,}: "
                f"an estimated {got.size:,} bytes at the peak; "
                f"heaviest: {', '.join(shown)}",
                code="SJ407",
                details={
                    "function": self._function,
                    "limit": limit,
                    "got": got.size,
                    "sources": _src.as_data(lines),
                },
                hint="its .review() says which buffers are alive at the peak",
            )

    def _is_small(self, bounds: Bounds, limit: int) -> bool:
        """Whether everything at once, without looking at when it dies, would fit."""
        jaxpr = self._found.root.jaxpr
        sizes = [
            _shapes.bytes_of(atom.aval) for atom in (*jaxpr.invars, *jaxpr.outvars)
        ]
        if bounds.unknown or None in sizes:
            return False
        captured = sum(_shapes.bytes_of_value(c.value) for c in self._captured())
        held = captured + sum(size or 0 for size in sizes)
        return held + _memory.MARGIN * bounds.made <= limit

    def _captured(self) -> list[Constant]:
        if self._constants is None:
            self._constants = captured_in(self._found)
        return self._constants

    def _too_large(self, size: int, limit: int) -> ProgramRejectedError:
        return self._over(
            "max_memory_bytes",
            "SJ407",
            size,
            f"one value of {size:,} bytes",
            lambda equation, _holds: max(
                (_shapes.bytes_of(v.aval) or 0 for v in equation.outvars), default=0
            ),
            show=_src.bytes_in_words,
        )

    def _peak(self, *, details: bool) -> Peak:
        return _memory.peak_of(
            self._found,
            donated=_jax.donated_of(self._program),
            shardings=_jax.shardings_of(self._program),
            out_shardings=_jax.out_shardings_of(self._program),
            details=details,
        )

    def _over(
        self,
        name: str,
        code: str,
        got: float,
        in_words: str,
        weigh: Callable[[Any, bool], float],
        *,
        hint: str = "",
        loops: bool = False,
        show: Callable[[int], str] = "{:,}".format,
    ) -> ProgramRejectedError:
        limit = getattr(self._limits, name)
        lines = _src.heaviest(_src.weighed(self._found, weigh, loops=loops))
        most = f"; heaviest: {_src.in_words(lines, show)}" if lines else ""
        return ProgramRejectedError(
            f"{self._function}() refused: {name}={limit:,}: {in_words}{most}",
            code=code,
            details={
                "function": self._function,
                "limit": limit,
                "got": got,
                "sources": _src.as_data(lines),
            },
            hint=hint or f"raise {name} if the program is meant to be that large",
        )

    def _uncountable(self, name: str, code: str) -> ProgramRejectedError:
        return ProgramRejectedError(
            f"{self._function}() refused: {name} can't be judged: "
            "shapes have named dimensions",
            code=code,
            details={
                "function": self._function,
                "limit": getattr(self._limits, name),
                "got": None,
            },
            hint="trace it with numbers for its dimensions",
        )
