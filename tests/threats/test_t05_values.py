"""T5: one NaN poisons the state of a training step; with a value rule it is refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from safejax import ContractError, safe_jit, spec

POISON = np.zeros(4096, np.float32)
POISON[1234] = np.nan


def step(w, x):
    return w - 0.1 * x.mean()


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
