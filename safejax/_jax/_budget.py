"""What a trace has spent, counted while it goes on."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jax._src.interpreters import partial_eval

from safejax._jax._inspect import source_of

# Only the last equations are looked at for where they come from: 2 us each.
_LOOKED_AT = 2_000

_installing = threading.Lock()
_current = threading.local()


class Overspent(NamedTuple):
    """Why a trace has to end.

    Attributes:
        equations: How many there were.
        seconds: How long it took.
        sources: File and line of the last equations.
    """

    equations: int
    seconds: float
    sources: Sequence[tuple[str, int]]


class TraceBudget:
    """Ends a trace, at a primitive, that has become too long or has taken too long.

    Attributes:
        refusal: What has ended it, or ``None``. Code under trace may have caught it.
    """

    def __init__(
        self,
        max_equations: int | None,
        timeout_s: float | None,
        refuse: Callable[[Overspent], Exception],
    ) -> None:
        self._left = -1 if max_equations is None else max_equations
        self._equations = 0
        self._start = time.monotonic()
        self._timeout_s = timeout_s
        self._refuse = refuse
        self.refusal: Exception | None = None

    def spend(self, frame: Any) -> None:
        """Counts one equation.

        Raises:
            Exception: What ``refuse`` returned.
        """
        self._equations += 1
        if self._equations - 1 == self._left or (
            self._timeout_s is not None
            and time.monotonic() - self._start > self._timeout_s
        ):
            self.refusal = self._refuse(self._overspent(frame))
        if self.refusal is not None:
            raise self.refusal

    def _overspent(self, frame: Any) -> Overspent:
        recent = frame.tracing_eqns[-_LOOKED_AT:]
        equations = [e if hasattr(e, "source_info") else e() for e in recent]
        return Overspent(
            equations=self._equations,
            seconds=time.monotonic() - self._start,
            sources=[source_of(e)[:2] for e in equations if e is not None],
        )


@contextlib.contextmanager
def tracing_within(budget: TraceBudget) -> Iterator[None]:
    """Charges every equation this thread traces in the block to ``budget``.

    Raises:
        Exception: The refusal, also where the traced code has caught it.
    """
    _install()
    before = getattr(_current, "budget", None)
    _current.budget = budget
    try:
        yield
    finally:
        _current.budget = before
    if budget.refusal is not None:
        raise budget.refusal


def _install() -> None:
    # Counting where JAX appends an equation sees every one, also in nested programs.
    # Without a budget in the thread it costs 0.05 us an equation, of about 20.
    with _installing:
        add_eqn = partial_eval.JaxprStackFrame.add_eqn
        if not hasattr(add_eqn, "counts"):
            partial_eval.JaxprStackFrame.add_eqn = _counted(add_eqn)  # type: ignore[method-assign]


def _counted(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def add_eqn(frame: Any, eqn: Any) -> None:
        original(frame, eqn)
        budget: TraceBudget | None = getattr(_current, "budget", None)
        if budget is not None:
            budget.spend(frame)

    add_eqn.counts = True  # type: ignore[attr-defined]
    return add_eqn
