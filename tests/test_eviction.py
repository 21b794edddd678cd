"""on_limit="evict": the least recently used program goes, and goes in fact."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safejax import ContractError, Limits, safe_jit, spec

f32 = np.float32


def ones(size):
    return np.ones(size, f32)


def executables():
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


def make(limit, contract=None):
    traced = []

    def f(x):
        traced.append(x.shape[0])
        return x * 2

    limits = Limits(max_compiles=limit, warn_compiles=1000, on_limit="evict")
    return safe_jit(f, limits=limits, contract=contract), traced


CONTRACTS = [None, {"x": spec("f32[b]")}]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_least_recently_used_program_goes_first(contract):
    f, traced = make(3, contract)

    for size in (1, 2, 3, 1, 4):  # 2 is the oldest when 4 comes
        f(ones(size))
    for size in (1, 3, 4):
        f(ones(size))
    assert traced == [1, 2, 3, 4]

    f(ones(2))  # drops 1
    f(ones(3))
    f(ones(4))
    assert traced == [1, 2, 3, 4, 2]
    f(ones(1))
    assert traced == [1, 2, 3, 4, 2, 1]
    assert (f.stats().live, f.stats().evicted, f.stats().refused) == (3, 3, 0)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_evicted_executables_are_freed(contract):
    f, _ = make(4, contract)
    f(ones(1))
    before = executables()

    for size in range(2, 42):
        f(ones(size))
        assert f.stats().live <= 4

    assert executables() <= before + 3
    assert (f.stats().compiles, f.stats().evicted) == (41, 37)


def test_an_evicted_signature_gives_the_same_answer_again():
    f, _ = make(1)

    for size in (1, 2, 1, 2):
        assert f(ones(size)).tolist() == [2.0] * size


def test_one_place_serves_any_sequence():
    f, traced = make(1)

    for size in (1, 1, 2, 2, 1):
        f(ones(size))

    assert traced == [1, 2, 1]
    assert f.stats().live == 1


@pytest.mark.parametrize("contract", CONTRACTS)
def test_calls_that_fail_while_traced_evict_nothing_and_keep_nothing(contract):
    def f(x):
        if x.shape[0] > 5:
            raise ValueError("mine")
        return x

    g = safe_jit(f, contract=contract, limits=Limits(max_compiles=4, on_limit="evict"))
    for size in (1, 2):
        g(ones(size))
    gc.collect()
    before = sum(type(o).__name__ == "PjitFunction" for o in gc.get_objects())

    for size in range(10, 210):
        with pytest.raises(ValueError, match="mine"):
            g(ones(size))

    gc.collect()
    after = sum(type(o).__name__ == "PjitFunction" for o in gc.get_objects())
    assert after <= before + 2
    assert (g.stats().live, g.stats().evicted) == (2, 0)


def test_a_call_that_breaks_the_contract_evicts_nothing():
    f, traced = make(2, {"x": spec("f32[b<=10]", finite=True)})
    f(ones(1))
    f(ones(2))

    for size in range(11, 60):
        with pytest.raises(ContractError):
            f(ones(size))
    with pytest.raises(ContractError):
        f(np.array([np.nan, 0, 0], f32))

    f(ones(1))
    f(ones(2))
    assert traced == [1, 2]
    assert f.stats().evicted == 0


def test_clear_cache_frees_everything():
    f, traced = make(4)
    for size in (1, 2, 3):
        f(ones(size))

    f.clear_cache()

    assert f.stats().live == 0
    f(ones(1))
    assert traced == [1, 2, 3, 1]


def test_two_wrappers_evict_from_their_own_programs_only():
    def f(x):
        return x

    limits = Limits(max_compiles=2, on_limit="evict")
    one, two = safe_jit(f, limits=limits), safe_jit(f, limits=limits)
    one(ones(1))
    one(ones(2))
    for size in range(3, 20):
        two(ones(size))

    assert (one.stats().live, two.stats().live) == (2, 2)
    assert one.stats().evicted == 0


def test_recursion_and_transformations_work_at_a_cap_of_one():
    f, _ = make(1)

    assert jax.jit(f)(jnp.ones(2)).tolist() == [2, 2]
    assert jax.vmap(f)(jnp.ones((2, 3))).shape == (2, 3)
    assert jax.grad(lambda x: f(x).sum())(jnp.ones(2)).tolist() == [2, 2]


def test_static_values_are_evicted_like_shapes():
    f = safe_jit(
        lambda x, n: x * n,
        static_argnums=1,
        limits=Limits(max_compiles=2, on_limit="evict"),
    )

    for n in range(10):
        assert f(2.0, n) == 2 * n

    assert (f.stats().live, f.stats().evicted) == (2, 8)
