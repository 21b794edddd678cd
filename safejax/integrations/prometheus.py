"""Prometheus: what safejax admits, refuses, compiles and kills, as metrics.

Needs ``prometheus-client`` (the extra ``metrics``). Nothing is counted before
:func:`install` is called.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

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
    import prometheus_client
    from prometheus_client import core
except ImportError as _absent:
    raise ImportError(
        "safejax.integrations.prometheus needs prometheus-client: install with "
        "`python -m pip install prometheus-client`",
        name=_absent.name,
    ) from _absent

__all__ = ["Exporter", "install"]

_Family = core.GaugeMetricFamily | core.CounterMetricFamily
_READ: dict[str, type[_Family]] = {
    "gauge": core.GaugeMetricFamily,
    "total": core.CounterMetricFamily,
}


class Exporter:
    """The metrics of this process in one registry; :func:`install` makes it."""

    def __init__(
        self, registry: prometheus_client.CollectorRegistry, max_functions: int
    ) -> None:
        self._registry = registry
        self._reader = Reader(max_functions)
        self._grown = {m: _made(m) for m in MEASURES if m.kind not in _READ}
        self._adders: dict[
            tuple[Measure, tuple[str, ...]], Callable[[float], None]
        ] = {}
        registry.register(self)
        self._unsubscribe = on_event(self._count)

    def close(self) -> None:
        """Stops counting and takes the metrics out of the registry.

        Harmless when repeated.
        """
        with _lock:
            if _installed.get(self._registry) is self:
                del _installed[self._registry]
                self._unsubscribe()
                self._registry.unregister(self)

    def describe(self) -> Iterator[core.Metric]:
        """The metrics without values: asked by the registry when it takes them in."""
        for metric in self._grown.values():
            yield from metric.describe()
        for measure in MEASURES:
            if measure.kind in _READ:
                yield _family(measure)

    def collect(self) -> Iterator[core.Metric]:
        """The metrics with their values: asked by the registry at each scrape."""
        for metric in self._grown.values():
            yield from metric.collect()
        families = {m: _family(m) for m in MEASURES if m.kind in _READ}
        for sample in current():
            families[sample.measure].add_metric(sample.labels, float(sample.value))
        yield from families.values()

    def _count(self, event: Event) -> None:
        for sample in self._reader.samples(event):
            key = (sample.measure, sample.labels)
            add = self._adders.get(key)
            if add is None:
                # As many as there are labels, which the reader bounds.
                metric = self._grown[sample.measure]
                one = metric.labels(*sample.labels) if sample.labels else metric
                add = self._adders[key] = _adder(one)
            add(sample.value)


_lock = threading.RLock()
_installed: dict[prometheus_client.CollectorRegistry, Exporter] = {}


def install(
    *,
    registry: prometheus_client.CollectorRegistry | None = None,
    max_functions: int = MAX_FUNCTIONS,
) -> Exporter:
    """Counts what happens from now on, in a registry of ``prometheus_client``.

    A second call for the same registry returns the exporter that is there already:
    nothing is counted twice.

    Args:
        registry: Where the metrics go; ``prometheus_client.REGISTRY`` if absent.
        max_functions: How many function names are told apart. Further ones are counted
            as ``"other"``.

    Returns:
        What ends it, with ``close()``.

    Raises:
        TypeError: ``max_functions`` is not an integer.
        ValueError: It is less than one, or the registry has metrics of these names.

    Example:
        >>> import prometheus_client, safejax
        >>> from safejax.integrations import prometheus
        >>> registry = prometheus_client.CollectorRegistry()
        >>> exporter = prometheus.install(registry=registry)
        >>> _ = safejax.safe_jit(lambda x: 2 * x)(1.0)
        >>> labels = {"function": "<lambda>"}
        >>> registry.get_sample_value("safejax_compilations_total", labels)
        1.0
        >>> exporter.close()
    """
    check_count("install", "max_functions", max_functions, least=1)
    place = prometheus_client.REGISTRY if registry is None else registry
    with _lock:
        if place not in _installed:
            _installed[place] = Exporter(place, max_functions)
        return _installed[place]


def _name(measure: Measure) -> str:
    unit = "_seconds" if measure.unit == "s" else ""
    return f"safejax_{measure.name}{unit}"


def _made(measure: Measure) -> prometheus_client.Counter | prometheus_client.Histogram:
    # In no registry: the exporter is registered whole, so that it comes and goes so.
    name, labels = _name(measure), measure.labels
    if measure.kind == "counter":
        return prometheus_client.Counter(name, measure.help, labels, registry=None)
    return prometheus_client.Histogram(
        name, measure.help, labels, registry=None, buckets=BUCKETS
    )


def _adder(
    one: prometheus_client.Counter | prometheus_client.Histogram,
) -> Callable[[float], None]:
    return one.observe if isinstance(one, prometheus_client.Histogram) else one.inc


def _family(measure: Measure) -> _Family:
    make = _READ[measure.kind]
    return make(_name(measure), measure.help, labels=measure.labels)
