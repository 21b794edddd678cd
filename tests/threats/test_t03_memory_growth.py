"""T3: programs pile up in plain JAX; evicted here they are gone, and refusals too."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from safejax import ContractError, Limits, safe_jit, spec

SIZES = range(1, 41)


def test_admitted_signatures_are_remembered_in_a_bounded_way():
    f = safe_jit(
        lambda x: x,
        contract={"x": spec("f32[b]")},
        limits=Limits(max_compiles=2, on_limit="evict"),
    )
    for size in SIZES:
        f(np.ones(size, np.float32))

    gc.collect()
    before = len(gc.get_objects())
    for size in SIZES:
        f(np.ones(size + 100, np.float32))
    gc.collect()

    # An admitted signature leaves a token; a program would leave hundreds of objects.
    assert len(gc.get_objects()) - before < 40 * len(SIZES)


def test_refusals_keep_nothing():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[1]")})
    one = np.float32(1)

    def flood():
        for size in range(2, 2002):
            with pytest.raises(ContractError):
                f(np.broadcast_to(one, (size,)))
        gc.collect()
        return len(gc.get_objects())

    assert flood() - flood() > -200
