"""What it costs to be watched: a refused call that is counted, and a scrape."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

import safejax
from benchmarks._harness import (
    Batch,
    Effort,
    Limit,
    Row,
    no_garbage_collection,
    optional,
)
from benchmarks.bench_refusal import refusal_us, wrong_shapes
from safejax.compile._events import emit

GROUP = "metrics"

_FUNCTIONS = 64
_CODES = 25


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    client = optional("prometheus_client")
    sdk = optional("opentelemetry.sdk.metrics")
    if client is None or sdk is None:
        return [Row(group=GROUP, name="metrics", unit="µs", note="not installed")]
    from safejax.integrations import opentelemetry, prometheus  # noqa: PLC0415

    def to_prometheus() -> Any:
        return prometheus.install(registry=client.CollectorRegistry())

    def to_opentelemetry() -> Any:
        reader = optional("opentelemetry.sdk.metrics.export").InMemoryMetricReader()
        return opentelemetry.install(meter_provider=sdk.MeterProvider([reader]))

    known, refused = _known(effort), _refused()
    return [
        _watched("a known call, for Prometheus", known, to_prometheus, effort, 1.02),
        _watched("a refused call, for Prometheus", refused, to_prometheus, effort, 2.0),
        _watched("the same for OpenTelemetry", refused, to_opentelemetry, effort, 3.5),
        _scrape(client, prometheus, effort),
    ]


def _known(effort: Effort) -> Callable[[], float]:
    call, x = safejax.safe_jit(lambda x: x + 1), jnp.ones(8)
    batch = Batch(call, (x,))
    batch.calibrate(effort.batch_s)
    return lambda: min(batch.seconds() for _ in range(effort.batches)) * 1e6


def _refused() -> Callable[[], float]:
    columns = safejax.spec("f32[b, 64]")
    call = safejax.safe_jit(lambda x: x.sum(), contract={"x": columns})
    wrong = list(itertools.islice(wrong_shapes(), 256))
    return lambda: min(refusal_us(call, wrong[i::8]) for i in range(8))


def _watched(
    name: str,
    fastest_us: Callable[[], float],
    install: Callable[[], Any],
    effort: Effort,
    limit: float,
) -> Row:
    """Against the same while nobody listens, in turns."""
    alone, counted = [], []
    for _ in range(effort.rounds):
        with no_garbage_collection():
            alone.append(fastest_us())
        with contextlib.closing(install()), no_garbage_collection():
            counted.append(fastest_us())
    return Row(
        group=GROUP,
        name=name,
        unit="x",
        samples=tuple(b / a for a, b in zip(alone, counted, strict=True)),
        limit=Limit(limit),
        note=f"{statistics.median(counted):.1f} µs, nobody listening "
        f"{statistics.median(alone):.1f}",
    )


def _scrape(client: Any, prometheus: Any, effort: Effort) -> Row:
    """With every label that an attacker can make, against a counter like it alone."""
    plain, ours = client.CollectorRegistry(), client.CollectorRegistry()
    counter = client.Counter("refusals", "", ["function", "code"], registry=plain)
    samples: dict[str, list[float]] = {"plain": [], "ours": []}
    with contextlib.closing(prometheus.install(registry=ours)):
        for name, code in itertools.product(range(_FUNCTIONS), range(_CODES)):
            counter.labels(f"f{name}", f"SJ{code + 200}").inc()
            emit("refused", f"f{name}", code=f"SJ{code + 200}")
        for _ in range(min(effort.rounds, 21)):
            for name, registry in (("plain", plain), ("ours", ours)):
                start = time.perf_counter()
                text = client.generate_latest(registry).decode()
                samples[name].append((time.perf_counter() - start) * 1e3)
                assert text.count("refusals_total{") == _FUNCTIONS * _CODES
    alone, mine = samples["plain"], samples["ours"]
    return Row(
        group=GROUP,
        name=f"a scrape, {_FUNCTIONS} functions refusing with {_CODES} codes",
        unit="x",
        samples=tuple(b / a for a, b in zip(alone, mine, strict=True)),
        limit=Limit(1.5),
        note=f"{statistics.median(mine):.0f} ms, the client's own counter "
        f"{statistics.median(alone):.0f}",
    )
