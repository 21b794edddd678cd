"""After a freeze nothing new is compiled, by no way in."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from compiling import events, outcome

import safejax
from safejax import CompileLimitError, safe_jit, spec


@pytest.fixture(autouse=True)
def thawed():
    yield
    safejax.unsafe_unfreeze()


def ones(n):
    return np.ones(n, np.float32)


@pytest.mark.parametrize("contract", [None, {"x": spec("f32[n]")}])
@pytest.mark.parametrize("whole", [True, False])
def test_known_signatures_are_served_and_nothing_else(contract, whole):
    f = safe_jit(lambda x: x.sum(), contract=contract)
    f(ones(1))
    with events("frozen", "refused") as seen:
        safejax.freeze() if whole else f.freeze()
        ways = [
            lambda: f(ones(2)),
            lambda: f.precompile(ones(3)),
            lambda: f.lower(ones(4)).compile(),
            lambda: jax.vmap(f)(np.ones((2, 5), np.float32)),
            lambda: f(jax.device_put(ones(1), jax.devices()[1])),
        ]
        errors = [outcome(way) for way in ways]

    assert [error.code for error in errors] == ["SJ204"] * 5
    assert f(ones(1)) == 1
    assert [e.kind for e in seen] == ["frozen", *["refused"] * 5]
    assert f.stats().compiles == 1
    assert safejax.process_stats().frozen is whole


def test_only_the_process_is_thawed():
    f, g = safe_jit(lambda x: x + 1), safe_jit(lambda x: x + 2)
    f.freeze()
    safejax.freeze()
    assert isinstance(outcome(g, ones(1)), CompileLimitError)
    safejax.unsafe_unfreeze()

    assert g(ones(1)) == 3
    assert isinstance(outcome(f, ones(1)), CompileLimitError)
