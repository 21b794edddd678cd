"""Metrics: what is counted, that it is counted once, and that labels are bounded."""

from __future__ import annotations

import contextlib
import doctest
import json
import re
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import PATIENT, SQUARE, endless

import safejax
from safejax.compile import _events
from safejax.compile._events import Event, emit

client = pytest.importorskip("prometheus_client")
otel = pytest.importorskip("opentelemetry.sdk.metrics")
export = pytest.importorskip("opentelemetry.sdk.metrics.export")

from safejax.integrations import _measures, opentelemetry, prometheus  # noqa: E402

DOCS = Path(__file__).parent.parent / "docs"
DASHBOARD = DOCS / "_static/grafana-dashboard.json"


@pytest.fixture
def registry():
    """A registry into which safejax counts for the length of one test."""
    registry = client.CollectorRegistry()
    with contextlib.closing(prometheus.install(registry=registry)):
        yield registry
    assert _events._listeners == ()


class Provider:
    """A meter provider, and the last values of its metrics by name and labels."""

    def __init__(self) -> None:
        self.reader = export.InMemoryMetricReader()
        self.provider = otel.MeterProvider([self.reader], shutdown_on_exit=False)

    def values(self) -> dict[tuple[str, tuple[str, ...]], float]:
        data = self.reader.get_metrics_data()
        return {
            (metric.name, tuple(point.attributes.values())): getattr(
                point, "value", getattr(point, "count", None)
            )
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }


def value(registry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"safejax_{name}", labels)


# --- what is counted ----------------------------------------------------------------


def test_compilation_is_counted_with_the_seconds_of_each_phase(registry):
    def counted(x):
        return x + 1

    safejax.safe_jit(counted, limits=safejax.Limits(compile_timeout_s=60.0))(1.0)

    assert value(registry, "admissions_total", function="counted") == 1
    assert value(registry, "compilations_total", function="counted") == 1
    for phase in ("trace", "lower", "queue", "compile", "load"):
        assert value(registry, "compile_seconds_count", phase=phase) == 1
    assert value(registry, "compile_seconds_sum", phase="compile") > 0
    assert value(registry, "compile_workers", state="idle") is not None
    assert value(registry, "worker_outcomes_total", outcome="ok") >= 1


def test_phases_add_up_to_those_of_stats(registry):
    f = safejax.safe_jit(lambda x: x * 3)
    f(jnp.ones(2))
    f(jnp.ones(3))
    stats = f.stats()

    for phase in ("trace", "lower", "queue", "compile", "load"):
        counted = value(registry, "compile_seconds_sum", phase=phase)
        assert counted == pytest.approx(getattr(stats, f"{phase}_s"))


def test_refusals_are_counted_by_code(registry):
    def served(x):
        return x

    f = safejax.safe_jit(
        served,
        contract={"x": safejax.spec("f32[n]")},
        limits=safejax.Limits(max_compiles=1, warn_compiles=9),
    )
    f(np.ones(1, np.float32))
    for size in (2, 3):
        with pytest.raises(safejax.CompileLimitError):
            f(np.ones(size, np.float32))
    with pytest.raises(safejax.ContractError):
        f(np.ones(1, np.int32))
    with pytest.raises(safejax.ContractError):
        f.lower(np.ones(1, np.int32))

    assert value(registry, "refusals_total", function="served", code="SJ201") == 2
    assert value(registry, "refusals_total", function="served", code="SJ101") == 2


def test_killed_compilation_is_counted_with_the_time_it_took(registry):
    warm = safejax.safe_jit(lambda x: x, limits=PATIENT)
    warm(1.0)
    # A worker stands by, so that the deadline is not spent on starting one.
    limits = safejax.Limits(compile_timeout_s=3.0)
    with pytest.raises(safejax.CompileTimeoutError):
        safejax.safe_jit(endless(), limits=limits)(SQUARE)

    assert value(registry, "kills_total", function="bomb", code="SJ210") == 1
    assert value(registry, "compilations_total", function="bomb") is None
    assert value(registry, "compile_seconds_sum", phase="compile") > 0.3


def test_guard_decisions_are_counted(registry):
    with safejax.guard(), pytest.raises(safejax.GuardError):
        jax.pure_callback(abs, jnp.float32(0), jnp.float32(0))

    labels = {"category": "callbacks", "decision": "disallow"}
    assert value(registry, "guard_decisions_total", **labels) == 1


