"""Each row of the guard's table fires, by an alias that nobody announced."""

from __future__ import annotations

import importlib
import inspect
import itertools
import subprocess
import sys
import warnings

import jax
import pytest

import safejax
from safejax.guard import _resolve
from safejax.guard._options import CONDITIONS
from safejax.guard._policy import CATEGORIES
from safejax.guard._scope import guard
from safejax.guard._table import ROWS

# Rows for APIs that only one line of JAX has, or that are gone and must not come back
# unwatched. A JAX that moves others makes this test fail.
GONE = {"jax.experimental.host_callback.call"}
ABSENT = {
    "0.10": {
        "jax.experimental.hijax.HiPrim",
        "jax.experimental.thunky.call_jax",
        "jax.experimental.thunky.custom_call",
        "jax.experimental.thunky.ptx_kernel",
        "jax.extend.core.create_call_primitive",
        "jax.extend.core.primitives.register_call_primitive_rules",
        "jax.interpreters.partial_eval.partial_eval_jaxpr_nounits",
        "jax.profiler.ProfileSession",
        "jax.profiler.export_profile_data",
    },
    "0.12": {
        "jax.experimental.hijax.HiPrimitive",
        "jax.experimental.hijax.VJPHiPrimitive",
    },
}
LINE = ".".join(jax.__version__.split(".")[:2])
ARGUMENTS = {"compiler_options": {"xla_dump_to": "somewhere"}, "allow_pickle": True}


def import_all() -> None:
    for _, path in all_paths():
        parts = path.split(".")
        for end in range(1, len(parts)):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        importlib.import_module(name)
                    except ImportError:
                        break


def all_paths():
    return [(row, path) for row in ROWS for path in row.paths]


def functions(path: str):
    value = _resolve.loaded(path)
    if value is None or value is _resolve.ABSENT:
        return []
    return _resolve.functions_of(value)


@pytest.fixture(scope="module", autouse=True)
def everything_is_loaded():
    import_all()


def harmless_call(function, row):
    """Calls it with ``None`` for whatever it requires; the guard comes first."""
    args, kwargs = [], {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ARGUMENTS and row.api in CONDITIONS:
            kwargs[parameter.name] = ARGUMENTS[parameter.name]
        elif parameter.name == "name" and row.api == "import":
            args.append("safejax_no_such_module")
        elif parameter.default is not parameter.empty:
            continue
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = None
        elif parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        ):
            args.append(None)
        elif parameter.kind is parameter.VAR_KEYWORD and "compiler" in row.api:
            kwargs["compiler_options"] = ARGUMENTS["compiler_options"]
    result = function(*args, **kwargs)
    if inspect.isgenerator(result):
        next(result)
    elif inspect.iscoroutine(result):
        result.send(None)
    return result


@pytest.mark.parametrize(
    ("row", "path"), all_paths(), ids=[f"{r.api}-{p}" for r, p in all_paths()]
)
def test_function_of_a_row_is_refused_by_any_alias(row, path):
    found = functions(path)
    strict = safejax.Policy(**dict.fromkeys(CATEGORIES, "allow"))
    strict = strict.replace(**{row.category: "disallow"})
    for alias in found:
        with guard(strict), pytest.raises(safejax.GuardError) as caught:
            harmless_call(alias, row)

        assert caught.value.details["category"] == row.category
        if not row.api.startswith("jax.stages.Lowered.compile"):
            assert caught.value.details["api"] == row.api
        assert caught.value.details["file"] == __file__


def test_rows_without_anything_to_watch_are_those_of_the_other_line():
    nothing = {
        row.api
        for row in ROWS
        if not row.events and not any(functions(path) for path in row.paths)
    }

    assert nothing == GONE | ABSENT[LINE]


