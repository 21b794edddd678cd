"""What the tests of the review share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import pytest

import safejax
from safejax.review import _judge

STRICT = (safejax.Policy.strict(),)
NO_LIMITS = safejax.Limits(max_equations=None)


def judge(
    fun: Callable[..., Any],
    *args: Any,
    limits: safejax.Limits = NO_LIMITS,
    policies: Sequence[safejax.Policy] = (),
) -> None:
    """Judges a function as JAX traces it, with no guard around the trace."""
    traced = fun if isinstance(fun, jax.stages.Traced) else jax.jit(fun).trace(*args)
    _judge.judge(traced, function="f", limits=limits, policies=policies)


def refusal(fun: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """The error that judging a function ends with."""
    with pytest.raises(safejax.ProgramRejectedError) as caught:
        judge(fun, *args, **how)
    return caught.value


def this_line(text: str, path: str) -> int:
    """The number of the line of a file that ends with a comment."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        for number, line in enumerate(file, start=1):
            if line.rstrip().endswith(f"# {text}"):
                return number
    raise AssertionError(text)
