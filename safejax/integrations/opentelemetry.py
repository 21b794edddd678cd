"""OpenTelemetry: what safejax admits, refuses, compiles and kills, as metrics.

Needs ``opentelemetry-api`` (the extra ``otel``), and an SDK to go anywhere. Nothing is
counted before :func:`install` is called. The names are those of
:mod:`safejax.integrations.prometheus` in OpenTelemetry's form:
``safejax_compilations_total`` there is ``safejax.compilations`` here, and an exporter
to Prometheus turns the second into the first.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from safejax._version import __version__
from safejax.compile._events import Event, on_event
from safejax.integrations._measures import (
    BUCKETS,
    MAX_FUNCTIONS,
    MEASURES,
    Measure,
    Reader,
    current,
)
from safejax.limits import check_count

try:
    from opentelemetry import metrics
except ImportError as _absent:
    raise ImportError(
        "safejax.integrations.opentelemetry needs opentelemetry-api: install with "
        "`python -m pip install opentelemetry-api opentelemetry-sdk`",
        name=_absent.name,
    ) from _absent

__all__ = ["Exporter", "install"]


class Exporter:
    """The metrics of this process at one meter provider; :func:`install` makes it."""

    def __init__(
        self, provider: metrics.MeterProvider, max_functions: int, *, is_global: bool
    ) -> None:
        self.is_global = is_global
        self._reader = Reader(max_functions)
        self._unsubscribe: Callable[[], None] | None = None
        meter = provider.get_meter("safejax", __version__)
        self._add = {m: self._instrument(meter, m) for m in MEASURES}

    def open(self) -> None:
        """Starts to count; harmless when repeated."""
        with _lock:
            if self._unsubscribe is None:
                self._unsubscribe = on_event(self._count)

    def close(self) -> None:
        """Stops counting; harmless when repeated.

        OpenTelemetry has no way to take an instrument back: the counters keep their
        last values, and the gauges have none any more.
        """
        with _lock:
            unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            unsubscribe()

    def _count(self, event: Event) -> None:
        for measure, labels, value in self._reader.samples(event):
            self._add[measure](value, _attributes(measure, labels))

    def _read(self, measure: Measure, _: Any) -> Iterator[metrics.Observation]:
        if self._unsubscribe is None:
            return
        for sample in current():
            if sample.measure is measure:
                attributes = _attributes(measure, sample.labels)
                yield metrics.Observation(float(sample.value), attributes)

    def _instrument(self, meter: metrics.Meter, measure: Measure) -> Callable[..., Any]:
        name, unit, text = f"safejax.{measure.name}", measure.unit, measure.help
        read = [functools.partial(self._read, measure)]
        if measure.kind == "counter":
            return meter.create_counter(name, unit, text).add
        if measure.kind == "histogram":
            return meter.create_histogram(
                name, unit, text, explicit_bucket_boundaries_advisory=BUCKETS
            ).record
        if measure.kind == "total":
            meter.create_observable_counter(name, read, unit, text)
        else:
            meter.create_observable_gauge(name, read, unit, text)
        return _never


_lock = threading.RLock()
# Kept after they are closed: a provider has each instrument once.
_made: weakref.WeakKeyDictionary[metrics.MeterProvider, Exporter] = (
    weakref.WeakKeyDictionary()
)


def install(
    *,
    meter_provider: metrics.MeterProvider | None = None,
    max_functions: int = MAX_FUNCTIONS,
) -> Exporter:
    """Counts what happens from now on, at a meter provider.

    A second call for the same provider returns the exporter that is there already:
    nothing is counted twice.

    Args:
        meter_provider: Where the metrics go; the global one if absent, even if that is
            set later.
        max_functions: How many function names are told apart. Further ones are counted
            as ``"other"``.

    Returns:
        What ends it, with ``close()``.

    Raises:
        TypeError: ``max_functions`` is not an integer.
        ValueError: It is less than one.

    Example:
        >>> from safejax.integrations import opentelemetry
        >>> exporter = opentelemetry.install()
        >>> opentelemetry.install() is exporter
        True
        >>> exporter.close()
    """
    check_count("install", "max_functions", max_functions, least=1)
    current_global = metrics.get_meter_provider()
    provider = current_global if meter_provider is None else meter_provider
    with _lock:
        exporter = _found(provider, is_global=provider is current_global)
        if exporter is None:
            exporter = Exporter(
                provider, max_functions, is_global=provider is current_global
            )
            _made[provider] = exporter
        exporter.open()
    return exporter


def _found(provider: metrics.MeterProvider, *, is_global: bool) -> Exporter | None:
    if provider in _made:
        return _made[provider]
    # Before a global provider is set, another one stands for it.
    standing = (one for one in _made.values() if is_global and one.is_global)
    return next(standing, None)


def _attributes(measure: Measure, labels: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(measure.labels, labels, strict=True))


def _never(*_: object) -> None:
    """Stands for what adds to a measure that is only read."""