def test_no_row_can_be_reached_by_its_home_before_its_public_place_is_loaded():
    """A public module that nobody imported must not hide the function behind it."""
    script = """
import sys, jax
from safejax.guard._table import ROWS
print(*sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    unreachable = set()
    for row, path in all_paths():
        for function in functions(path):
            home = function.__module__
            known = any(_is_reachable(other, loaded) for other in row.paths)
            if home in loaded and not known:
                unreachable.add(row.api)

    assert unreachable == set()


def _is_reachable(path: str, loaded: set[str]) -> bool:
    parts = path.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((name for name in names if name in sys.modules), None) in loaded


EVENTS = [(row, event) for row in ROWS for event in row.events]
EVENT_ARGUMENTS = {
    "object.__setattr__": (None, "__code__", None),
    "object.__delattr__": (None, "__code__"),
    "open": ("/etc/hostname", "r", 0),
}


@pytest.mark.parametrize(("row", "event"), EVENTS, ids=[e for _, e in EVENTS])
def test_audit_event_of_a_row_is_refused(row, event):
    with guard(), pytest.raises(safejax.GuardError) as caught:
        sys.audit(event, *EVENT_ARGUMENTS.get(event, ()))

    assert caught.value.details["api"] == row.api
    assert caught.value.details["category"] == row.category


def test_every_api_and_every_source_has_one_row():
    apis = [row.api for row in ROWS]
    events = [event for _, event in EVENTS]

    assert len(apis) == len(set(apis))
    assert len(events) == len(set(events))


def test_no_two_rows_watch_the_same_function():
    owners: dict[int, set[str]] = {}
    for row, path in all_paths():
        for function in functions(path):
            owners.setdefault(id(function), set()).add(row.api)
    shared = {api for apis in owners.values() if len(apis) > 1 for api in apis}

    assert all(api.startswith("jax.stages.Lowered.compile") for api in shared)


def test_every_row_has_a_reason_and_every_category_has_rows():
    assert all(row.reason for row in ROWS)
    assert {row.category for row in ROWS} == set(CATEGORIES)


# --- the table is complete --------------------------------------------------------

# Words in the names of JAX's public API that stand for what a guard must know of.
SUSPICIOUS = (
    "callback",
    "serializ",
    "jaxpr",
    "register_",
    "ffi",
    "profile",
    "export",
    "lowering",
    "cache_dir",
    "breakpoint",
)
PUBLIC = (
    "jax",
    "jax.debug",
    "jax.distributed",
    "jax.experimental",
    "jax.experimental.buffer_callback",
    "jax.experimental.serialize_executable",
    "jax.export",
    "jax.extend.backend",
    "jax.extend.core",
    "jax.extend.xla",
    "jax.ffi",
    "jax.monitoring",
    "jax.profiler",
)
NOT_WATCHED = {
    # data about shapes, not programs
    "jax.export.symbolic_shape",
    # writes into an open profile, or names a part of it
    "jax.profiler.ProfileData",
    "jax.profiler.ProfileEvent",
    "jax.profiler.ProfileLine",
    "jax.profiler.ProfileOptions",
    "jax.profiler.ProfilePlane",
    # a class of values, made by JAX itself
    "jax.extend.core.ClosedJaxpr",
    "jax.extend.core.Jaxpr",
    "jax.extend.core.JaxprEqn",
    "jax.extend.core.JaxprTypeError",
    "jax.extend.core.eval_jaxpr_transpose",
    "jax.extend.core.JaxprPpContext",
    # undoes what is watched
    "jax.monitoring.unregister_event_listener",
    "jax.monitoring.unregister_event_duration_listener",
    "jax.monitoring.unregister_event_time_span_listener",
    "jax.monitoring.unregister_scalar_listener",
    "jax.export.default_export_platform",
    "jax.export.DisabledSafetyCheck",
    "jax.export.Exported",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_api_with_a_suspicious_name_has_a_row(name: str):
    module = importlib.import_module(name)
    watched = {
        id(function) for row, path in all_paths() for function in functions(path)
    }
    missed = set()
    for attribute, value in vars(module).items():
        is_suspicious = any(word in attribute.lower() for word in SUSPICIOUS)
        if attribute.startswith("_") or not is_suspicious or not callable(value):
            continue
        found = _resolve.functions_of(value)
        if not any(id(function) in watched for function in found):
            missed.add(f"{name}.{attribute}")

    assert missed - NOT_WATCHED == set()


def test_rows_are_grouped_by_category():
    groups = [category for category, _ in itertools.groupby(r.category for r in ROWS)]

    assert groups == list(CATEGORIES)
