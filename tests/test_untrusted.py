"""``safe_jit(untrusted=True)`` and ``policy=``: guard, review and what they cost."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import WAIT_S, events, outcome, python, until

import safejax
from safejax import GuardError, Limits, Policy, ProgramRejectedError, safe_jit

ROWS = np.ones((4, 3), np.float32)
NEARBY = Limits(max_compiles=8)  # compiled in this process: quicker


def anew(f):
    """The same function as another object, with an account of its own."""
    return lambda x: f(x)  # noqa: PLW0108  another object is what is wanted


def untrusted(f, **options):
    return safe_jit(f, untrusted=True, limits=NEARBY, **options)


def introspects(x):
    jax.make_jaxpr(jnp.sin)(x)
    return x


def calls_back(x):
    return jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def model(w, x):
    def step(carry, row):
        return carry + jnp.tanh(row @ w), row.sum()

    return jax.lax.scan(step, jnp.zeros(3), x)


def test_an_ordinary_model_runs_and_trains():
    f = untrusted(model)
    w = np.eye(3, dtype=np.float32)

    np.testing.assert_array_equal(f(w, ROWS)[0], jax.jit(model)(w, ROWS)[0])
    slopes = untrusted(jax.grad(lambda w, x: model(w, x)[0].sum()))(w, ROWS)
    assert slopes.shape == (3, 3)


@pytest.mark.parametrize("f", [introspects, calls_back])
def test_advanced_apis_are_refused_while_traced(f):
    guarded = untrusted(anew(f))

    error = outcome(guarded, ROWS)

    assert (type(error), error.code) == (GuardError, "SJ301")
    assert "test_untrusted.py" in str(error)
    assert guarded.stats().compiles == 0


def test_without_it_they_are_not():
    assert safe_jit(calls_back)(ROWS).shape == ROWS.shape


def test_what_the_guard_lets_pass_the_review_refuses():
    lenient = Policy.strict().replace(callbacks="allow")
    f = safe_jit(anew(calls_back), policy=lenient)

    error = outcome(f, ROWS)

    assert (type(error), error.code) == (ProgramRejectedError, "SJ401")
    assert "pure_callback" in str(error)


def test_what_both_allow_by_name_runs():
    named = Policy.strict().replace(
        callbacks="allow",
        allow_primitives={"pure_callback"},
        allow_custom_calls={"xla_ffi_python_cpu_callback"},
    )

    assert safe_jit(calls_back, policy=named)(ROWS).shape == ROWS.shape


def test_a_known_call_is_served_without_another_trace():
    traces = []

    def f(x):
        traces.append(1)
        return x + 1

    guarded = untrusted(f)
    for _ in range(3):
        guarded(ROWS)

    assert len(traces) == 1
    assert guarded.stats().compiles == 1


def test_jax_dropping_its_traces_does_not_drop_the_guard():
    asked = []

    def f(x):
        if asked:
            jax.make_jaxpr(jnp.sin)(x)
        return x + 1

    guarded = untrusted(f)
    guarded(ROWS)
    asked.append(1)
    jax.clear_caches()

    assert isinstance(outcome(guarded, ROWS), GuardError)


@pytest.mark.parametrize(
    "call",
    [
        lambda f: jax.jit(f)(ROWS),
        lambda f: jax.vmap(f)(ROWS),
        lambda f: jax.grad(lambda x: f(x).sum())(ROWS),
        lambda f: f.trace(ROWS),
        lambda f: f.lower(ROWS),
        lambda f: f.precompile(ROWS),
        lambda f: f.review(ROWS),
        lambda f: jax.eval_shape(f, ROWS),
    ],
    ids=["jit", "vmap", "grad", "trace", "lower", "precompile", "review", "eval_shape"],
)
def test_every_way_to_trace_is_guarded(call):
    assert isinstance(outcome(call, untrusted(anew(introspects))), GuardError)


@pytest.mark.parametrize("on_limit", ["raise", "evict"])
@pytest.mark.parametrize("contract", [None, {"x": None}])
def test_every_kind_of_function_is_guarded(contract, on_limit):
    limits = Limits(on_limit=on_limit)
    f = safe_jit(anew(introspects), contract=contract, limits=limits, untrusted=True)
    assert isinstance(outcome(f, ROWS), GuardError)

    fine = safe_jit(jnp.sin, limits=limits, untrusted=True)
    assert fine(ROWS).shape == ROWS.shape


def test_what_runs_without_being_compiled_is_not_reviewed_so_it_is_refused():
    with pytest.raises(ValueError, match="eager"):
        untrusted(introspects, on_new_signature="background", fallback="eager")


def test_a_background_compilation_is_guarded(caplog):
    f = untrusted(anew(introspects), on_new_signature="background")
    assert outcome(f, ROWS).code == "SJ206"

    until(lambda: f.stats().refusals.get("SJ301"))

    error = outcome(f, ROWS)
    assert error.code == "SJ205"
    assert "[SJ301] jax.make_jaxpr() refused" in str(error)


def test_programs_that_others_made_of_the_function_are_not_served():
    assert jax.jit(calls_back)(ROWS).shape == ROWS.shape
    assert safe_jit(calls_back)(ROWS).shape == ROWS.shape
    assert safe_jit(calls_back, policy=Policy.permissive()) is not None

    assert isinstance(outcome(untrusted(calls_back), ROWS), GuardError)
    assert safe_jit(calls_back)(ROWS).shape == ROWS.shape


def test_wrapped_anew_a_guarded_function_has_no_new_allowance():
    for n in (1, 2, 3):
        f = safe_jit(model, untrusted=True, limits=Limits(max_compiles=2))
        result = outcome(f, np.eye(3, dtype=np.float32), ROWS[:n])

    assert result.code == "SJ201"


def test_a_function_inside_a_guarded_one_is_guarded_by_both():
    inner = safe_jit(anew(introspects), policy=Policy.permissive(), limits=NEARBY)
    outer = untrusted(inner)

    assert isinstance(outcome(outer, ROWS), GuardError)


def test_an_open_scope_reaches_functions_that_have_no_policy():
    f = safe_jit(anew(introspects))
    assert f(ROWS).shape == ROWS.shape

    with safejax.guard():
        assert isinstance(outcome(f, ROWS), GuardError)
    assert f(ROWS).shape == ROWS.shape


LATE_SCOPE = """
import jax, numpy as np, safejax
f = safejax.safe_jit(lambda x: x + 1)
f(np.ones(3))
f.freeze()
with safejax.guard():
    pass
