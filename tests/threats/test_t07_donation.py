"""T7: a check that fails inside the program loses donated state; a refusal does not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safejax import CompileLimitError, ContractError, Limits, safe_jit, spec

BAD = np.array([np.nan], np.float32)


def step(state, x):
    return state + x.sum()


@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray])
def test_a_refused_value_leaves_the_state(wrap):
    f = safe_jit(step, donate_argnums=0, contract={"x": spec("f32[n]", finite=True)})
    state = f(jnp.ones(3), wrap(np.ones(1, np.float32)))

    with pytest.raises(ContractError):
        f(state, wrap(BAD))

    assert state.tolist() == [2, 2, 2]


def test_a_refused_program_leaves_the_state():
    f = safe_jit(
        lambda state, x: state + x.sum(),
        donate_argnums=0,
        limits=Limits(max_compiles=1),
    )
    state = f(jnp.ones(3), np.ones(1, np.float32))

    with pytest.raises(CompileLimitError):
        f(state, jax.device_put(np.ones(1, np.float32), jax.devices()[0]))
    with pytest.raises(CompileLimitError):
        f(state, np.ones(2, np.float32))

    assert state.tolist() == [2, 2, 2]
