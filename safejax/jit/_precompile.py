"""Compiling ahead of the first request, in parallel."""

from __future__ import annotations

import concurrent.futures
import contextvars
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from safejax.compile._deadline import Batch, batch
from safejax.errors import SafeJaxError

Progress = Callable[[int, int], object]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Precompiled:
    """How compiling one signature ahead went.

    Attributes:
        function: Name of the function.
        seconds: How long it took, from trace to loaded program, in seconds.
        error: What refused it, or ``None``.

    Example:
        >>> import safejax
        >>> double = safejax.safe_jit(lambda x: 2 * x)
        >>> double.precompile(1.0).error is None
        True
    """

    function: str
    seconds: float
    error: SafeJaxError | None = None


def precompile(
    work: Iterable[tuple[Any, Sequence[Any]]],
    *,
    workers: int = 2,
    progress: bool | Progress = False,
) -> tuple[Precompiled, ...]:
    """Compiles many signatures ahead of their first call, several at a time.

    Args:
        work: Pairs of a ``safe_jit`` function and the arguments, or the
            ``jax.ShapeDtypeStruct`` of the arguments, of one call of it.
        workers: How many are compiled at once.
        progress: ``True`` writes a line to standard error after each; or a callable
            of how many are done, of how many.

    Returns:
        One report for each pair, in their order. What a limit refused is in the
        report; any other error of a function is raised once all have ended.

    Raises:
        ValueError: ``workers`` is less than one.

    Example:
        >>> import jax, jax.numpy as jnp, safejax
        >>> double = safejax.safe_jit(lambda x: 2 * x)
        >>> sizes = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in (1, 8)]
        >>> report = safejax.precompile([(double, (size,)) for size in sizes])
        >>> [one.error for one in report], double.stats().live
        ([None, None], 2)
    """
    if workers < 1:
        raise ValueError(f"precompile(workers=...) must be at least 1, got {workers}")
    pairs = list(work)
    tell = _to_stderr if progress is True else progress or _to_nobody
    together = Batch(workers)
    # One more than compile at once traces ahead, so that no worker waits for Python.
    with concurrent.futures.ThreadPoolExecutor(
        workers + 1, "safejax-precompile"
    ) as pool:
        futures = [
            pool.submit(contextvars.copy_context().run, _one, together, function, specs)
            for function, specs in pairs
        ]
        try:
            for done, _ in enumerate(concurrent.futures.as_completed(futures), 1):
                tell(done, len(pairs))
        except BaseException:
            # Ctrl-C must not wait for what it interrupts.
            pool.shutdown(wait=False, cancel_futures=True)
            together.stop()
            raise
    return tuple(future.result() for future in futures)


def _one(together: Batch, function: Any, specs: Sequence[Any]) -> Precompiled:
    batch.set(together)
    start = time.perf_counter()
    try:
        report: Precompiled = function.precompile(*specs)
    except SafeJaxError as error:
        name = str(getattr(function, "__name__", function))
        return Precompiled(
            function=name, seconds=time.perf_counter() - start, error=error
        )
    return report


def _to_stderr(done: int, total: int) -> None:
    sys.stderr.write(f"safejax: compiled {done} of {total}\n")


def _to_nobody(done: int, total: int) -> None:
    """Nobody wants to know."""


# The names users know them by.
Precompiled.__module__ = "safejax"
precompile.__module__ = "safejax"
