"""Caps are exact when threads race, and nothing waits for itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safejax import CompileLimitError, ContractError, Limits, safe_jit, spec

f32 = np.float32
THREADS = 8
WAIT_S = 60


def race(work):
    """Runs ``work(i)`` in threads that start together; results or errors, in order."""
    barrier = threading.Barrier(THREADS)

    def run(i):
        barrier.wait(WAIT_S)
        try:
            return work(i)
        except Exception as error:  # noqa: BLE001  the outcome is what is tested
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(run, i) for i in range(THREADS)]
        return [future.result(WAIT_S) for future in futures]


CONTRACTS = [None, {"x": spec("f32[b]", finite=True)}]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_threads_with_one_new_signature_make_one_program(contract):
    traced = []
    f = safe_jit(
        lambda x: traced.append(1) or x * 2,
        contract=contract,
        limits=Limits(max_compiles=1),
    )

    results = race(lambda _: f(np.ones(3, f32)).tolist())

    assert results == [[2, 2, 2]] * THREADS
    assert len(traced) == f.stats().live == f.stats().compiles == 1


@pytest.mark.parametrize("contract", CONTRACTS)
def test_threads_with_distinct_signatures_never_exceed_the_cap(contract):
    limit = 3
    f = safe_jit(lambda x: x * 2, contract=contract, limits=Limits(max_compiles=limit))

    results = race(lambda i: f(np.ones(i + 1, f32)))

    errors = [r for r in results if isinstance(r, Exception)]
    assert {type(e) for e in errors} == {CompileLimitError}
    assert len(errors) == THREADS - limit
    assert f.stats().live == f.stats().compiles == limit
    assert f.stats().refused >= len(errors)


def test_threads_evicting_from_each_other_get_right_answers():
    f = safe_jit(lambda x: x.sum(), limits=Limits(max_compiles=2, on_limit="evict"))

    def work(i):
        sizes = [(i + k) % 4 + 1 for k in range(6)]
        return [float(f(np.ones(s, f32))) == s for s in sizes]

    results = race(work)

    # Eight threads share two places: one may be taken, but no answer is wrong.
    for result in results:
        assert isinstance(result, CompileLimitError) or all(result)
    assert f.stats().live <= 2


def test_threads_mixing_good_and_bad_calls_get_their_own_verdicts():
    f = safe_jit(
        lambda p: 0, contract={"p": {"a": spec("f32[2]", finite=True), "b": None}}
    )
    good, bad, nan = np.ones(2, f32), np.ones(3, f32), np.array([np.nan, 0], f32)
    trees = [{"a": good, "b": 0}, {"a": [good], "b": 0}]
    wrong = [{"a": bad, "b": 0}, {"a": nan, "b": 0}, {"a": good, "c": 0}]

    def work(i):
        verdicts = []
        for k in range(40):
            f(trees[(i + k) % 2])
            try:
                f(wrong[(i + k) % 3])
            except ContractError:
                verdicts.append(True)
        return len(verdicts)

    assert race(work) == [40] * THREADS


def test_a_thread_that_fails_lets_the_waiting_ones_try():
    attempts = []
    lock = threading.Lock()

    def f(x):
        with lock:
            attempts.append(1)
            first = len(attempts) == 1
        if first:
            raise ValueError("once")
        return x

    g = safe_jit(f, limits=Limits(max_compiles=1))
    results = race(lambda _: g(np.ones(2, f32)))

    assert sum(isinstance(r, ValueError) for r in results) == 1
    assert g.stats().live == 1


def within_time(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(WAIT_S)


def test_a_function_may_call_itself():
    def f(x):
        return x if x.shape[0] == 1 else g(x[1:]) + x[0]

    g = safe_jit(f, limits=Limits(max_compiles=2))

    assert within_time(lambda: g(jnp.arange(4.0))).tolist() == [6]


def test_a_function_may_call_itself_outside_of_its_trace():
    def f(x):
        with jax.ensure_compile_time_eval():
            inner = g(np.ones(x.shape[0] - 1, f32)) if x.shape[0] > 1 else 0
        return x.sum() + inner

    g = safe_jit(f, limits=Limits(max_compiles=4))

    assert float(within_time(lambda: g(np.ones(3, f32)))) == 6
    assert g.stats().live <= 4


@pytest.mark.parametrize("on_limit", ["raise", "evict"])
def test_a_callback_may_call_the_function_that_runs(on_limit):
    def host(x):
        return np.asarray(g(np.asarray(x)[1:])) if x.shape[0] > 1 else np.asarray(x[0])

    def f(x):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(host, shape, x)

    g = safe_jit(f, limits=Limits(max_compiles=4, on_limit=on_limit))

    assert float(within_time(lambda: g(np.arange(3, dtype=f32)))) == 2


def test_a_callback_refused_at_the_cap_does_not_hang():
    refused = []

    def host(x):
        try:
            g(np.ones(5, f32))
        except CompileLimitError:
            refused.append(1)
        return x

    def f(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    g = safe_jit(f, limits=Limits(max_compiles=1))

    assert within_time(lambda: g(np.ones(2, f32))).tolist() == [1, 1]
    assert refused


def test_configuration_of_one_thread_does_not_reach_another():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[]")})

    def work(i):
        if i % 2:
            return float(f(1.0))
        with jax.enable_x64(True):
            return f(1.0)

    results = race(work)

    assert [type(r) for r in results] == [ContractError, float] * (THREADS // 2)
