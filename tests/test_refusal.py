"""A refused call never enters JAX, disturbs nobody, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import safejax
from safejax import (
    CompileLimitError,
    ContractError,
    Limits,
    ProcessLimits,
    safe_jit,
    spec,
)

f32 = np.float32
Refused = (ContractError, CompileLimitError)


@contextlib.contextmanager
def events():
    """Everything JAX reports about tracing, lowering and compiling."""
    seen = []

    def on_event(name, **_):
        seen.append(name)

    def on_duration(name, _, **__):
        seen.append(name)

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_listener(on_event)
        jax.monitoring.unregister_event_duration_listener(on_duration)


def contracted(traced, **options):
    def f(x, mode="a"):
        traced.append(x)
        return x * 2

    return safe_jit(
        f,
        static_argnames="mode",
        contract={
            "x": spec("f32[b<=8]", finite=True, maximum=100.0),
            "mode": spec(one_of=("a", "b")),
        },
        **options,
    )


REFUSALS = {
    "shape": lambda f: f(np.ones((2, 2), f32)),
    "bound": lambda f: f(np.ones(9, f32)),
    "dtype": lambda f: f(np.ones(2)),
    "type": lambda f: f("x"),
    "structure": lambda f: f([np.ones((1, 1), f32)]),
    "value": lambda f: f(np.array([np.nan], f32)),
    "value of a jax array": lambda f: f(NAN_ON_DEVICE),
    "static": lambda f: f(np.ones(2, f32), mode="c"),
    "unhashable": lambda f: f(np.ones(2, f32), mode=[]),
    "cap": lambda f: f(np.ones(3, f32)),
    "cap by static": lambda f: f(np.ones(2, f32), mode="b"),
    "cap of a jax array": lambda f: f(THREE_ON_DEVICE),
}
NAN_ON_DEVICE = jnp.asarray(np.array([np.nan], f32))
THREE_ON_DEVICE = jnp.asarray(np.ones(3, f32))


@pytest.mark.parametrize("name", REFUSALS)
def test_with_a_contract_a_refused_call_never_enters_jax(name):
    traced: list[object] = []
    f = contracted(traced, limits=Limits(max_compiles=1))
    f(np.ones(2, f32))
    del traced[:]

    with events() as seen:
        for _ in range(2):
            with pytest.raises(Refused):
                REFUSALS[name](f)

    assert seen == []
    assert traced == []
    f(np.ones(2, f32))
    assert traced == []
    assert f.stats().live == 1


def test_the_budget_of_the_process_refuses_before_jax_is_entered():
    traced: list[object] = []
    f = contracted(traced)
    gc.collect()
    live = safejax.process_stats().live
    before = safejax.set_process_limits(ProcessLimits(max_compiles=max(1, live)))
    keep = safe_jit(lambda x: x)
    try:
        if not live:
            keep(1.0)
        with events() as seen, pytest.raises(CompileLimitError):
            f(np.ones(2, f32))
    finally:
        safejax.set_process_limits(before)

    assert (seen, traced) == ([], [])


def test_without_a_contract_the_cap_refuses_before_the_function_is_traced():
    traced: list[object] = []
    f = safe_jit(lambda x: traced.append(x) or x, limits=Limits(max_compiles=1))
    f(np.ones(1, f32))
    del traced[:]

    with events() as seen:
        for size in range(2, 20):
            with pytest.raises(CompileLimitError):
                f(np.ones(size, f32))

    assert (seen, traced) == ([], [])


def census():
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("name", ["contract", "cap", "cap without a contract"])
def test_ten_thousand_distinct_refusals_leave_nothing_behind(name):
    contract = {"x": spec("f32[b<=2]" if name == "contract" else "f32[...]")}
    f = safe_jit(
        lambda x: x,
        contract=None if "without" in name else contract,
        limits=Limits(max_compiles=1),
    )
    f(np.ones(1, f32))
    flat = np.ones(1, f32)

    def flood(count, start):
        for size in range(start, start + count):
            with pytest.raises(Refused):
                f(np.broadcast_to(flat, (size,)))

    flood(600, 3)
    before = census()
    flood(10_000, 1000)

    assert census() - before < 500
    assert f(np.ones(1, f32)) == 1


def test_refused_calls_do_not_evict_the_programs_of_other_functions():
    misses = []
    other = safe_jit(lambda x: x + 1)
    other(np.ones(1, f32))
    f = safe_jit(lambda x: x, contract={"x": spec("f32[b<=2]")})

    with events() as seen:
        for size in range(3, 9003):
            with pytest.raises(ContractError):
                f(np.broadcast_to(f32(1), (size,)))
        other(np.ones(1, f32))

    assert (seen, misses) == ([], [])


def test_an_error_holds_no_array_of_the_call():
    import weakref

    f = safe_jit(lambda x: x, contract={"x": spec("f32[2]", finite=True)})
    x = np.array([1, np.nan], f32)

    class Holder(np.ndarray):
        pass

    held = x.view(Holder)
    alive = weakref.ref(held)
    with pytest.raises(ContractError) as caught:
        f(held)
    error = caught.value.with_traceback(None)
    del held, caught
    gc.collect()

    assert alive() is None
    assert "finite" in str(error)
