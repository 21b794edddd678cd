"""T4: JAX narrows 64-bit inputs silently; a contract counts the caller's dtype."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from safejax import ContractError, safe_jit, spec

WRAPS = np.array([2**32 + 1])


def test_plain_jit_turns_two_to_the_32_plus_one_into_one():
    assert jax.jit(lambda x: x)(WRAPS).tolist() == [1]


@pytest.mark.parametrize("on_dtype", ["error", "cast"])
def test_a_contract_refuses_the_integer_that_would_wrap(on_dtype):
    f = safe_jit(lambda x: x, contract={"x": spec("i32[1]")}, on_dtype=on_dtype)

    for _ in range(2):
        with pytest.raises(ContractError) as caught:
            f(WRAPS)
        f(np.array([1], np.int32))

    assert [v.rule for v in caught.value.violations] == ["dtype"]


def test_a_contract_refuses_float64_and_names_the_narrowing():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[1]")})

    with pytest.raises(ContractError, match="JAX would narrow it silently"):
        f(np.array([1 + 1e-12]))


def test_a_python_integer_that_does_not_fit_is_refused():
    f = safe_jit(lambda x: x, contract={"x": spec("i32[]")})

    with pytest.raises(ContractError):
        f(2**32 + 1)
