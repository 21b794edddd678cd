"""Budgets that end a trace while it goes on, and what they leave behind."""

from __future__ import annotations

import contextlib
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import events, outcome

import safejax
from safejax import Limits, ProgramRejectedError, safe_jit


def chain(steps, done=lambda i: None):
    def loop(x):
        for i in range(steps):
            x = jnp.sin(x)
            done(i)
        return x

    return loop


def test_a_million_steps_end_at_the_budget():
    reached = []
    f = safe_jit(chain(1_000_000, reached.append), limits=Limits(max_equations=100))

    with pytest.raises(ProgramRejectedError) as caught:
        f(1.0)

    assert caught.value.code == "SJ403"
    assert 0 < len(reached) <= 100
    assert caught.value.details["got"] == 101
    assert any("test_trace_budgets.py" in s for s in caught.value.details["sources"])
    assert f.stats().compiles == 0


def test_exactly_the_budget_is_served():
    assert safe_jit(chain(100), limits=Limits(max_equations=100))(1.0).shape == ()
    assert safe_jit(chain(100), limits=Limits(max_equations=None))(1.0).shape == ()


@pytest.mark.parametrize("steps", [0, 1])
def test_a_budget_of_no_equations_admits_only_the_identity(steps):
    f = safe_jit(chain(steps), limits=Limits(max_equations=0))

    result = outcome(f, 1.0)

    assert isinstance(result, ProgramRejectedError) == bool(steps)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, 3)[0],
        lambda f: lambda x: jax.lax.cond(x > 0, f, lambda y: y, x),
        jax.jit,
        jax.grad,
        lambda f: lambda x: jax.vmap(f)(x[None])[0],
        jax.checkpoint,
    ],
    ids=["scan", "cond", "jit", "grad", "vmap", "checkpoint"],
)
def test_nested_programs_count(wrap):
    f = safe_jit(wrap(chain(10_000)), limits=Limits(max_equations=200))

    assert outcome(f, 1.0).code == "SJ403"


def test_code_that_catches_the_refusal_is_refused_all_the_same():
    def stubborn(x):
        for _ in range(500):
            with contextlib.suppress(Exception):
                x = jnp.sin(x)
        return x

    f = safe_jit(stubborn, limits=Limits(max_equations=100))

    assert outcome(f, 1.0).code == "SJ403"


def test_a_trace_that_takes_too_long_ends_at_a_primitive():
    def slow(x):
        for _ in range(10_000):
            time.sleep(0.01)
            x = jnp.sin(x)
        return x

    f = safe_jit(slow, limits=Limits(trace_timeout_s=0.05))

    error = outcome(f, 1.0)

    assert error.code == "SJ404"
    assert error.details["limit"] == 0.05
    assert "test_trace_budgets.py" in str(error)


def test_a_budget_belongs_to_its_own_thread():
    inside, go_on = threading.Event(), threading.Event()

    def waits(x):
        inside.set()
        assert go_on.wait(30)
        return x + 1

    thread = threading.Thread(
        target=lambda: outcome(safe_jit(waits, limits=Limits(max_equations=2)), 1.0)
    )
    thread.start()
    assert inside.wait(30)
    try:
        assert jax.jit(chain(50))(1.0).shape == ()
    finally:
        go_on.set()
        thread.join()


def test_other_functions_are_not_charged_after_a_refusal():
    assert outcome(safe_jit(chain(9), limits=Limits(max_equations=3)), 1.0).code

    assert jax.jit(chain(50))(1.0).shape == ()
    assert safe_jit(chain(50))(1.0).shape == ()


def test_a_refusal_is_counted_told_and_not_repeated_at_once():
    f = safe_jit(
        chain(50), limits=Limits(max_equations=3, retry_backoff_s=60.0, max_compiles=1)
    )
    with events("refused") as seen:
        assert outcome(f, 1.0).code == "SJ403"
        assert outcome(f, 1.0).code == "SJ205"

    assert [event.code for event in seen] == ["SJ403", "SJ205"]
    assert f.stats().refusals == {"SJ403": 1, "SJ205": 1}
    assert f.stats().live == 0


def test_a_refusal_consumes_no_donated_buffer():
    f = safe_jit(chain(50), limits=Limits(max_equations=3), donate_argnums=0)
    x = jnp.ones(3)

    assert outcome(f, x).code == "SJ403"

    assert not x.is_deleted()


@pytest.mark.parametrize("method", ["trace", "lower", "precompile", "review"])
def test_every_way_to_trace_is_within_the_budget(method):
    f = safe_jit(chain(50), limits=Limits(max_equations=3))

    assert outcome(getattr(f, method), 1.0).code == "SJ403"


def test_under_a_transformation_the_budget_holds_too():
    f = safe_jit(chain(50), limits=Limits(max_equations=3))

    assert outcome(jax.vmap(f), np.ones(3, np.float32)).code == "SJ403"
    assert outcome(jax.jit(f), 1.0).code == "SJ403"


def test_by_default_a_training_step_of_ordinary_size_is_admitted():
    assert safejax.Limits().max_equations >= 1_000_000
    assert safe_jit(chain(2_000))(1.0).shape == ()


@pytest.mark.parametrize(
    "field", ["max_equations", "max_memory_bytes", "max_loop_nesting"]
)
def test_budgets_are_checked_when_they_are_made(field):
    with pytest.raises(ValueError, match=field):
        Limits(**{field: -1})
    with pytest.raises(TypeError, match=field):
        Limits(**{field: 1.5})


def test_the_preset_for_servers_is_strict_and_can_be_changed():
    serving = Limits.serving(max_equations=7)

    assert serving.max_equations == 7
    assert serving.max_memory_bytes is not None
    assert serving.compile_timeout_s is not None
    assert Limits().max_memory_bytes is None
