"""T5: one NaN poisons the state of a training step; with a value rule it is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safejax import ContractError, safe_jit, spec

POISON = np.zeros(4096, np.float32)
POISON[1234] = np.nan


def step(w, x):
    return w - 0.1 * x.mean()


def test_plain_jit_poisons_the_state():
    assert np.isnan(jax.jit(step)(jnp.ones(2), POISON)).all()


@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray])
def test_a_value_rule_refuses_the_batch_and_keeps_the_state(wrap):
    f = safe_jit(step, contract={"x": spec("f32[4096]", finite=True)})
    w = f(jnp.ones(2), wrap(np.ones_like(POISON)))

    for _ in range(2):
        with pytest.raises(ContractError) as caught:
            f(w, wrap(POISON))
        w = f(w, wrap(np.ones_like(POISON)))

    assert np.isfinite(w).all()
    assert caught.value.violations[0].got == "1 of 4096 that is not"


def test_clip_repairs_the_batch_inside_the_program():
    f = safe_jit(
        step,
        contract={"x": spec("f32[4096]", finite=True, on_violation="clip")},
    )

    assert np.isfinite(f(jnp.ones(2), POISON)).all()


def test_an_index_out_of_range_is_clamped_by_jax_and_refused_here():
    table = jnp.arange(3.0)

    def look_up(i):
        return table[i]

    wild = np.array([10**6], np.int32)
    assert jax.jit(look_up)(wild).tolist() == [2]
    f = safe_jit(look_up, contract={"i": spec("i32[n]", minimum=0, maximum=2)})

    with pytest.raises(ContractError):
        f(wild)
    assert f(np.array([1], np.int32)).tolist() == [1]