untrusted = safejax.safe_jit(lambda x: x - 1, untrusted=True)
untrusted.precompile(np.ones(3))
f(np.ones(3))
assert f.stats().compiles == 1
"""


def test_a_first_scope_that_comes_late_leaves_known_programs_known():
    process = python(LATE_SCOPE)
    _, err = process.communicate(timeout=WAIT_S)

    assert process.returncode == 0, err


def test_untrusted_functions_have_strict_limits_unless_given():
    def loop(x):
        for _ in range(60_000):
            x = jnp.sin(x)
        return x

    assert outcome(safe_jit(loop, untrusted=True), 1.0).code == "SJ403"


def test_log_tells_and_lets_pass(caplog):
    f = safe_jit(lambda x: jax.eval_shape(jnp.sin, x) and x, policy=Policy.permissive())
    with caplog.at_level(logging.INFO, "safejax.guard"), events("guard") as seen:
        f(ROWS)

    assert [event.details["api"] for event in seen] == ["jax.eval_shape"]
    assert "jax.eval_shape" in caplog.text


def test_a_refusal_is_an_event():
    with events("guard") as seen:
        outcome(untrusted(anew(introspects)), ROWS)

    assert seen
    assert {event.code for event in seen} == {"SJ301"}
    assert json.dumps([event.as_dict() for event in seen])


def test_the_errors_survive_a_pickle_round_trip():
    error = outcome(untrusted(anew(introspects)), ROWS)

    again = pickle.loads(pickle.dumps(error))

    assert str(again) == str(error)
    assert again.details == error.details


def test_review_reports_without_compiling():
    f = safe_jit(anew(calls_back))

    report = f.review(ROWS)

    assert "pure_callback" in str(report)
    assert json.loads(report.to_json())
    assert f.stats().compiles == 0


@pytest.mark.parametrize("wrong", ["strict", None.__class__, 1])
def test_a_policy_of_another_type_is_refused(wrong):
    with pytest.raises(TypeError, match="policy"):
        safe_jit(lambda x: x, policy=wrong)


def reads(x):
    Path("/etc/hostname").read_text(encoding="ascii")
    return x


@pytest.mark.parametrize("contract", [None, {"x": safejax.spec("f32[b, 3]")}])
@pytest.mark.parametrize("on_limit", ["raise", "evict"])
def test_eval_shape_of_a_guarded_function_is_guarded(contract, on_limit):
    assert jax.jit(anew(reads)).eval_shape(ROWS).shape == (4, 3)  # plain JAX reads
    limits = Limits(on_limit=on_limit, max_equations=5)

    def f(function):
        return safe_jit(function, untrusted=True, limits=limits, contract=contract)

    def model(x):
        return x * 2

    def endless(x):
        while True:
            x = x + 1

    error = outcome(f(lambda x: reads(x)).eval_shape, ROWS)  # noqa: PLW0108  anew
    assert isinstance(error, GuardError)
    assert error.details["category"] == "system"
    assert outcome(f(endless).eval_shape, ROWS).code == "SJ403"
    assert f(model).eval_shape(ROWS).shape == (4, 3)


@pytest.mark.parametrize("contract", [None, {"x": safejax.spec("f32[b, 3]")}])
@pytest.mark.parametrize("on_limit", ["raise", "evict"])
def test_a_guarded_function_does_not_run_uncompiled(contract, on_limit):
    ran = []

    def f(x):
        ran.append(1)
        return x * 2

    limits = Limits(on_limit=on_limit)
    guarded = safe_jit(f, untrusted=True, limits=limits, contract=contract)
    with jax.disable_jit():
        jax.jit(anew(f))(ROWS)  # plain JAX runs it
        assert ran == [1]
        error = outcome(guarded, ROWS)

    assert isinstance(error, ProgramRejectedError)
    assert error.code == "SJ411"
    assert ran == [1]
    assert guarded(ROWS).shape == (4, 3)


def test_what_stands_for_the_function_is_the_function():
    guarded = untrusted(model)

    assert guarded.__wrapped__ is model
    assert safe_jit(model, limits=Limits(max_memory_bytes=2**30)).__wrapped__ is model
