"""T1: a flood of shapes makes plain JAX compile each; a cap or a contract does not."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from compiling import compilations

from safejax import CompileLimitError, ContractError, Limits, safe_jit, spec

SIZES = range(1, 41)


def request(size):
    return np.ones(size, np.float32)


def test_plain_jit_compiles_for_every_size():
    f = jax.jit(lambda x: x.sum())

    with compilations() as seen:
        for size in SIZES:
            f(request(size))

    assert len(seen) >= len(SIZES)


def test_a_cap_compiles_its_number_and_serves_what_is_known():
    f = safe_jit(lambda x: x.sum(), limits=Limits(max_compiles=4))

    refused = 0
    with compilations() as seen:
        for size in SIZES:
            try:
                f(request(size))
            except CompileLimitError:
                refused += 1
        served = f(request(1))

    assert served == 1
    assert len(seen) == f.stats().compiles == 4
    assert refused == len(SIZES) - 4


def test_a_contract_compiles_nothing_for_sizes_beyond_it():
    f = safe_jit(lambda x: x.sum(), contract={"x": spec("f32[b<=1]")})
    f(request(1))

    with compilations() as seen:
        for size in SIZES[1:]:
            with pytest.raises(ContractError):
                f(request(size))

    assert seen == []
