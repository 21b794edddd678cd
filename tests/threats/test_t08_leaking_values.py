"""T8: errors end in logs; those of plain code show values, those of safejax do not."""

from __future__ import annotations

import json
import logging
import traceback

import numpy as np
import pytest

from safejax import CompileLimitError, ContractError, Limits, safe_jit, spec

SECRET = "card 4111-1111"


def everything_shown(error):
    return "\n".join(
        [
            str(error),
            repr(error),
            json.dumps(error.details),
            error.hint,
            *traceback.format_exception_only(error),
        ]
    )


@pytest.mark.parametrize("value", [SECRET, [SECRET], {"k": SECRET}, np.array([SECRET])])
def test_a_contract_refuses_it_without_showing_it(value):
    f = safe_jit(lambda x: x, contract={"x": spec("f32[n]")})

    with pytest.raises(ContractError) as caught:
        f(value)

    assert SECRET not in everything_shown(caught.value)


def test_static_values_are_shown_by_their_type(caplog):
    f = safe_jit(
        lambda x, mode: x,
        static_argnames="mode",
        limits=Limits(max_compiles=2, warn_compiles=1),
    )
    with caplog.at_level(logging.DEBUG):
        f(1.0, mode=SECRET)
        f(1.0, mode=SECRET + "2")
        with pytest.raises(CompileLimitError) as caught:
            f(1.0, mode=SECRET + "3")

    assert SECRET not in everything_shown(caught.value)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("safejax")]
    assert ours
    assert SECRET not in "\n".join(ours)
