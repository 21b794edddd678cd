"""T2: bad shapes evict other functions from JAX's shared dispatch cache, not here."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from differential import counting

from safejax import ContractError, safe_jit, spec

FLOOD = range(2, 10_002)
ONE = np.ones(1, np.float32)


@pytest.fixture(autouse=True)
def _short_tracebacks():
    # JAX's filtering of tracebacks is most of the time of a call that raises.
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    jax.clear_caches()
    yield
    jax.config.update("jax_traceback_filtering", before)
    jax.clear_caches()


def strict(x):
    if x.shape[0] != 1:
        raise ValueError("bad shape")
    return x


def flood(f):
    one = np.float32(1)
    for size in FLOOD:
        try:
            f(np.broadcast_to(one, (size,)))
        except (ValueError, ContractError):
            continue
        pytest.fail("a bad shape was served")


def slow_calls(f):
    with counting() as misses:
        f(ONE)
    return misses.dispatch


def test_plain_jit_loses_the_entry_of_another_function():
    victim, attacked = jax.jit(lambda x: x + 1), jax.jit(strict)
    victim(ONE)
    assert slow_calls(victim) == 0

    flood(attacked)

    assert slow_calls(victim) == 1


@pytest.mark.parametrize("contract", [None, {"x": spec("f32[1]")}])
def test_a_flood_against_safe_jit_leaves_the_entries_of_others(contract):
    plain_victim, victim = jax.jit(lambda x: x - 1), safe_jit(lambda x: x + 1)
    attacked = safe_jit(lambda x: strict(x), contract=contract)  # noqa: PLW0108
    for f in (plain_victim, victim, attacked):
        f(ONE)

    flood(attacked)

    assert (slow_calls(plain_victim), slow_calls(victim)) == (0, 0)
    assert attacked(ONE) == 1
