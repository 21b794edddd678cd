"""T20: what was traced before a scope opened is used in it."""

# A lambda around a function is another function, and a frame of the attacker's:
# ruff: noqa: PLW0108

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from threats.bypasses._kit import F32, Trial, bypass

import safejax

Model = Callable[[Any], Any]
ONE = np.float32(1)


def sly(trial: Trial) -> Model:
    """A model that calls back."""
    return lambda x: jax.pure_callback(trial.report, F32, x)


def settled(trial: Trial) -> None:
    """Forgets what was seen before the scope."""
    jax.effects_barrier()
    trial.evidence.clear()


@bypass("T20", "guard and review")
def inner_function_called_before(trial: Trial) -> Model:
    """A jitted function with a callback, called before: its trace is in the cache."""
    inner = jax.jit(sly(trial))
    inner(ONE)
    settled(trial)
    return lambda x: inner(x)


@bypass("T20", "guard and review")
def inner_function_traced_before(trial: Trial) -> Model:
    """The same, only traced before, by an outer function that is not guarded."""
    inner = jax.jit(sly(trial))
    jax.jit(lambda x: inner(x))(ONE)
    settled(trial)
    return lambda x: inner(x) + 1


@bypass("T20", "guard and review")
def whole_function_called_before(trial: Trial) -> Model:
    """The very function was called under plain `jax.jit` before."""
    model = sly(trial)
    jax.jit(model)(ONE)
    settled(trial)
    return model


@bypass("T20", "guard and review")
def loop_body_traced_before(trial: Trial) -> Model:
    """JAX keeps the traces of loop bodies by function; this one was traced before."""
    leaf = sly(trial)

    def body(carry: Any, _: Any) -> Any:
        return leaf(carry), None

    def model(x: Any) -> Any:
        return jax.lax.scan(body, x, None, length=1)[0]

    jax.jit(lambda x: model(x))(ONE)
    settled(trial)
    return model


@bypass("T20", "guard and review")
def checkpointed_function_traced_before(trial: Trial) -> Model:
    """JAX keeps the traces of checkpointed functions, too."""
    wrapped = jax.checkpoint(sly(trial))
    jax.jit(lambda x: wrapped(x))(ONE)
    settled(trial)
    return lambda x: wrapped(x)


@bypass("T20", "guard and review")
def branch_traced_before(trial: Trial) -> Model:
    """And those of branches."""
    leaf = sly(trial)

    def other(x: Any) -> Any:
        return x

    def model(x: Any) -> Any:
        return jax.lax.cond(x < 9, leaf, other, x)

    jax.jit(lambda x: model(x))(ONE)
    settled(trial)
    return model


@bypass("T20", "guard")
def reading_while_traced_before(trial: Trial) -> Model:
    """An inner function that reads a program while it is traced, and was traced
    before: served from the cache it would not be looked at again."""

    @jax.jit
    def inner(x: Any) -> Any:
        trial.saw(str(jax.make_jaxpr(lambda v: v + 1)(1.0)))
        return x

    jax.jit(lambda x: inner(x))(ONE)
    seen = list(trial.evidence)
    trial.evidence.clear()

    def through(jitted: Any) -> Any:
        def call(x: Any) -> Any:
            result = jitted(x)
            # The call was answered by a trace that nobody guarded.
            trial.evidence.extend(seen)
            return result

        return call

    trial.through = through
    return lambda x: inner(x) + 1


@bypass("T20", "guard and review")
def memoized_inner_function(trial: Trial) -> Model:
    """`functools.lru_cache` around the maker of an inner jitted function."""

    @functools.lru_cache
    def made(depth: int) -> Model:
        return jax.jit(sly(trial)) if depth == 0 else jax.jit(made(depth - 1))

    made(3)(ONE)
    settled(trial)
    return lambda x: made(3)(x)


@bypass("T20", "guard and review")
def traced_in_a_lenient_scope(trial: Trial) -> Model:
    """The inner function was traced in a scope that admits it."""
    inner = jax.jit(sly(trial))
    with safejax.guard("allow"):
        inner(ONE)
    settled(trial)
    return lambda x: inner(x)


@bypass(
    "T20",
    "not defended",
    reason="The answer was worked out before the scope opened; using it is no call.",
)
def memoized_answer(trial: Trial) -> Model:
    """`functools.lru_cache` around `jax.make_jaxpr`: asked before, answered again."""

    @functools.lru_cache
    def text() -> str:
        return str(jax.make_jaxpr(jnp.sin)(1.0))

    text()

    def model(x: Any) -> Any:
        trial.saw(text())
        return x

    return model
