"""Time, resident memory and compilations of a stretch of code."""

from __future__ import annotations

import functools
import gc
import os
import resource
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import jax
import jax.monitoring

from safejax.demo._outcome import Outcome

Value = TypeVar("Value")

_STATM = Path("/proc/self/statm")
_COMPILED = "/jax/core/compile/backend_compile_duration"


def resident_bytes() -> int:
    """The memory this process holds now; its peak where the system says no more."""
    if _STATM.exists():
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def finished(value: Value) -> Value:
    """The value, once JAX has computed it."""
    done: Value = jax.block_until_ready(value)  # type: ignore[no-untyped-call]
    return done


class _CompileCounter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        self.count += event == _COMPILED


@functools.cache
def _counter() -> _CompileCounter:
    """The one listener of the process; it is registered when it is first needed."""
    counter = _CompileCounter()
    jax.monitoring.register_event_duration_secs_listener(counter)
    return counter


class Meter:
    """Measures the block under ``with``, and turns it into an outcome."""

    def __enter__(self) -> Meter:
        gc.collect()
        self._compiled_before = _counter().count
        self._rss_before = resident_bytes()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._started
        gc.collect()
        self.rss_bytes = self.grown_bytes()
        self.compilations = _counter().count - self._compiled_before

    def grown_bytes(self) -> int:
        """How much the resident memory has grown since the block began."""
        return resident_bytes() - self._rss_before

    def outcome(self, text: str, *, succeeded: bool) -> Outcome:
        """What was measured, with what it means."""
        return Outcome(
            seconds=self.seconds,
            rss_bytes=self.rss_bytes,
            compilations=self.compilations,
            outcome=text,
            succeeded=succeeded,
        )