def test_gauges_are_those_of_the_process(registry):
    f = safejax.safe_jit(lambda x: x - 1)
    f(1.0)
    stats = safejax.process_stats()

    assert value(registry, "live_programs") == stats.live
    assert value(registry, "max_programs") == stats.max_compiles
    assert value(registry, "tenants_tracked") == stats.tenants
    assert value(registry, "frozen") == 0
    safejax.freeze()
    try:
        assert value(registry, "frozen") == 1
    finally:
        safejax.unsafe_unfreeze()


def test_compile_cache_is_counted(registry, tmp_path):
    def fresh():
        return safejax.safe_jit(lambda x: jnp.tanh(x) * 17)

    ring = safejax.KeyRing.generate()
    with safejax.compile_cache(tmp_path / "cache", key=ring) as cache:
        fresh()(1.0)
        fresh()(1.0)
        entries = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        for path in entries:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        fresh()(1.0)
        stats = cache.stats()

    assert value(registry, "cache_hits_total") == stats.hits >= 1
    assert value(registry, "cache_misses_total") == stats.misses >= 2
    for reason, count in stats.rejects.items():
        assert value(registry, "cache_rejects_total", reason=reason) == count >= 1
    assert stats.rejects


def test_every_kind_of_event_has_its_counter(registry):
    for kind, measure in _measures._BY_KIND.items():
        details = {"category": "c", "decision": "log", "reason": "link"}
        emit(kind, "f", code="SJ999", details=details)
        known = {"function": "f", "code": "SJ999", **details}
        labels = {name: known[name] for name in measure.labels}
        assert value(registry, f"{measure.name}_total", **labels) == 1


def test_kind_that_is_not_known_here_is_left_alone(registry):
    before = client.generate_latest(registry)
    emit("something new", "f")

    assert client.generate_latest(registry) == before


# --- installing ---------------------------------------------------------------------


def test_installed_twice_counts_once(registry):
    again = prometheus.install(registry=registry)
    emit("evicted", "f")

    assert value(registry, "evictions_total", function="f") == 1
    assert prometheus.install(registry=registry) is again


def test_registries_count_each_for_itself(registry):
    other = client.CollectorRegistry()
    with contextlib.closing(prometheus.install(registry=other)):
        emit("evicted", "f")
    emit("evicted", "f")

    assert value(registry, "evictions_total", function="f") == 2
    assert value(other, "evictions_total", function="f") is None


def test_closed_exporter_leaves_nothing_and_can_be_installed_again():
    registry = client.CollectorRegistry()
    exporter = prometheus.install(registry=registry)
    exporter.close()
    exporter.close()
    assert client.generate_latest(registry) == b""
    assert _events._listeners == ()

    second = prometheus.install(registry=registry)
    exporter.close()
    emit("evicted", "f")
    assert value(registry, "evictions_total", function="f") == 1
    second.close()


def test_default_is_the_registry_of_the_client():
    with contextlib.closing(prometheus.install()):
        emit("evicted", "f")
        assert value(client.REGISTRY, "evictions_total", function="f") == 1


def test_registry_that_has_such_a_name_is_refused_and_stays_as_it_was():
    registry = client.CollectorRegistry()
    client.Gauge("safejax_frozen", "another's", registry=registry)
    before = client.generate_latest(registry)
    with pytest.raises(ValueError, match="safejax_frozen"):
        prometheus.install(registry=registry)

    assert client.generate_latest(registry) == before
    assert _events._listeners == ()


@pytest.mark.parametrize("module", [prometheus, opentelemetry])
@pytest.mark.parametrize(("most", "error"), [(0, ValueError), (1.5, TypeError)])
def test_function_cap_that_is_no_count_is_refused(module, most, error):
    with pytest.raises(error, match="max_functions"):
        module.install(max_functions=most)


@pytest.mark.parametrize("module", [prometheus, opentelemetry])
def test_example_of_install_runs(module):
    result = doctest.testmod(module)

    assert result.attempted > 0
    assert result.failed == 0
    assert _events._listeners == ()


# --- labels -------------------------------------------------------------------------


def test_function_names_are_bounded(registry):
    for number in range(1000):
        emit("evicted", f"f{number}")
    text = client.generate_latest(registry).decode()

    assert len(re.findall(r"^safejax_evictions_total\{", text, re.M)) == 64 + 1
    assert value(registry, "evictions_total", function="other") == 1000 - 64


