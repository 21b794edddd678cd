"""T14: a program that calls back into Python."""

# A lambda around a function is another function, and a frame of the attacker's:
# ruff: noqa: PLW0108

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.experimental.pallas as pl
import jax.numpy as jnp
import numpy as np
from jax.experimental import buffer_callback, io_callback
from threats.bypasses._kit import F32, Trial, bypass
from threats.bypasses._programs import (
    Model,
    calling,
    in_custom_vjp,
    in_scan,
    in_shard_map,
    nested,
)


@bypass("T14", "guard and review")
def pure_callback(trial: Trial) -> Model:
    """`jax.pure_callback`, plainly. It has no effect that JAX records."""
    return calling(trial)


@bypass("T14", "guard and review")
def pure_callback_at_depth_2(trial: Trial) -> Model:
    """The same inside a branch inside a loop."""
    return nested(calling(trial), 2)


@bypass("T14", "guard and review")
def pure_callback_at_depth_5(trial: Trial) -> Model:
    """The same inside scan, cond, while, checkpoint and custom_jvp."""
    return nested(calling(trial), 5)


@bypass("T14", "guard and review")
def io_callback_at_depth_3(trial: Trial) -> Model:
    """`jax.experimental.io_callback` inside three loops and branches."""
    return nested(lambda x: io_callback(trial.report, F32, x), 3)


@bypass("T14", "guard and review")
def ordered_io_callback(trial: Trial) -> Model:
    """`io_callback(ordered=True)`: the program takes a token."""
    return in_scan(lambda x: io_callback(trial.report, F32, x, ordered=True))


@bypass("T14", "guard and review")
def debug_callback_at_depth_4(trial: Trial) -> Model:
    """`jax.debug.callback` inside four programs."""

    def leaf(x: Any) -> Any:
        jax.debug.callback(trial.report, x)
        return x

    return nested(leaf, 4)


@bypass("T14", "guard and review")
def debug_print_formatter(trial: Trial) -> Model:
    """`jax.debug.print` of a class whose `__format__` is Python code."""

    class Loud:
        def __init__(self, value: Any) -> None:
            self.value = value

        def __format__(self, spec: str) -> str:
            trial.saw("formatted")
            return "."

    jax.tree_util.register_pytree_node(
        Loud, lambda loud: ((loud.value,), None), lambda _, leaves: Loud(*leaves)
    )

    def model(x: Any) -> Any:
        jax.debug.print("{}", Loud(x))
        return x

    return model


@bypass("T14", "guard and review")
def debug_print_in_vmap(trial: Trial) -> Model:
    """`jax.debug.print` for every element of a batch; its text is evidence."""

    class Loud(str):
        __slots__ = ()

        def format(self, *args: Any, **kwargs: Any) -> str:
            trial.saw("formatted")
            return "."

    def leaf(x: Any) -> Any:
        jax.debug.print(Loud("{}"), x)
        return x

    return lambda x: jax.vmap(leaf)(jnp.stack([x, x]))


@bypass("T14", "guard and review")
def callback_on_buffers(trial: Trial) -> Model:
    """`buffer_callback`: Python code with the program's memory in its hands."""

    def write(context: Any, out: Any, value: Any) -> None:
        trial.saw("called back")
        np.asarray(out)[...] = 1

    return lambda x: buffer_callback.buffer_callback(write, F32)(x)


@bypass("T14", "guard and review")
def callback_in_shard_map(trial: Trial) -> Model:
    """Called back from the program of each device."""
    return in_shard_map(calling(trial))


@bypass("T14", "guard and review")
def callback_in_vmap(trial: Trial) -> Model:
    """Called back once for a batch."""
    leaf = functools.partial(
        jax.pure_callback, trial.report, F32, vmap_method="expand_dims"
    )
    return lambda x: jax.vmap(leaf)(jnp.stack([x, x]))


@bypass("T14", "guard and review")
def callback_in_custom_vjp(trial: Trial) -> Model:
    """Called back from a function with a backward pass of its own."""
    return in_custom_vjp(calling(trial))


