"""A refused call leaves its donated buffers alive, whatever refused it."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import safejax
from safejax import (
    CompileLimitError,
    ContractError,
    Limits,
    ProcessLimits,
    safe_jit,
    spec,
)

f32 = np.float32


def step(limits=None, on_dtype="error"):
    return safe_jit(
        lambda state, x, mode="a": jax.tree.map(lambda s: s + x.sum(), state),
        donate_argnums=0,
        static_argnames="mode",
        contract={
            "state": {"w": spec("f32[n]", finite=True)},
            "x": spec("f32[b<=4]", finite=True),
            "mode": spec(one_of=("a",)),
        },
        limits=limits or Limits(max_compiles=1),
        on_dtype=on_dtype,
    )


def state(*values):
    return {"w": jnp.asarray(np.array(values, f32)) + 0}


GOOD = np.ones(2, f32)
REFUSALS = {
    "shape": lambda f, s: f(s, np.ones((1, 1), f32)),
    "bound": lambda f, s: f(s, np.ones(5, f32)),
    "dtype": lambda f, s: f(s, np.ones(2)),
    "structure": lambda f, s: f({**s, "v": s["w"]}, GOOD),
    "value on the host": lambda f, s: f(s, np.array([np.nan, 0], f32)),
    "value on the device": lambda f, s: f(s, jnp.array([jnp.nan, 0])),
    "static": lambda f, s: f(s, GOOD, mode="b"),
    "cap": lambda f, s: f(s, np.ones(3, f32)),
    "committed at the cap": lambda f, s: f(s, jax.device_put(GOOD, jax.devices()[0])),
    "another device at the cap": lambda f, s: f(
        s, jax.device_put(GOOD, jax.devices()[1])
    ),
    "arguments": lambda f, s: f(s),
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_call_leaves_donated_buffers_alive(name, warm):
    f = step()
    if warm or "cap" in name:
        f(state(1, 2), GOOD)
    s = state(1, 2)

    for _ in range(2):
        with pytest.raises((ContractError, CompileLimitError, TypeError)):
            REFUSALS[name](f, s)

    assert not s["w"].is_deleted()
    assert s["w"].tolist() == [1, 2]


def test_a_refused_value_in_the_donated_state_itself_leaves_it_alive():
    f = step()
    f(state(1, 2), GOOD)
    s = state(1, np.nan)

    with pytest.raises(ContractError):
        f(s, GOOD)

    assert not s["w"].is_deleted()


def test_a_call_refused_by_the_budget_of_the_process_leaves_them_alive():
    f, keep = step(), safe_jit(lambda x: x)
    keep(1.0)
    gc.collect()
    live = safejax.process_stats().live
    before = safejax.set_process_limits(ProcessLimits(max_compiles=live))
    s = state(1, 2)
    try:
        with pytest.raises(CompileLimitError):
            f(s, GOOD)
    finally:
        safejax.set_process_limits(before)

    assert s["w"].tolist() == [1, 2]


def test_without_a_contract_the_cap_leaves_them_alive():
    f = safe_jit(lambda s: s + 1, donate_argnums=0, limits=Limits(max_compiles=1))
    f(jnp.ones(1))
    s = jnp.ones(2)

    with pytest.raises(CompileLimitError):
        f(s)

    assert s.tolist() == [1, 1]


def test_a_function_that_raises_while_traced_leaves_them_alive():
    def f(s):
        raise ValueError("mine")

    g = safe_jit(f, donate_argnums=0, contract={"s": spec("f32[n]")})
    s = jnp.ones(2)

    with pytest.raises(ValueError, match="mine"):
        g(s)

    assert s.tolist() == [1, 1]


def test_an_admitted_call_donates_as_jax_does():
    f = step()
    for _ in range(3):
        s = state(1, 2)
        out = f(s, GOOD)
        assert s["w"].is_deleted()
        assert out["w"].tolist() == [3, 4]


def test_a_donated_argument_that_is_cast_is_not_lost_when_the_call_is_refused():
    f = step(on_dtype="cast")
    s = {"w": jnp.ones(2, jnp.float16)}

    with pytest.raises(ContractError):
        f(s, np.array([np.nan, 0]))

    assert s["w"].tolist() == [1, 1]
