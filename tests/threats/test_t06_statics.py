"""T6: NaN, unlisted and oversized static arguments make plain JAX compile or keep."""

from __future__ import annotations

import jax
import pytest

from safejax import CompileLimitError, ContractError, Limits, safe_jit, spec

NAN = float("nan")


def counting():
    traced = []

    def f(x, mode):
        traced.append(1)
        return x

    return f, traced


def test_plain_jit_traces_anew_for_every_nan():
    f, traced = counting()
    jitted = jax.jit(f, static_argnames="mode")

    for _ in range(5):
        jitted(1.0, mode=float("nan"))

    assert len(traced) == 5


@pytest.mark.parametrize("mode", [NAN, (NAN,), [1], "x" * 100_000])
def test_a_contract_refuses_it_before_anything_is_traced(mode):
    f, traced = counting()
    safe = safe_jit(f, static_argnames="mode", contract={})

    for _ in range(5):
        with pytest.raises(ContractError):
            safe(1.0, mode=mode)

    assert traced == []


def test_plain_jit_makes_a_program_for_every_string():
    f, traced = counting()
    jitted = jax.jit(f, static_argnames="mode")

    for i in range(20):
        jitted(1.0, mode=f"mode {i}")

    assert len(traced) == 20


def test_one_of_makes_a_program_for_every_listed_value_only():
    f, traced = counting()
    safe = safe_jit(
        f, static_argnames="mode", contract={"mode": spec(one_of=("mode 0",))}
    )

    for i in range(20):
        if i:
            with pytest.raises(ContractError):
                safe(1.0, mode=f"mode {i}")
        else:
            safe(1.0, mode="mode 0")

    assert len(traced) == 1


def test_without_a_contract_the_cap_holds_for_static_values():
    f, traced = counting()
    safe = safe_jit(f, static_argnames="mode", limits=Limits(max_compiles=3))

    for i in range(20):
        if i < 3:
            safe(1.0, mode=f"mode {i}")
        else:
            with pytest.raises(CompileLimitError):
                safe(1.0, mode=f"mode {i}")

    assert len(traced) == 3
