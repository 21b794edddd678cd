"""T14: programs that are bound or run, not made, while tracing."""

# A lambda around a function is another function, and a frame of the attacker's:

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend as jex
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax._src import core
from threats.bypasses._kit import F32, Trial, bypass
from threats.bypasses._programs import (
    Model,
    calling,
    equation_of,
    in_shard_map,
    nested,
)

SUSPENDED = (
    "The object that holds the current trace is written in C++, and binding a "
    "primitive is no API: JAX does it for every operation."
)


@bypass("T14", "review")
def callback_primitive_bound(trial: Trial) -> Model:
    """The primitive is bound with parameters recorded before: no API is called."""
    found = equation_of(calling(trial))
    return lambda x: found.primitive.bind(x, **found.params)[0]


@bypass("T14", "review")
def callback_primitive_bound_at_depth_5(trial: Trial) -> Model:
    """The same inside five programs."""
    found = equation_of(calling(trial))
    return nested(lambda x: found.primitive.bind(x, **found.params)[0], 5)


@bypass("T14", "review")
def debug_primitive_bound_in_shard_map(trial: Trial) -> Model:
    """The primitive of `jax.debug.callback`, bound in the program of a device."""

    def tell(x: Any) -> Any:
        jax.debug.callback(trial.report, x)
        return x

    found = equation_of(tell)

    def leaf(x: Any) -> Any:
        found.primitive.bind(x, **found.params)
        return x

    return in_shard_map(leaf)


@bypass("T14", "review")
def program_recorded_before(trial: Trial) -> Model:
    """A program with a callback, recorded before the scope, is run equation by
    equation by a loop of the attacker's own."""
    program = jax.make_jaxpr(calling(trial))(jnp.float32(1))

    def model(x: Any) -> Any:
        known = {program.jaxpr.invars[0]: x}
        for e in program.jaxpr.eqns:
            outs = e.primitive.bind(*(known[v] for v in e.invars), **e.params)
            known |= dict(zip(e.outvars, outs, strict=True))
        return known[program.jaxpr.outvars[0]]

    return model


@bypass("T14", "guard and review")
def program_as_a_function_made_before(trial: Trial) -> Model:
    """`jaxpr_as_fun(program)` before the scope, called in it."""
    program = jax.make_jaxpr(calling(trial))(jnp.float32(1))
    run = jex.core.jaxpr_as_fun(program)
    return lambda x: run(x)[0]


@bypass("T14", "guard and review")
def pullback_made_before(trial: Trial) -> Model:
    """`jax.vjp` before the scope: the function it returned has the backward pass in
    it, which calls back."""

    @jax.custom_vjp
    def f(x: Any) -> Any:
        return x

    leaf = calling(trial)
    f.defvjp(lambda x: (x, None), lambda _, g: (leaf(g),))
    _, pullback = jax.vjp(f, jnp.float32(1))
    return lambda x: pullback(x)[0]


@bypass("T14", "guard")
def callback_run_while_tracing(trial: Trial) -> Model:
    """`jax.ensure_compile_time_eval`: the callback runs during the trace and leaves
    nothing in the program."""

    def model(x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            jax.pure_callback(trial.report, F32, np.float32(1))
        return x

    return model


@bypass("T14", "guard")
def compiled_program_called_while_tracing(trial: Trial) -> Model:
    """A `Compiled` object with a callback in it, called under
    `jax.ensure_compile_time_eval`: nothing is traced, nothing is recorded."""
    compiled = jax.jit(calling(trial)).lower(F32).compile()

    def model(x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            compiled(np.float32(1))
        return x

    return model


@contextlib.contextmanager
def evaluating() -> Iterator[None]:
    """What `jax.ensure_compile_time_eval` does, by the C++ object below it."""
    before = core.trace_ctx.trace
    core.trace_ctx.set_trace(getattr(core, "eval_trace", None))
    try:
        yield
    finally:
        core.trace_ctx.set_trace(before)


@bypass("T14", "guard")
def compiled_program_called_in_a_trace(trial: Trial) -> Model:
    """The same as it is: a `Compiled` object can be called in any trace with what is
    no tracer."""

    def tell(x: Any) -> Any:
        jax.debug.callback(lambda: trial.saw("called back"))
        return x

    compiled = jax.jit(tell).lower(F32).compile()

    def model(x: Any) -> Any:
        compiled(np.float32(1))
        return x

    return model


@bypass("T14", "guard")
def compiled_program_called_below_c(trial: Trial) -> Model:
    """The same where tracing was suspended by a C++ object."""
    compiled = jax.jit(calling(trial)).lower(F32).compile()

    def model(x: Any) -> Any:
        with evaluating():
            compiled(np.float32(1))
        return x

    return model


@bypass("T14", "not defended", reason=SUSPENDED)
def primitive_bound_below_c(trial: Trial) -> Model:
    """A primitive with a callback is bound where tracing was suspended by a C++
    object: it runs at once."""
    found = equation_of(calling(trial))

    def model(x: Any) -> Any:
        with evaluating():
            found.primitive.bind(jnp.float32(1), **found.params)
        return x

    return model


@bypass("T14", "not defended", reason=SUSPENDED)
def jitted_function_run_below_c(trial: Trial) -> Model:
    """A jitted function that binds it is traced, compiled and run where tracing was
    suspended by a C++ object: a program of its own that nobody reviews."""
    found = equation_of(calling(trial))
    jitted = jax.jit(lambda x: found.primitive.bind(x, **found.params)[0])

    def model(x: Any) -> Any:
        with evaluating():
            jitted(np.float32(1))
        return x

    return model


@bypass("T14", "guard")
def jitted_function_run_while_tracing(trial: Trial) -> Model:
    """A jitted function with a callback, called before, is called under
    `jax.ensure_compile_time_eval`: its compiled program is at hand."""
    jitted = jax.jit(calling(trial))
    with jax.ensure_compile_time_eval():
        jitted(np.float32(1))
    jax.effects_barrier()
    trial.evidence.clear()

    def model(x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            jitted(np.float32(1))
        return x

    return model


@bypass("T14", "guard")
def primitive_bound_while_tracing(trial: Trial) -> Model:
    """The primitive bound under `jax.ensure_compile_time_eval`: no API is called,
    and no equation is recorded."""
    found = equation_of(calling(trial))

    def model(x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            found.primitive.bind(jnp.float32(1), **found.params)
        return x

    return model
