"""Programs made ahead of their first call, then served frozen."""

from __future__ import annotations

import asyncio
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import PATIENT, SQUARE, busy, endless, outcome, until

import safejax
from safejax import CompileLimitError, Limits, safe_jit, spec


def shape(n):
    return jax.ShapeDtypeStruct((n,), jnp.float32)


@pytest.mark.parametrize("contract", [None, {"x": spec("f32[n]")}])
@pytest.mark.parametrize("on_limit", ["raise", "evict"])
@pytest.mark.parametrize("timeout_s", [None, 120.0])
def test_warm_up_freeze_serve(contract, on_limit, timeout_s):
    limits = Limits(on_limit=on_limit, compile_timeout_s=timeout_s)
    f = safe_jit(lambda x: x * 2, contract=contract, limits=limits)
    done = []
    reports = safejax.precompile(
        [(f, (shape(n),)) for n in (1, 2, 3)], progress=lambda *k: done.append(k)
    )
    f.freeze()

    assert [report.error for report in reports] == [None] * 3
    assert done == [(1, 3), (2, 3), (3, 3)]
    for n in (1, 2, 3):
        assert f(np.ones(n, np.float32)).tolist() == [2] * n
    assert f.stats().compiles == 3
    assert outcome(f, np.ones(4, np.float32)).code == "SJ204"


def test_refusals_are_in_the_report_and_other_errors_are_raised():
    f = safe_jit(lambda x: x @ x, limits=Limits(max_compiles=1))
    ok, refused = safejax.precompile([(f, (shape(n),)) for n in (1, 2)], workers=1)

    assert ok.error is None
    assert isinstance(refused.error, CompileLimitError)
    with pytest.raises((TypeError, ValueError)):
        safejax.precompile([(safe_jit(lambda x: x @ 1), (shape(2),))])
    with pytest.raises(ValueError, match="workers"):
        safejax.precompile([], workers=0)
    with pytest.raises(CompileLimitError):
        f.precompile(shape(9))


def test_compile_async_does_not_block_the_loop():
    f = safe_jit(lambda x: x * 3, limits=PATIENT)

    async def work():
        return await asyncio.gather(*(f.compile_async(shape(n)) for n in (1, 2)))

    assert [report.error for report in asyncio.run(work())] == [None, None]
    assert f(np.ones(2, np.float32)).tolist() == [3, 3]
    assert f.stats().compiles == 2


def test_precompiling_twice_compiles_once():
    f = safe_jit(lambda x: x * 3, limits=PATIENT)
    f.precompile(shape(1)), f.precompile(shape(1))
    assert f.stats().compiles == 1


def test_a_cancelled_compilation_is_killed():
    f = safe_jit(endless(), limits=Limits(compile_timeout_s=120.0))

    async def give_up():
        task = asyncio.create_task(f.compile_async(SQUARE))
        while not busy():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = safejax.compile_status().get("kills", 0)
    start = time.monotonic()
    asyncio.run(give_up())  # waits for the thread

    assert time.monotonic() - start < 100
    until(lambda: not busy())
    assert safejax.compile_status()["kills"] == before + 1
    # Given up is not failed: it may be asked for again at once.
    assert f.stats().live == 0
    assert f.stats().refusals == {}
