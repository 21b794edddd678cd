"""T13: reading programs, shapes and arrays that the model was not given."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.ad_checkpoint
import jax.extend as jex
import jax.numpy as jnp
from jax._src import core, linear_util
from jax._src.interpreters import partial_eval
from threats.bypasses._kit import Trial, bypass
from threats.bypasses.aliases import reading

READ_ONLY = (
    "Reading an attribute of an object that the model holds is no call and has no "
    "event in Python."
)


@bypass("T13", "guard")
def lower_of_a_jitted_function(trial: Trial) -> Callable[..., Any]:
    """`jitted.lower(x).as_text()` of a function that was jitted before."""
    jitted = jax.jit(jnp.sin)
    return reading(trial, lambda: jitted.lower(1.0).as_text())


@bypass("T13", "guard")
def trace_of_a_jitted_function(trial: Trial) -> Callable[..., Any]:
    """`jitted.trace(x).jaxpr`."""
    jitted = jax.jit(jnp.sin)
    return reading(trial, lambda: jitted.trace(1.0).jaxpr)


@bypass("T13", "guard")
def eval_shape_of_a_jitted_function(trial: Trial) -> Callable[..., Any]:
    """`jitted.eval_shape(x)`."""
    jitted = jax.jit(jnp.sin)
    return reading(trial, lambda: jitted.eval_shape(1.0))


@bypass("T13", "guard")
def attribute_getter(trial: Trial) -> Callable[..., Any]:
    """`operator.attrgetter("lower")(jitted)`: the method taken out of its object."""
    take = operator.attrgetter("lower")
    jitted = jax.jit(jnp.sin)
    return reading(trial, lambda: take(jitted)(1.0).as_text())


@bypass("T13", "guard")
def method_taken_before(trial: Trial) -> Callable[..., Any]:
    """`lower = jitted.lower` before the scope."""
    lower = jax.jit(jnp.sin).lower
    return reading(trial, lambda: lower(1.0).as_text())


@bypass("T13", "guard")
def method_of_a_safe_function(trial: Trial) -> Callable[..., Any]:
    """`.lower` of another function that was made with the same `jit`."""
    other = trial.jit(jnp.sin)
    return reading(trial, lambda: other.lower(1.0).as_text())


@bypass("T13", "guard")
def lowered_made_before(trial: Trial) -> Callable[..., Any]:
    """`.as_text()` of a `Lowered` object that was made before the scope."""
    lowered = jax.jit(jnp.sin).lower(1.0)
    return reading(trial, lowered.as_text)


@bypass("T13", "guard")
def compiler_ir(trial: Trial) -> Callable[..., Any]:
    """`.compiler_ir()` of such an object: the module itself, to be changed at will."""
    lowered = jax.jit(jnp.sin).lower(1.0)
    return reading(trial, lowered.compiler_ir)


@bypass("T13", "guard")
def compiled_made_before(trial: Trial) -> Callable[..., Any]:
    """`.as_text()` of a `Compiled` object that was made before the scope."""
    compiled = jax.jit(jnp.sin).lower(1.0).compile()
    return reading(trial, compiled.as_text)


@bypass("T13", "guard")
def traced_made_before(trial: Trial) -> Callable[..., Any]:
    """`.lower()` of a `Traced` object that was made before the scope."""
    traced = jax.jit(jnp.sin).trace(1.0)
    return reading(trial, traced.lower)


@bypass("T13", "guard")
def eval_shape(trial: Trial) -> Callable[..., Any]:
    """`jax.eval_shape` as a tracer inside the trace."""
    return reading(trial, lambda: jax.eval_shape(jnp.sin, 1.0))


@bypass("T13", "guard")
def closure_convert(trial: Trial) -> Callable[..., Any]:
    """`jax.closure_convert` hands out what a function captured."""
    secret = jnp.arange(3.0)

    def model(x: Any) -> Any:
        _, captured = jax.closure_convert(lambda v: v * x + secret[0], x)
        trial.saw(captured)
        return x

    return model


@bypass("T13", "guard")
def live_arrays(trial: Trial) -> Callable[..., Any]:
    """`jax.live_arrays()`: every array of the process, whoever owns it."""
    secret = jnp.float32(4711)

    def model(x: Any) -> Any:
        trial.saw([a for a in jax.live_arrays() if a is secret])
        return x

    return model


@bypass("T13", "guard")
def saved_residuals(trial: Trial) -> Callable[..., Any]:
    """`jax.ad_checkpoint.print_saved_residuals` traces, and prints what it finds."""
    return reading(
        trial, lambda: jax.ad_checkpoint.print_saved_residuals(jnp.sin, 1.0) or "done"
    )


@bypass("T13", "guard")
def jaxpr_as_a_function(trial: Trial) -> Callable[..., Any]:
    """`jax.extend.core.jaxpr_as_fun` runs a program that was recorded before."""
    program = jax.jit(jnp.sin).trace(1.0).jaxpr
    return reading(trial, lambda: jex.core.jaxpr_as_fun(program)(1.0))


@bypass("T13", "guard")
def partial_evaluation(trial: Trial) -> Callable[..., Any]:
    """JAX's own tracing function, which `make_jaxpr` and `jit` stand on."""

    def act() -> Any:
        info = core.DebugInfo("traced", "f", ("x",), None)
        fun = linear_util.wrap_init(lambda x: [jnp.sin(x)], debug_info=info)
        return partial_eval.trace_to_jaxpr_dynamic(fun, [core.typeof(1.0)])[0]

    return reading(trial, act)


