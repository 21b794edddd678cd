"""T10: one client's new shapes use up the compiler for all; a tenant's rate ends it."""

from __future__ import annotations

import jax
import numpy as np
from compiling import compilations, outcome, process_limits

import safejax
from safejax import CompileRate, safe_jit

STORM = range(2, 32)


def ones(n):
    return np.ones(n, np.float32)


def test_plain_jit_compiles_whatever_one_client_sends():
    f = jax.jit(lambda x: x.sum())
    with compilations() as seen:
        for n in STORM:
            f(ones(n))
    assert len(seen) >= len(STORM)


def test_a_tenants_storm_costs_its_own_rate_and_no_one_else():
    f = safe_jit(lambda x: x.sum())
    rate = CompileRate(compiles=1, per_s=1000.0, burst=3)
    with process_limits(tenant_rate=rate), compilations() as seen:
        with safejax.tenant("storm"):
            answers = [outcome(f, ones(n)) for n in STORM]
        with safejax.tenant("honest"):
            assert float(f(ones(1))) == 1

    assert sum(isinstance(a, safejax.CompileLimitError) for a in answers) == 27
    assert len(seen) == 4
