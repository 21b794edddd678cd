"""Which lines of the user's code the parts of a program come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from safejax import _jax
from safejax.review._walk import Walk

_UNKNOWN = "unknown source"
_SHOWN = 3
# More trips than this are as good as without end, and would not fit into a float.
_MANY = 1 << 500


class Source(NamedTuple):
    """A line of the user's code.

    Attributes:
        file: Its file, or an empty text where JAX kept none.
        line: Its number.
        function: The function it is in.
    """

    file: str
    line: int
    function: str

    @property
    def short(self) -> str:
        """The line as ``model.py:31``."""
        return f"{PurePath(self.file).name}:{self.line}" if self.file else _UNKNOWN


NOWHERE = Source("", 0, "")


def source_of(equation: Any) -> Source:
    """The line an equation comes from."""
    return NOWHERE if equation is None else Source(*_jax.source_of(equation))


def source_of_first(equations: Iterable[Any]) -> Source:
    """The line of the first equation that has one.

    What JAX traced for itself has none: then that of what is around it counts.
    """
    sources = map(source_of, equations)
    return next((source for source in sources if source.file), NOWHERE)


def weighed(
    walk: Walk, weigh: Callable[[Any, bool], float], *, loops: bool
) -> dict[Source, float]:
    """What each line weighs in the whole program.

    Args:
        walk: The program.
        weigh: The weight of one equation, given whether it holds programs.
        loops: Whether what is in a loop counts for each of its trips.
    """
    times = times_of(walk, loops=loops)
    callers: dict[int, Source] = {}
    weights: dict[Source, float] = {}
    for nest in reversed(walk.nests):
        here = times.get(id(nest), 0.0)
        for at, equation in enumerate(nest.jaxpr.eqns):
            call = nest.calls.get(at)
            weight = weigh(equation, call is not None)
            if not weight and call is None:
                continue
            # What JAX traced for itself has no line: then that of its caller counts.
            source = source_of(equation)
            source = source if source.file else callers.get(id(nest), NOWHERE)
            if weight:
                weights[source] = weights.get(source, 0.0) + here * weight
            for inner in call.nested if call else ():
                callers.setdefault(id(inner), source)
    return weights


def times_of(walk: Walk, *, loops: bool) -> dict[int, float]:
    """How often each program stands in the whole one, by identity.

    Args:
        walk: The program.
        loops: Whether what is in a loop counts for each of its trips, or only as
            often as it is written out.
    """
    times: dict[int, float] = {id(walk.root): 1.0}
    for nest in reversed(walk.nests):
        here = times.get(id(nest), 0.0)
        for call in nest.calls.values():
            for inner in call.nested:
                more = here * min(call.trips if loops else call.copies, _MANY)
                times[id(inner)] = times.get(id(inner), 0.0) + more
    return times


def heaviest(
    weights: dict[Source, float], *, shown: int = _SHOWN
) -> list[tuple[Source, int]]:
    """The lines that weigh most, the heaviest first."""
    ordered = sorted(weights.items(), key=lambda pair: -pair[1])
    return [(source, round(min(w, 1e300))) for source, w in ordered[:shown]]


def in_words(pairs: Iterable[tuple[Source, int]], show: Callable[[int], str]) -> str:
    """``model.py:31 (3,200), model.py:44 (900)``."""
    return ", ".join(f"{source.short} ({show(weight)})" for source, weight in pairs)


def as_data(pairs: Sequence[tuple[Source, int]]) -> list[dict[str, Any]]:
    """The same for a machine to read."""
    return [
        {"file": s.file, "line": s.line, "function": s.function, "weight": weight}
        for s, weight in pairs
    ]


def bytes_in_words(count: float) -> str:
    """``1.5 MiB``: the largest unit that leaves at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} PiB"