@bypass("T14", "guard and review")
def callback_in_the_condition_of_a_loop(trial: Trial) -> Model:
    """The condition of `while_loop` calls back."""
    leaf = calling(trial)
    return lambda x: jax.lax.while_loop(lambda c: leaf(c) < 3, lambda c: c + 1, x)


@bypass("T14", "guard and review")
def callback_in_a_linear_solve(trial: Trial) -> Model:
    """`custom_linear_solve` keeps its programs in a tuple in a tuple."""
    leaf = calling(trial)
    return lambda x: jax.lax.custom_linear_solve(
        lambda v: 2 * v, x, lambda _, b: leaf(b) / 2, symmetric=True
    )


@bypass("T14", "guard and review")
def callback_in_a_root(trial: Trial) -> Model:
    """`custom_root`: the solver calls back."""
    leaf = calling(trial)
    return lambda x: jax.lax.custom_root(
        lambda v: v - x, x, lambda f, v: leaf(v), lambda g, y: y / g(1.0)
    )


@bypass("T14", "guard and review")
def callback_in_a_composite(trial: Trial) -> Model:
    """`lax.composite`: a name, and behind it a program that calls back."""
    return jax.lax.composite(calling(trial), "threats.harmless")


@bypass("T14", "guard and review")
def callback_in_a_custom_vmap(trial: Trial) -> Model:
    """A function with a batching rule of its own calls back."""
    wrapped = jax.custom_batching.custom_vmap(calling(trial))
    wrapped.def_vmap(lambda size, batched, x: (x, batched[0]))
    return wrapped


@bypass("T14", "guard and review")
def callback_in_an_associative_scan(trial: Trial) -> Model:
    """The operation of `associative_scan` calls back."""

    def add(a: Any, b: Any) -> Any:
        return jax.pure_callback(
            lambda x: trial.report(x), jax.ShapeDtypeStruct(a.shape, a.dtype), a + b
        )

    return lambda x: jax.lax.associative_scan(add, jnp.stack([x, x, x]))


@bypass("T14", "guard and review")
def callback_in_a_gradient(trial: Trial) -> Model:
    """The backward pass, taken inside the model, calls back."""

    @jax.custom_vjp
    def f(x: Any) -> Any:
        return x

    leaf = calling(trial)
    f.defvjp(lambda x: (x, None), lambda _, g: (leaf(g),))
    return jax.grad(f)


@bypass("T14", "guard and review")
def callback_handed_to_vmap(trial: Trial) -> Model:
    """`jax.vmap(functools.partial(jax.pure_callback, ...))`: only JAX calls it."""
    leaf = functools.partial(
        jax.pure_callback, trial.report, F32, vmap_method="expand_dims"
    )
    batched = jax.vmap(leaf)
    return lambda x: batched(jnp.stack([x, x]))


@bypass("T14", "guard and review")
def callback_handed_to_jit(trial: Trial) -> Model:
    """`jax.jit(functools.partial(jax.pure_callback, ...))` made before the scope."""
    return jax.jit(functools.partial(jax.pure_callback, trial.report, F32))


@bypass("T14", "guard and review")
def callback_in_a_kernel(trial: Trial) -> Model:
    """`jax.debug.callback` in a Pallas kernel that is interpreted."""

    def kernel(x: Any, out: Any) -> None:
        jax.debug.callback(trial.report, x[...])
        out[...] = x[...]

    return lambda x: pl.pallas_call(kernel, out_shape=F32, interpret=True)(x)


@bypass("T14", "guard and review")
def breakpoint_of_jax(trial: Trial) -> Model:
    """`jax.debug.breakpoint` with a debugger of the attacker's own: frames, local
    names and values of the process."""
    from jax._src.debugger import core as debugger

    debugger.register_debugger("threats", lambda *_, **__: trial.saw("debugger"), -1)
    trial.undo(debugger._debugger_registry.pop, "threats")

    def model(x: Any) -> Any:
        jax.debug.breakpoint(backend="threats")
        return x

    return model


@bypass("T14", "guard and review")
def sharding_inspected(trial: Trial) -> Model:
    """`jax.debug.inspect_array_sharding` calls back while XLA compiles."""

    def model(x: Any) -> Any:
        jax.debug.inspect_array_sharding(x, callback=trial.report)
        return x

    return model
