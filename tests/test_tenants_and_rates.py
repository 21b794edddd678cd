"""Rates and tenants as users meet them: truthful refusals, nobody pays for others."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import numpy as np
import pytest
from compiling import events, outcome, process_limits

import safejax
from safejax import CompileLimitError, CompileRate, Limits, safe_jit, spec

TWO = CompileRate(compiles=1, per_s=1000.0, burst=2)
CONTRACTS = [None, {"x": spec("f32[n]")}]


def ones(n):
    return np.ones(n, np.float32)


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("on_limit", ["raise", "evict"])
def test_a_function_keeps_to_its_rate_and_serves_what_is_known(contract, on_limit):
    most = 2 if on_limit == "evict" else 8
    traced = []
    f = safe_jit(
        lambda x: traced.append(1) or x * 2,
        contract=contract,
        limits=Limits(rate=TWO, on_limit=on_limit, max_compiles=most),
    )
    f(ones(1)), f(ones(2))
    with events("refused", "evicted") as seen:
        errors = [outcome(f, ones(n)) for n in (3, 4, 5)]

    assert {error.code for error in errors} == {"SJ203"}
    assert errors[0].details["scope"] == "function"
    assert all(900 < error.retry_after_s <= 1000 for error in errors)
    # A refused call never enters JAX, and costs nobody a program.
    assert [event.kind for event in seen] == ["refused"] * 3
    assert len(traced) == f.stats().live == 2
    assert f(ones(1)).tolist() == [2]
    assert f.stats().compiles == 2
    assert f.stats().refusals == {"SJ203": 3}


def test_whoever_waits_as_told_is_served():
    f = safe_jit(
        lambda x: x, limits=Limits(rate=CompileRate(compiles=1, per_s=0.2, burst=1))
    )
    f(ones(1))
    error = outcome(f, ones(2))
    if isinstance(error, CompileLimitError):
        threading.Event().wait(error.retry_after_s)
        f(ones(2))
    assert f.stats().compiles == 2


@pytest.mark.parametrize("contract", CONTRACTS)
def test_one_tenant_does_not_use_up_the_rate_or_the_cap_of_another(contract):
    greedy, honest = f"greedy {contract}", f"honest {contract}"
    f = safe_jit(lambda x: x * 2, contract=contract)
    with process_limits(tenant_rate=TWO, max_compiles_per_tenant=2):
        with safejax.tenant(greedy):
            answers = [outcome(f, ones(n)) for n in range(1, 9)]
        with safejax.tenant(honest):
            f(ones(20)), f(ones(21))
            # What another tenant had made is served to all.
            f(ones(1))

    codes = [a.code for a in answers if isinstance(a, CompileLimitError)]
    assert len(codes) == 6
    assert set(codes) <= {"SJ203", "SJ207"}
    assert f.stats().tenants == {greedy: 2, honest: 2}


def test_a_tenant_at_its_cap_evicts_nobody():
    f = safe_jit(lambda x: x * 2, limits=Limits(max_compiles=2, on_limit="evict"))
    with process_limits(max_compiles_per_tenant=1):
        with safejax.tenant("honest before it"):
            f(ones(1))
        with safejax.tenant("greedy at the cap"):
            f(ones(2))
            assert outcome(f, ones(3)).code == "SJ207"
    assert f.stats().evicted == 0


def test_the_rate_of_the_process_holds_for_all_functions():
    with process_limits(rate=TWO):
        functions = [safe_jit(lambda x, k=k: x * k) for k in range(3)]
        answers = [outcome(f, ones(1)) for f in functions]

    assert answers[2].code == "SJ203"
    assert answers[2].details["scope"] == "process"


def test_a_tenant_follows_tasks_and_copied_contexts():
    f = safe_jit(lambda x: x * 7)

    async def serve(name, n):
        with safejax.tenant(name):
            await asyncio.to_thread(f, ones(n))

    async def both():
        await asyncio.gather(serve("a", 1), serve("b", 2))

    asyncio.run(both())
    with safejax.tenant("c"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(f, ones(3)))
        thread.start()
        thread.join()

    assert f.stats().tenants == {"a": 1, "b": 1, "c": 1}
