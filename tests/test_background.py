"""Calls that are answered while their program is made, and what they are promised."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import (
    PATIENT,
    SQUARE,
    endless,
    events,
    outcome,
    process_limits,
    race,
    slow,
    until,
)

import safejax
from safejax import CompileLimitError, CompilePendingError, Limits, safe_jit, spec

PAIR = np.ones(2, np.float32)
LIMITS = [
    Limits(compile_timeout_s=120.0),
    Limits(compile_timeout_s=120.0, on_limit="evict"),
    Limits(),
]


def background(fun, fallback="raise", limits=PATIENT, **options):
    return safe_jit(
        fun, on_new_signature="background", fallback=fallback, limits=limits, **options
    )


@pytest.mark.parametrize("contract", [None, {"x": spec("f32[n]", finite=True)}])
@pytest.mark.parametrize("limits", LIMITS)
def test_the_first_call_is_pending_and_a_later_one_is_served(limits, contract):
    traced = []

    def f(x):
        traced.append(threading.get_ident())
        return x * 2

    f = background(f, limits=limits, contract=contract)
    with events("pending", "compiled") as seen:
        with pytest.raises(CompilePendingError) as caught:
            f(PAIR)
        until(lambda: f.stats().live == 1)
        result = f(PAIR)

    assert caught.value.retry_after_s > 0
    assert caught.value.code == "SJ206"
    assert result.tolist() == [2, 2]
    assert [event.kind for event in seen] == ["pending", "compiled"]
    # Traced and compiled once, and not by the thread that called.
    assert len(traced) == f.stats().compiles == 1
    assert traced[0] != threading.get_ident()


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("fallback", ["eager", lambda x: np.asarray(x) - 7])
def test_a_fallback_answers_meanwhile(fallback, limits):
    f = background(lambda x: x * 2, fallback, limits)
    first = f(PAIR)
    until(lambda: f.stats().live == 1)

    assert first.tolist() == ([2, 2] if fallback == "eager" else [-6, -6])
    assert f(PAIR).tolist() == [2, 2]
    assert f.stats().compiles == 1


def test_a_call_does_not_wait_for_a_compilation_however_many_ask():
    f = background(endless(), limits=Limits(compile_timeout_s=3.0))

    results = race(lambda _: f(SQUARE))

    assert {type(r) for r in results} == {CompilePendingError}
    until(lambda: f.stats().kills == 1)
    until(lambda: outcome(f, SQUARE).code == "SJ205")
    assert f.stats().kills == 1


@pytest.mark.parametrize(
    "donation",
    [{"donate_argnums": 0}, {"donate_argnums": (0,)}, {"donate_argnames": "x"}],
)
def test_donation_is_refused_at_decoration(donation):
    with pytest.raises(ValueError, match="donated"):
        background(lambda x: x, **donation)
    assert safe_jit(lambda x: x, **donation, limits=PATIENT)(jnp.ones(2)).shape == (2,)


def test_a_failure_is_met_by_the_next_call():
    f = background(endless(), limits=Limits(compile_timeout_s=0.3, retry_backoff_s=300))
    assert isinstance(outcome(f, SQUARE), CompilePendingError)
    # It ran out of time while it was lowered, or was killed while it was compiled.
    until(lambda: outcome(f, SQUARE).code == "SJ205")

    error = outcome(f, SQUARE)

    assert error.code == "SJ205"
    # Failed once: the back-off is the first one.
    assert 200 < error.retry_after_s <= 300


def test_a_function_that_raises_while_traced_is_met_by_the_next_call():
    def bad(x):
        raise TypeError("no")

    f = background(bad, limits=Limits(retry_backoff_s=300))
    assert isinstance(outcome(f, PAIR), CompilePendingError)
    until(lambda: outcome(f, PAIR).code == "SJ205")

    assert 200 < outcome(f, PAIR).retry_after_s <= 300


@pytest.mark.parametrize("fallback", ["raise", "eager", lambda x: x])
def test_refusals_come_before_the_fallback(fallback):
    f = background(lambda x: x * 2, fallback, Limits(max_compiles=1))
    outcome(f, PAIR)
    until(lambda: f.stats().live == 1)

    with pytest.raises(CompileLimitError) as caught:
        f(np.ones(3, np.float32))
    assert caught.value.code == "SJ201"
    assert f(PAIR).tolist() == [2, 2]


def test_the_tenant_is_charged_that_asked():
    f = background(lambda x: x * 5)
    with process_limits(max_compiles_per_tenant=1), safejax.tenant("a"):
        outcome(f, PAIR)
        until(lambda: f.stats().live == 1)
        assert f.stats().tenants == {"a": 1}
        with pytest.raises(CompileLimitError) as caught:
            f(np.ones(3, np.float32))
    assert caught.value.code == "SJ207"
    with process_limits(max_compiles_per_tenant=1), safejax.tenant("b"):
        assert isinstance(outcome(f, np.ones(3, np.float32)), CompilePendingError)
        until(lambda: f.stats().live == 2)


def test_precompiling_waits_for_the_compilation_that_is_under_way():
    f = background(slow())
    outcome(f, SQUARE)

    assert f.precompile(SQUARE).error is None
    assert f.stats().compiles == 1
    assert f(SQUARE).shape == (8, 8)


@jax.tree_util.register_pytree_node_class
class Mode:
    """A static value that is also a pytree, and equal only to itself."""

    def tree_flatten(self):
        return (), None

    @classmethod
    def tree_unflatten(cls, _, __):
        return cls()


def test_static_arguments_reach_the_program_as_they_are():
    f = background(lambda x, mode: x * 2, static_argnames="mode")
    mode = Mode()
    outcome(f, PAIR, mode)
    until(lambda: f.stats().live == 1)

    assert f(PAIR, mode).tolist() == [2, 2]
    assert f.stats().compiles == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: 3.0,
        lambda: np.float32(3),
        lambda: np.arange(3),
        lambda: np.ones(3, np.float64),
        lambda: jnp.ones(3),
        lambda: jax.device_put(jnp.ones(3), jax.devices()[1]),
        lambda: {"a": [jnp.ones(2), 1], "b": None},
    ],
)
def test_every_kind_of_argument_compiles_once(make):
    f = background(lambda x: jax.tree.map(lambda leaf: leaf * 2, x))
    outcome(f, make())
    until(lambda: f.stats().live == 1)

    f(make())
    assert f.stats().compiles == 1


def test_a_new_placement_of_a_known_signature_is_served():
    f = background(lambda x: x + 1)
    outcome(f, PAIR)
    until(lambda: f.stats().live == 1)
    moved = jax.device_put(PAIR, jax.devices()[1])

    assert f(moved).tolist() == [2, 2]
    assert f(moved).devices() == {jax.devices()[1]}


def test_under_transformations_a_call_is_compiled_as_always():
    f = background(lambda x: (x * x).sum())

    assert jax.grad(f)(jnp.ones(2)).tolist() == [2, 2]
    assert jax.jit(f)(jnp.ones(2)) == 2


def test_a_compilation_in_another_configuration_is_right():
    f = background(lambda x: x * 2)
    with jax.enable_x64(True):
        big = np.full(2, 1e300)
        outcome(f, big)
        until(lambda: f.stats().live >= 1)
        assert f(big).tolist() == [2e300, 2e300]


@pytest.mark.parametrize("wrong", ["wait", None, 3])
def test_unknown_words_are_refused(wrong):
    with pytest.raises(ValueError, match="on_new_signature"):
        safe_jit(lambda x: x, on_new_signature=wrong)
    with pytest.raises(ValueError, match="fallback"):
        safe_jit(lambda x: x, on_new_signature="background", fallback=wrong)
