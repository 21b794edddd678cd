"""Paired measurements, the rows they become, and the limits they are held against.

Contenders take turns in one process. Each round gives every contender several short
batches and keeps the fastest of each, so that a neighbour on the machine has to disturb
all of them to be seen; the figure of a round is a ratio between contenders of that same
round, and the result is the median over the rounds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

import safejax

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out"

_PACKAGES = (
    "jax", "jaxlib", "numpy", "beartype", "chex", "equinox", "jaxtyping"
)  # fmt: skip
_STATM = Path("/proc/self/statm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure.

    Attributes:
        quick: A short run, for machines where others work too.
        rounds: How many ratios to take.
        batches: Batches of each contender in one round; the fastest counts.
        batch_s: How long one batch takes, about.
        tolerance: Factor on every limit.
    """

    quick: bool
    rounds: int
    batches: int
    batch_s: float
    tolerance: float


FULL = Effort(quick=False, rounds=61, batches=7, batch_s=0.002, tolerance=1.0)
QUICK = Effort(quick=True, rounds=11, batches=5, batch_s=0.001, tolerance=1.3)


# --- results ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Limit:
    """How much a figure may be: at most ``bound``, or at least it."""

    bound: float
    at_most: bool = True

    def is_broken_by(self, low: float, high: float, tolerance: float) -> bool:
        """Whether the whole interval lies beyond the limit."""
        if self.at_most:
            return low > self.bound * tolerance
        return high < self.bound / tolerance

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        group: The benchmark it belongs to.
        name: What was measured.
        unit: ``"x"`` for a ratio to plain JAX, else the unit of the figure.
        samples: One figure for each round; none where nothing could be measured.
        limit: What the median may be; without one the row is only shown.
        note: The absolute figures behind a ratio, or why there is none.
    """

    group: str
    name: str
    unit: str
    samples: tuple[float, ...] = ()
    limit: Limit | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        """The middle one of the samples."""
        return statistics.median(self.samples) if self.samples else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """Where the middle half of the samples lies."""
        if len(self.samples) < 2:
            return None
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the true median lies, with 95 % confidence, by order statistics."""
        if not self.samples:
            return None
        ordered, count = sorted(self.samples), len(self.samples)
        reach = 0.98 * math.sqrt(count)
        low = max(0, math.floor(count / 2 - reach))
        high = min(count - 1, math.ceil(count / 2 + reach))
        return ordered[low], ordered[high]

    def verdict(self, tolerance: float) -> str:
        """Held against the limit: ``ok``, ``MISSED``, ``noise`` for neither."""
        if self.median is None or self.interval is None:
            return ""
        if self.limit is None:
            return ""
        if self.limit.is_broken_by(*self.interval, tolerance):
            return "MISSED"
        if self.limit.is_broken_by(self.median, self.median, tolerance):
            return "noise"
        return "ok"

    def as_json(self, tolerance: float) -> dict[str, Any]:
        """The row for a machine to read."""
        return {
            "group": self.group,
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "quartiles": self.quartiles,
            "interval": self.interval,
            "rounds": len(self.samples),
            "limit": self.limit and dataclasses.asdict(self.limit),
            "verdict": self.verdict(tolerance),
            "note": self.note,
        }


def machine_facts() -> dict[str, Any]:
    """What the figures depend on. No host names, no paths."""
    versions = {"safejax": safejax.__version__}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "backend": jax.default_backend(),
        "versions": versions,
    }


def optional(module: str) -> ModuleType | None:
    """A peer's module, or ``None`` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


# --- measuring --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds per call of every contender, one figure for each round."""

    seconds: Mapping[str, Sequence[float]]

    def ratios(self, ours: str, plain: str) -> tuple[float, ...]:
        """One against another, round by round."""
        pairs = zip(self.seconds[ours], self.seconds[plain], strict=True)
        return tuple(mine / other for mine, other in pairs)

    def added(self, ours: str, plain: str) -> tuple[float, ...]:
        """What one costs more than another, in microseconds, round by round."""
        pairs = zip(self.seconds[ours], self.seconds[plain], strict=True)
        return tuple((mine - other) * 1e6 for mine, other in pairs)

    def microseconds(self, name: str) -> float:
        """The median time of one call."""
        return statistics.median(self.seconds[name]) * 1e6


def take_turns(
    contenders: Mapping[str, Callable[..., Any]],
    args: Sequence[Any],
    effort: Effort,
) -> Times:
    """Times calls of all contenders with the same arguments.

    Args:
        contenders: By name. The first is the one that the others must agree with.
        args: The arguments, passed by position.
        effort: How long to measure.

    Returns:
        Seconds per call.
    """
    _assert_same_results(contenders, args)
    batches = {name: Batch(call, args) for name, call in contenders.items()}
    for batch in batches.values():
        batch.calibrate(effort.batch_s)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(effort.rounds):
        fastest = dict.fromkeys(contenders, math.inf)
        with no_garbage_collection():
            for _ in range(effort.batches):
                for name in order:
                    fastest[name] = min(fastest[name], batches[name].seconds())
                order.reverse()
        for name, best in fastest.items():
            seconds[name].append(best)
    return Times(seconds)


def pair(
    group: str,
    name: str,
    calls: tuple[Callable[..., Any], Callable[..., Any]],
    args: Sequence[Any],
    effort: Effort,
    limit: Limit | None = None,
) -> Row:
    """The row of one ratio: the second call against the first."""
    plain, ours = calls
    times = take_turns({"plain": plain, "ours": ours}, args, effort)
    note = (
        f"{times.microseconds('ours'):.1f} µs, plain {times.microseconds('plain'):.1f}"
    )
    return Row(
        group=group,
        name=name,
        unit="x",
        samples=times.ratios("ours", "plain"),
        limit=limit,
        note=note,
    )


class Batch:
    """Many calls in a row, the last of them waited for.

    The loop is written out with the arguments, as a user writes a call: unpacking a
    tuple of them would cost a Python function more than a C++ one.
    """

    def __init__(self, call: Callable[..., Any], args: Sequence[Any]) -> None:
        self._last: list[Any] = [None]
        self.calls = 1
        names = [f"a{i}" for i in range(len(args))]
        self._timer = timeit.Timer(
            f"last[0] = call({', '.join(names)})",
            globals={
                "call": call,
                "last": self._last,
                **dict(zip(names, args, strict=True)),
            },
        )

    def calibrate(self, batch_s: float) -> None:
        """Warms up, and finds how many calls fill a batch."""
        self.seconds()
        self.calls = 5
        one = min(self.seconds() for _ in range(5))
        self.calls = max(2, round(batch_s / one))
        self.seconds()

    def seconds(self) -> float:
        """Runs the batch once; seconds per call."""
        start = time.perf_counter()
        self._timer.timeit(self.calls)
        jax.block_until_ready(self._last[0])
        return (time.perf_counter() - start) / self.calls


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collects now, and not while the block runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _assert_same_results(
    contenders: Mapping[str, Callable[..., Any]], args: Sequence[Any]
) -> None:
    results = [call(*args) for call in contenders.values()]
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], result)


# --- fresh processes --------------------------------------------------------------


def in_fresh_process(module: str, *arguments: str) -> Any:
    """Runs ``python -m benchmarks.<module>``; the JSON that it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(  # noqa: S603  our own interpreter, our own arguments
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def resident_mb() -> float:
    """The memory that this process holds now, in MB, after a collection."""
    gc.collect()
    pages = int(_STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def can_measure_memory() -> bool:
    """Whether this system says how much memory a process holds now."""
    return _STATM.exists()
