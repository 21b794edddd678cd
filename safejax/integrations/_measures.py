"""Which figures safejax gives to a monitoring system, whatever that is.

Events become samples here. Every label has a bounded number of values, because
function names and codes can come from whoever is served; tenants and values of
arguments are no labels at all.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Literal, NamedTuple

from safejax.cache._cache import misses
from safejax.compile._events import Event
from safejax.compile._ledger import PHASES
from safejax.compile._process import process_stats
from safejax.compile._protocol import unconfined
from safejax.compile._service import compile_status

OTHER = "other"
MAX_FUNCTIONS = 64
_MAX_VALUES = 64
_MAX_LENGTH = 100
# From a trace of a millisecond to a compilation of minutes, in seconds.
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)


# Compared by identity: it is looked up for every event.
@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measure:
    """One figure.

    Attributes:
        name: Without prefix and unit.
        kind: A ``"counter"`` only grows; a ``"gauge"`` is read when it is asked for,
            and so is a ``"total"``, which only grows.
        help: What it says, in one line.
        labels: What it is told apart by.
        unit: ``"s"``, or empty.
    """

    name: str
    kind: Literal["counter", "histogram", "gauge", "total"]
    help: str
    labels: tuple[str, ...] = ()
    unit: Literal["s", ""] = ""


class Sample(NamedTuple):
    """A value of a measure, or what is added to it; labels in its order."""

    measure: Measure
    labels: tuple[str, ...]
    value: float


def _counter(name: str, text: str, *labels: str) -> Measure:
    return Measure(name=name, kind="counter", help=text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> Measure:
    return Measure(name=name, kind="gauge", help=text, labels=labels)


_BY_KIND = {
    "admitted": _counter("admissions", "New programs admitted.", "function"),
    "refused": _counter(
        "refusals", "Calls refused, by the code of the error.", "function", "code"
    ),
    "pending": _counter(
        "pending", "Calls answered before their program was ready.", "function"
    ),
    "compiled": _counter("compilations", "Programs compiled.", "function"),
    "failed": _counter(
        "failures", "Compilations that failed, by code.", "function", "code"
    ),
    "killed": _counter(
        "kills", "Compilations that were killed, by code.", "function", "code"
    ),
    "evicted": _counter("evictions", "Programs dropped to make room.", "function"),
    "guard": _counter(
        "guard_decisions", "Decisions of the guard.", "category", "decision"
    ),
    "cached": _counter("cache_hits", "Programs that the compile cache had."),
    "rejected": _counter(
        "cache_rejects", "Entries of the compile cache that were not used.", "reason"
    ),
}
COMPILE_SECONDS = Measure(
    name="compile",
    kind="histogram",
    help="Seconds spent on one new program, by phase.",
    labels=("phase",),
    unit="s",
)
_LIVE = _gauge("live_programs", "Compiled programs that are alive.")
_MOST = _gauge("max_programs", "How many programs the process may own.")
_TENANTS = _gauge("tenants_tracked", "Tenants whose rates are told apart.")
_FROZEN = _gauge("frozen", "Whether the process compiles nothing new: 0 or 1.")
_WORKERS = _gauge("compile_workers", "Compile workers, by what they do.", "state")
_QUEUED = _gauge("compile_queue", "Compilations that wait for a worker.")
_ORPHANS = _gauge("orphans", "Abandoned compilations that still run.")
_CONFINED = _gauge("confined", "Whether the last worker proved its confinement.")
_OUTCOMES = Measure(
    name="worker_outcomes",
    kind="total",
    help="What became of the jobs of compile workers.",
    labels=("outcome",),
)
_MISSES = Measure(
    name="cache_misses", kind="total", help="Programs that the compile cache had not."
)
MEASURES: tuple[Measure, ...] = (
    *_BY_KIND.values(),
    COMPILE_SECONDS,
    *(_LIVE, _MOST, _TENANTS, _FROZEN, _WORKERS, _QUEUED, _ORPHANS, _CONFINED),
    _OUTCOMES,
    _MISSES,
)


class _Values:
    """The values that one label may have: the first that come, then ``"other"``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def admitted(self, text: str) -> str:
        # A name of a gigabyte, or one that is no UTF-8, would end every scrape.
        short = text[:_MAX_LENGTH].encode("ascii", "backslashreplace").decode()
        if short not in self._seen:
            with self._lock:
                if len(self._seen) >= self._most:
                    return OTHER
                self._seen.add(short)
        return short


class Reader:
    """Turns events into samples, with a bounded number of values for each label."""

    def __init__(self, max_functions: int = MAX_FUNCTIONS) -> None:
        self._labels = {"function": _Values(max_functions)}
        for label in ("code", "category", "decision", "reason"):
            self._labels[label] = _Values(_MAX_VALUES)

    def samples(self, event: Event) -> Iterator[Sample]:
        """What one event adds; nothing for kinds that are not known here."""
        measure = _BY_KIND.get(event.kind)
        if measure is not None:
            labels = (self._value(event, label) for label in measure.labels)
            yield Sample(measure, tuple(labels), 1.0)
        phases = event.details.get("phases") or {}
        for phase in PHASES:
            if phase in phases:
                yield Sample(COMPILE_SECONDS, (phase,), phases[phase])

    def _value(self, event: Event, label: str) -> str:
        if label in ("function", "code"):
            text = getattr(event, label)
        else:
            text = event.details.get(label)
        return self._labels[label].admitted(str(text or "none"))


def current() -> Iterator[Sample]:
    """The figures that are read when they are asked for."""
    stats, status = process_stats(), compile_status()
    yield Sample(_LIVE, (), stats.live)
    yield Sample(_MOST, (), stats.max_compiles)
    yield Sample(_TENANTS, (), stats.tenants)
    yield Sample(_FROZEN, (), stats.frozen)
    for state in ("starting", "idle", "busy"):
        yield Sample(_WORKERS, (state,), status.get(state, 0))
    yield Sample(_QUEUED, (), status.get("queued", 0))
    yield Sample(_ORPHANS, (), status["orphans"])
    yield Sample(_CONFINED, (), not unconfined(status.get("confinement") or {}))
    for outcome, count in status.get("outcomes", {}).items():
        yield Sample(_OUTCOMES, (outcome,), count)
    yield Sample(_MISSES, (), misses())
