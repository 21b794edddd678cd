"""T16: values that a program captures instead of taking them as arguments."""

# A lambda around a function is another function, and a frame of the attacker's:
# ruff: noqa: PLW0108

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from threats.bypasses._kit import Trial, bypass
from threats.bypasses._programs import (
    Model,
    in_cond,
    in_custom_jvp,
    in_scan,
    nested,
)

SECRET = b"the launch code is 4711, do not tell anyone about it, whoever asks"
BYTES = np.frombuffer(SECRET, np.uint8)
BUDGET = 32  # bytes; the secret has more
NUMBERS = ", ".join(map(str, SECRET))
SCALAR = (
    "A single number is a literal like any other: a learning rate looks the same. "
    "Budgets count arrays."
)


def leaking(trial: Trial, model: Model, text: str = NUMBERS) -> Model:
    """The model, of whose program we look whether it has this text in it."""

    def through(jitted: Any) -> Any:
        def call(*args: Any) -> Any:
            result = jitted(*args)
            program = jitted.lower(*args).as_text(debug_info=True)
            trial.saw(text.lower() in program.lower())
            return result

        return call

    trial.through = through
    return model


def adding(values: Any) -> Model:
    """A model in which these values are needed."""
    return lambda x: x + jnp.sum(values * x)


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_array(trial: Trial) -> Model:
    """An array of JAX that a closure refers to."""
    return leaking(trial, adding(jnp.asarray(BYTES)))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_numpy_array(trial: Trial) -> Model:
    """An array of NumPy."""
    return leaking(trial, adding(BYTES))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def list_of_numbers(trial: Trial) -> Model:
    """`jnp.array` of a list of Python's numbers."""
    return leaking(trial, lambda x: adding(jnp.array(list(SECRET), np.uint8))(x))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def argument_bound_before(trial: Trial) -> Model:
    """`functools.partial(f, secret)`: it looks like an argument and is none."""
    bound = functools.partial(lambda secret, x: adding(secret)(x), jnp.asarray(BYTES))
    return leaking(trial, bound)


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_in_a_loop(trial: Trial) -> Model:
    """Captured by the body of a `scan`."""
    return leaking(trial, in_scan(adding(jnp.asarray(BYTES))))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_in_a_branch(trial: Trial) -> Model:
    """Captured by one branch of a `cond`."""
    return leaking(trial, in_cond(adding(BYTES)))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_in_a_custom_jvp(trial: Trial) -> Model:
    """Captured by a function with a derivative of its own."""
    return leaking(trial, in_custom_jvp(adding(jnp.asarray(BYTES))))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_at_depth_5(trial: Trial) -> Model:
    """Captured inside scan, cond, while, checkpoint and custom_jvp."""
    return leaking(trial, nested(adding(BYTES), 5))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_by_an_inner_function(trial: Trial) -> Model:
    """Captured by a jitted function that was traced before."""
    inner = jax.jit(adding(jnp.asarray(BYTES)))
    inner(np.float32(1))
    return leaking(trial, lambda x: inner(x))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_by_a_linear_solve(trial: Trial) -> Model:
    """Captured by one of the programs of `custom_linear_solve`."""
    secret = jnp.asarray(BYTES)
    return leaking(
        trial,
        lambda x: jax.lax.custom_linear_solve(
            lambda v: 2 * v,
            x,
            lambda _, b: b / 2 + 0 * jnp.sum(secret * b),
            symmetric=True,
        ),
    )


@bypass("T16", "review", max_constant_bytes=BUDGET)
def many_small_arrays(trial: Trial) -> Model:
    """Twenty arrays of which each is within the budget."""
    parts = [jnp.asarray(BYTES[i : i + 3]) for i in range(0, 60, 3)]

    def model(x: Any) -> Any:
        for part in parts:
            x = x + jnp.sum(part * x)
        return x

    return leaking(trial, model, ", ".join(map(str, SECRET[:3])))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def captured_random_keys(trial: Trial) -> Model:
    """Random keys, whose bytes NumPy does not see."""
    words = np.frombuffer(SECRET[:64], np.uint32).reshape(-1, 2)
    keys = jax.random.wrap_key_data(jnp.asarray(words))

    def model(x: Any) -> Any:
        return x + jax.random.uniform(keys[x.astype(int)])

    return leaking(trial, model, f"{words[1, 0]}, {words[1, 1]}")


@bypass("T16", "guard", max_constant_bytes=BUDGET)
def made_while_tracing(trial: Trial) -> Model:
    """An array worked out under `jax.ensure_compile_time_eval`."""
    hidden = BYTES ^ 1

    def model(x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            secret = jnp.bitwise_xor(jnp.asarray(hidden), np.uint8(1))
        return adding(secret)(x)

    return leaking(trial, model)


@bypass("T16", "review", max_constant_bytes=BUDGET)
def attribute_of_a_composite(trial: Trial) -> Model:
    """`lax.composite(attributes=...)`: an array in a parameter of an equation, which
    is written into the module."""
    made = jax.lax.composite(lambda x, secret: x + 1, "threats.sum")
    return leaking(trial, lambda x: made(x, secret=BYTES))


@bypass("T16", "review", max_constant_bytes=BUDGET)
def attribute_of_metadata(trial: Trial) -> Model:
    """`set_xla_metadata`: a text that goes with operations into the program."""
    from jax.experimental.xla_metadata import set_xla_metadata

    def model(x: Any) -> Any:
        with set_xla_metadata(note=SECRET.decode()):
            return x + 1

    return leaking(trial, model, SECRET.decode())


@bypass("T16", "not defended", max_constant_bytes=BUDGET, reason=SCALAR)
def number_by_number(trial: Trial) -> Model:
    """The secret as sixty-six literals in sixty-six equations."""

    def model(x: Any) -> Any:
        for value in SECRET:
            x = x * np.float32(value)
        return x

    return leaking(trial, model, f"dense<{np.float32(SECRET[0]):e}>")


@bypass(
    "T16",
    "not defended",
    max_constant_bytes=BUDGET,
    reason="Names go into the program for profilers. They are text of the model's "
    "source, which who wrote the secret into it already had.",
)
def name_of_a_scope(trial: Trial) -> Model:
    """`jax.named_scope(secret)`: names are kept in the compiled program."""

    def model(x: Any) -> Any:
        with jax.named_scope("launch-code-4711"):
            return x + 1

    return leaking(trial, model, "launch-code-4711")


@bypass("T16", "review")
def captured_reference_written(trial: Trial) -> Model:
    """A mutable array of JAX that a closure refers to: each call writes its argument
    where other code can read it."""
    box = jax.new_ref(jnp.zeros(()))
    trial.afterwards(lambda: float(box[...]) == 1)

    def model(x: Any) -> Any:
        box[...] = x
        return x

    return model