def test_codes_are_bounded(registry):
    for number in range(1000):
        emit("failed", "f", code=f"X{number}")

    assert value(registry, "failures_total", function="f", code="other") == 1000 - 64


def test_cap_on_functions_is_what_was_asked_for():
    registry = client.CollectorRegistry()
    exporter = prometheus.install(registry=registry, max_functions=2)
    with contextlib.closing(exporter):
        for name in ("a", "b", "c", "a"):
            emit("evicted", name)

        assert value(registry, "evictions_total", function="a") == 2
        assert value(registry, "evictions_total", function="other") == 1


HOSTILE = ["x" * 1_000_000, 'a"} 1\nsafejax_frozen 1\n#', "\x00", "ü"]


def test_name_that_is_no_text_breaks_a_scrape_of_the_plain_client():
    """What the next test defends against."""
    registry = client.CollectorRegistry()
    client.Counter("calls", "", ["function"], registry=registry).labels("\ud800").inc()

    with pytest.raises(UnicodeEncodeError):
        client.generate_latest(registry)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_function_name_can_not_break_or_forge_a_scrape(registry, name):
    def f(x):
        return x

    f.__name__ = name
    safejax.safe_jit(f)(1.0)
    text = client.generate_latest(registry).decode()

    assert "safejax_compilations_total{" in text
    assert "\nsafejax_frozen 0.0\n" in text
    assert "\nsafejax_frozen 1" not in text
    assert max(map(len, text.splitlines())) < 1000


def test_tenants_are_no_labels(registry):
    with safejax.tenant("mallory"):
        safejax.safe_jit(lambda x: x)(1.0)
        emit("refused", "f", tenant="mallory", code="SJ203")

    assert "mallory" not in client.generate_latest(registry).decode()


def test_threads_lose_no_count(registry):
    def many():
        for _ in range(500):
            emit("evicted", "f")

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        client.generate_latest(registry)
    for thread in threads:
        thread.join()

    assert value(registry, "evictions_total", function="f") == 4000


# --- OpenTelemetry ------------------------------------------------------------------


def test_opentelemetry_counts_the_same():
    ours = Provider()
    exporter = opentelemetry.install(meter_provider=ours.provider)
    with contextlib.closing(exporter):
        safejax.safe_jit(lambda x: x + 2)(1.0)
        emit("refused", "f", code="SJ203")
        values = ours.values()
        live = safejax.process_stats().live

    assert values["safejax.compilations", ("<lambda>",)] == 1
    assert values["safejax.refusals", ("f", "SJ203")] == 1
    assert values["safejax.compile", ("compile",)] == 1
    assert values["safejax.live_programs", ()] == live
    assert ("safejax.compile_workers", ("idle",)) in values


def test_opentelemetry_installed_twice_counts_once():
    ours = Provider()
    exporter = opentelemetry.install(meter_provider=ours.provider)
    assert opentelemetry.install(meter_provider=ours.provider) is exporter
    emit("evicted", "f")
    exporter.close()

    assert ours.values()["safejax.evictions", ("f",)] == 1


def test_opentelemetry_closed_counts_nothing_until_it_is_installed_again():
    ours = Provider()
    first = opentelemetry.install(meter_provider=ours.provider)
    emit("evicted", "f")
    first.close()
    emit("evicted", "f")
    closed = ours.values()
    opentelemetry.install(meter_provider=ours.provider)
    emit("evicted", "f")
    again = ours.values()
    first.close()

    assert closed["safejax.evictions", ("f",)] == 1
    assert ("safejax.live_programs", ()) not in closed
    assert again["safejax.evictions", ("f",)] == 2
    assert ("safejax.live_programs", ()) in again
    assert _events._listeners == ()


def test_opentelemetry_counts_once_where_the_global_provider_comes_later(monkeypatch):
    before, later = otel.MeterProvider(), Provider()
    chosen = before
    monkeypatch.setattr(opentelemetry.metrics, "get_meter_provider", lambda: chosen)
    early = opentelemetry.install()
    chosen = later.provider

    assert opentelemetry.install() is early
    assert opentelemetry.install(meter_provider=later.provider) is early
    other = Provider()
    separate = opentelemetry.install(meter_provider=other.provider)
    assert separate is not early
    early.close()
    separate.close()


