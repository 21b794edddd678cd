"""T4: JAX narrows 64-bit inputs silently; a contract counts the caller's dtype."""

from __future__ import annotations

import numpy as np
import pytest

from safejax import ContractError, safe_jit, spec

WRAPS = np.array([2**32 + 1])


@pytest.mark.parametrize("on_dtype", ["error", "cast"])
def test_a_contract_refuses_the_integer_that_would_wrap(on_dtype):
    f = safe_jit(lambda x: x, contract={"x": spec("i32[1]")}, on_dtype=on_dtype)

    for _ in range(2):
        with pytest.raises(ContractError) as caught:
            f(WRAPS)
        f(np.array([1], np.int32))

    assert [v.rule for v in caught.value.violations] == ["dtype"]