@bypass("T13", "not defended", reason=READ_ONLY)
def tracer_attributes(trial: Trial) -> Callable[..., Any]:
    """`x._trace.frame` is the program as far as it is recorded."""

    def model(x: Any) -> Any:
        y = x + 41
        trial.saw(str(y._trace.frame.tracing_eqns))
        return y

    return model


@bypass("T13", "not defended", reason=READ_ONLY)
def program_read_before(trial: Trial) -> Callable[..., Any]:
    """`jax.make_jaxpr(f)(x)` before the scope; in it only the text is used."""
    program = jax.make_jaxpr(jnp.sin)(1.0)
    return reading(trial, lambda: str(program))


def spying(trial: Trial) -> type[Any]:
    """A subclass of JAX's `Trace` that sees every primitive that is bound."""

    class Spy(core.Trace):  # type: ignore[misc]
        def __init__(self, parent: Any) -> None:
            super().__init__()
            self.parent = parent

        def process_primitive(self, primitive: Any, tracers: Any, params: Any) -> Any:
            trial.saw(str(primitive))
            core.trace_ctx.set_trace(self.parent)
            try:
                return primitive.bind(*tracers, **params)
            finally:
                core.trace_ctx.set_trace(self)

    return Spy


@bypass("T13", "guard")
def interpreter_of_ones_own(trial: Trial) -> Callable[..., Any]:
    """A trace of the attacker's own takes the place of JAX's."""
    spy = spying(trial)

    def model(x: Any) -> Any:
        with core.take_current_trace() as parent, core.set_current_trace(spy(parent)):
            return jnp.sin(x)

    return model


@bypass(
    "T13",
    "not defended",
    reason="The object that holds the current trace is written in C++. What such a "
    "trace records is the model's own program.",
)
def interpreter_set_in_c(trial: Trial) -> Callable[..., Any]:
    """A trace of the attacker's own, put in place by the C++ object that holds the
    current one."""
    spy = spying(trial)

    def model(x: Any) -> Any:
        parent = core.trace_ctx.trace
        core.trace_ctx.set_trace(spy(parent))
        try:
            return jnp.sin(x)
        finally:
            core.trace_ctx.set_trace(parent)

    return model


@bypass(
    "T13",
    "not defended",
    reason="The client's methods are written in C++: they have no code object to "
    "watch and raise no audit event.",
)
def executables_of_the_client(trial: Trial) -> Callable[..., Any]:
    """The text of programs of others, from the client's list of live executables."""
    jax.jit(jnp.sin)(1.0)

    def act() -> Any:
        executables = jax.devices()[0].client.live_executables()
        return executables[0].hlo_modules()[0].to_string()

    return reading(trial, act)