# --- without the extras, and the dashboard ------------------------------------------


@pytest.mark.parametrize(
    ("name", "package"),
    [("prometheus", "prometheus-client"), ("opentelemetry", "opentelemetry-api")],
)
def test_without_its_package_the_import_says_what_to_install(
    name, package, monkeypatch
):
    missing = package.replace("-api", "").replace("-", "_")
    monkeypatch.setitem(sys.modules, missing, None)
    place = {"prometheus": prometheus, "opentelemetry": opentelemetry}[name].__file__

    with pytest.raises(ImportError, match=f"pip install {package}"):
        runpy.run_path(place)


def test_importing_safejax_imports_no_extra():
    code = (
        "import safejax, sys; print([m for m in ('prometheus_client', 'opentelemetry')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def queries(dashboard: dict) -> list[str]:
    panels = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    return panels + [
        variable["definition"]
        for variable in dashboard["templating"]["list"]
        if "definition" in variable
    ]


def exported(registry) -> dict[str, set[str]]:
    """The labels that each name of a sample can have."""
    labels = {}
    for measure in _measures.MEASURES:
        name, own = prometheus._name(measure), set(measure.labels)
        endings = {
            "gauge": [""],
            "histogram": ["_sum", "_count", "_bucket"],
        }.get(measure.kind, ["_total"])
        for ending in endings:
            labels[name + ending] = own | ({"le"} if ending == "_bucket" else set())
    return labels


def dashboard_faults(texts: list[str], names: dict[str, set[str]]) -> list[str]:
    faults = []
    for text in texts:
        used = re.findall(r"safejax_\w+", text)
        faults += [f"no metric {name}" for name in used if name not in names]
        grouped = {
            label.strip()
            for by in re.findall(r"by \(([^)]*)\)", text)
            for label in by.split(",")
        }
        known = {"instance"}.union(*(names.get(name, set()) for name in used))
        faults += [f"no label {label}" for label in sorted(grouped - known)]
    return faults


def test_every_query_of_the_dashboard_names_metrics_and_labels_that_exist(registry):
    texts = queries(json.loads(DASHBOARD.read_text(encoding="utf-8")))

    assert len(texts) > 15
    assert dashboard_faults(texts, exported(registry)) == []


def test_alerts_of_the_page_name_metrics_that_exist(registry):
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    alerts = re.findall(r"^ +expr: (.+)$", page, re.M)

    assert len(alerts) == 5
    assert dashboard_faults(alerts, exported(registry)) == []


def test_page_lists_every_metric_with_its_labels():
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `saf")]
    listed = {
        name: tuple(re.findall(r"`(\w+)`", labels))
        for _, names, labels, *_ in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    total = {"counter": "_total", "total": "_total"}
    expected = {
        prometheus._name(m) + total.get(m.kind, ""): m.labels
        for m in _measures.MEASURES
    }

    assert listed == expected


def test_dashboard_shows_every_metric(registry):
    text = " ".join(queries(json.loads(DASHBOARD.read_text(encoding="utf-8"))))

    unused = [m.name for m in _measures.MEASURES if prometheus._name(m) not in text]
    assert unused == []


def test_the_check_of_the_dashboard_can_fail(registry):
    names = exported(registry)

    assert dashboard_faults(["rate(safejax_nothing_total[5m])"], names)
    assert dashboard_faults(["sum by (tenant) (safejax_refusals_total)"], names)


def test_names_of_the_registry_are_those_of_the_table(registry):
    for kind, measure in _measures._BY_KIND.items():
        emit(kind, "f", details={"phases": {"trace": 1.0}})
        assert measure.kind == "counter"
    text = client.generate_latest(registry).decode()
    found = set(re.findall(r"^(safejax_\w+?)(?:_created)?(?:\{| )", text, re.M))
    created = {name for name in found if name.endswith("_created")}

    idle_pool = {"safejax_worker_outcomes_total"}
    assert exported(registry).keys() - (found - created) <= idle_pool


def test_event_of_a_compilation_carries_its_phases():
    seen: list[Event] = []
    stop = safejax.on_event(seen.append)
    try:
        safejax.safe_jit(lambda x: x + 5)(1.0)
    finally:
        stop()

    (compiled,) = [event for event in seen if event.kind == "compiled"]
    assert list(compiled.details["phases"]) == [
        *("trace", "lower", "queue", "compile", "load")
    ]
