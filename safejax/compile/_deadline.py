"""How long one call may still take."""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Callable, Iterator


class Deadline:
    """The moment at which a caller gives up; without a limit, never.

    Example:
        >>> Deadline(None).remaining() is None
        True
    """

    def __init__(
        self, limit_s: float | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit_s = limit_s
        self._now = now
        self._start = now()
        self._excused = 0.0

    @property
    def elapsed_s(self) -> float:
        """How long the call has taken, without what was excused."""
        return self._now() - self._start - self._excused

    @property
    def ends(self) -> float | None:
        """The moment on the clock, or ``None``."""
        if self.limit_s is None:
            return None
        return self._start + self._excused + self.limit_s

    def remaining(self) -> float | None:
        """Seconds left, at least 0, or ``None`` where there is no limit."""
        return None if self.ends is None else max(0.0, self.ends - self._now())

    def passed(self) -> bool:
        """Whether the time is up."""
        return self.remaining() == 0.0

    def excuse(self, seconds: float) -> None:
        """Does not count these seconds: they went into something else."""
        self._excused += seconds


# How often a thread that waits for its turn looks whether the batch was given up.
_LOOK_S = 0.05
# A trace may wait for another thread's program; then taking turns would be for ever.
_LONGEST_TURN_S = 10.0


class Batch:
    """Compilations in several threads that their one caller can give up together.

    Only the main thread hears of Ctrl-C; those that compile for it must, too.

    They trace one after another: two at once take as long, since Python runs one
    thread at a time, and would then compile at the same time and leave the cores idle
    while both trace (measured: 1.5 instead of 1.9 times faster than a loop).
    """

    def __init__(self, workers: int = 1) -> None:
        self._lock = threading.RLock()
        self._waiting: set[threading.Event] = set()
        self._tracing = threading.Semaphore(1)
        self._compiling = threading.Semaphore(workers)
        self.stopped = False

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Runs the block while no other thread of the batch traces.

        Raises:
            KeyboardInterrupt: The batch was given up.
        """
        has_turn = self._take(self._tracing, _LONGEST_TURN_S)
        try:
            yield
        finally:
            if has_turn:
                self._tracing.release()

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Runs the block while fewer than ``workers`` others compile.

        Raises:
            KeyboardInterrupt: The batch was given up.
        """
        self._take(self._compiling, math.inf)
        try:
            yield
        finally:
            self._compiling.release()

    def _take(self, turns: threading.Semaphore, longest_s: float) -> bool:
        ends = time.monotonic() + longest_s
        while not turns.acquire(timeout=_LOOK_S):
            if self.stopped:
                raise KeyboardInterrupt
            if time.monotonic() > ends:
                return False
        return True

    def stop(self) -> None:
        """Ends the waiting of every thread of the batch, now and from now on."""
        with self._lock:
            self.stopped = True
            for event in self._waiting:
                event.set()

    @contextlib.contextmanager
    def roused(self, event: threading.Event) -> Iterator[None]:
        """Has :meth:`stop` set ``event`` while the block runs."""
        with self._lock:
            self._waiting.add(event)
            if self.stopped:
                event.set()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.discard(event)


# The batch that the current code compiles for.
batch: contextvars.ContextVar[Batch | None] = contextvars.ContextVar(
    "safejax.batch", default=None
)
