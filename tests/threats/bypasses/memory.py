"""T17: programs that take all the memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from threats.bypasses._kit import Trial, bypass
from threats.bypasses._programs import (
    Model,
    in_cond,
    in_custom_jvp,
    in_remat,
    in_shard_map,
    in_while,
    nested,
)

MEBIBYTE = 2**20
LARGE = 2**19  # float32: two mebibytes


def needing(trial: Trial, model: Model) -> Model:
    """The model, whose compiled program we ask what it needs."""

    def through(jitted: Any) -> Any:
        def call(*args: Any) -> Any:
            needs = jitted.lower(*args).compile().memory_analysis()
            total = needs.temp_size_in_bytes + needs.output_size_in_bytes
            trial.saw(total > MEBIBYTE)

        return call

    trial.through = through
    return model


def sorting(x: Any) -> Any:
    """A sum that needs all of its two mebibytes at once."""
    return jnp.sort(jnp.arange(LARGE, dtype=np.float32) * x)[7]


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def large_array(trial: Trial) -> Model:
    """An array that is made of a number: the argument is four bytes."""
    return needing(trial, sorting)


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def large_array_in_a_loop(trial: Trial) -> Model:
    """In the body of a `scan`, where it is neither argument nor result."""
    return needing(
        trial,
        lambda x: jax.lax.scan(lambda c, _: (sorting(c), None), x, None, length=3)[0],
    )


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def large_array_in_a_branch(trial: Trial) -> Model:
    """In a branch that is hardly ever taken."""
    return needing(trial, in_cond(sorting))


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def large_array_in_a_while_loop(trial: Trial) -> Model:
    """In a loop whose length is unknown."""
    return needing(trial, in_while(sorting))


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def large_array_in_a_checkpoint(trial: Trial) -> Model:
    """In a checkpointed function with a derivative of its own."""
    return needing(trial, in_remat(in_custom_jvp(sorting)))


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def large_array_on_each_device(trial: Trial) -> Model:
    """In a `shard_map`."""
    return needing(trial, in_shard_map(sorting))


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def large_array_at_depth_5(trial: Trial) -> Model:
    """Inside five programs."""
    return needing(trial, nested(sorting, 5))


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def batch_of_arrays(trial: Trial) -> Model:
    """`jax.vmap` multiplies what one element needs."""

    def element(x: Any) -> Any:
        return jnp.sort(jnp.arange(LARGE // 64, dtype=np.float32) * x)[7]

    def model(x: Any) -> Any:
        return jax.vmap(element)(x * jnp.arange(64.0))

    return needing(trial, model)


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def residuals_of_a_gradient(trial: Trial) -> Model:
    """The gradient of a loop keeps something of every step."""

    def f(x: Any) -> Any:
        xs = x * jnp.ones(1024)
        return jax.lax.scan(lambda c, _: (jnp.sin(c), None), xs, None, 512)[0].sum()

    return needing(trial, jax.grad(f))


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def results_of_a_loop(trial: Trial) -> Model:
    """A `scan` that stacks a small result of each of many steps."""
    return needing(
        trial,
        lambda x: jax.lax.scan(lambda c, _: (c + 1, c), x, None, length=LARGE)[1],
    )


@bypass("T17", "review", max_output_bytes=MEBIBYTE)
def large_result(trial: Trial) -> Model:
    """A number that is broadcast into two mebibytes of answer."""
    return needing(trial, lambda x: jnp.broadcast_to(x, (LARGE,)) + 1)


@bypass("T17", "review", max_output_bytes=MEBIBYTE)
def large_result_of_keys(trial: Trial) -> Model:
    """Random keys, whose size NumPy does not see."""

    def model(x: Any) -> Any:
        return jax.random.split(jax.random.key(x.astype(int)), LARGE // 2)

    return needing(trial, model)


@bypass("T17", "review", max_memory_bytes=MEBIBYTE)
def outer_product(trial: Trial) -> Model:
    """Two short vectors whose product is large."""

    def model(x: Any) -> Any:
        v = jnp.arange(1024.0) * x
        return jnp.sort(jnp.outer(v, v), axis=None)[3]

    return needing(trial, model)


@bypass(
    "T17",
    "not defended",
    max_memory_bytes=MEBIBYTE,
    reason="What Python allocates while it traces is not in the program.",
)
def array_of_numpy(trial: Trial) -> Model:
    """`np.ones` while tracing."""

    def model(x: Any) -> Any:
        trial.saw(np.ones(LARGE, np.float32).nbytes > MEBIBYTE)
        return x

    return model


@bypass("T17", "guard", max_memory_bytes=MEBIBYTE)
def array_while_tracing(trial: Trial) -> Model:
    """`jnp.ones` under `jax.ensure_compile_time_eval`: allocated while tracing, by a
    program of its own that nobody has reviewed."""

    def model(x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            trial.saw(jnp.ones(LARGE).nbytes > MEBIBYTE)
        return x

    return model
