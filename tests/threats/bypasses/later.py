"""T19: what a model leaves behind, and rules that run outside of its trace."""

# A lambda around a function is another function, and a frame of the attacker's:
# ruff: noqa: PLW0108

from __future__ import annotations

import atexit
import logging
import signal
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
from threats.bypasses._kit import Trial, bypass
from threats.bypasses.threads import Model, doing, reads

LATER = (
    "It runs when the call has returned, where no scope is open: what a model leaves "
    "behind for later is Python in your interpreter."
)


@bypass("T19", "not defended", reason=LATER)
def generator_resumed_afterwards(trial: Trial) -> Model:
    """A generator that was started in the scope is resumed by its finaliser, or by
    whoever holds it."""
    look = reads(trial)
    kept: list[Any] = []

    def steps() -> Iterator[None]:
        yield
        look()
        yield

    def act() -> None:
        generator = steps()
        next(generator)
        kept.append(generator)

    trial.afterwards(lambda: next(kept[0]) if kept else None)
    return doing(act)


@bypass("T19", "not defended", reason=LATER)
def finaliser(trial: Trial) -> Model:
    """`__del__` of an object that lives until the call has ended."""
    look = reads(trial)
    kept: list[Any] = []

    class Dying:
        def __del__(self) -> None:
            look()

    trial.afterwards(kept.clear)
    return doing(lambda: kept.append(Dying()))


@bypass("T19", "guard")
def finaliser_in_the_scope(trial: Trial) -> Model:
    """`__del__` of an object that dies in the scope. What a finaliser raises is
    swallowed by Python, so nothing is read but the trace goes on: a refusal that was
    swallowed must be raised when the scope ends."""
    look = reads(trial)

    class Dying:
        def __del__(self) -> None:
            look()

    def act() -> None:
        Dying()

    return doing(act)


@bypass("T19", "guard")
def weak_reference(trial: Trial) -> Model:
    """`weakref.finalize` calls a function when an object dies, later."""
    look = reads(trial)

    class Thing:
        pass

    kept: list[Any] = []
    trial.afterwards(kept.clear)

    def act() -> None:
        kept.append(Thing())
        weakref.finalize(kept[0], look).atexit = False

    return doing(act)


@bypass("T19", "not defended", reason=LATER)
def at_exit(trial: Trial) -> Model:
    """`atexit.register`: it runs when the process ends."""
    look = reads(trial)
    trial.undo(atexit.unregister, look)
    count = atexit._ncallbacks()
    trial.afterwards(lambda: atexit._ncallbacks() > count)
    return doing(lambda: atexit.register(look))


@bypass("T19", "guard")
def signal_handler(trial: Trial) -> Model:
    """`signal.signal`: the handler runs whenever the signal comes."""
    look = reads(trial)
    trial.undo(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))

    def arrive() -> None:
        if signal.getsignal(signal.SIGUSR1) == handler:
            signal.raise_signal(signal.SIGUSR1)

    def handler(*_: Any) -> None:
        look()

    trial.afterwards(arrive)
    return doing(lambda: signal.signal(signal.SIGUSR1, handler))


@bypass("T19", "guard")
def listener_of_jax(trial: Trial) -> Model:
    """`jax.monitoring.register_event_duration_secs_listener`: JAX calls it at every
    compilation from now on, of whatever function."""

    def listen(event: str, duration: float, **_: Any) -> None:
        trial.saw(event)

    def act() -> None:
        jax.monitoring.register_event_duration_secs_listener(listen)
        trial.undo(jax.monitoring.unregister_event_duration_listener, listen)

    return doing(act)


@bypass("T19", "not defended", reason=LATER)
def handler_of_a_log(trial: Trial) -> Model:
    """A filter on a logger: it runs when anybody logs."""
    look = reads(trial)
    logger = logging.getLogger("threats")

    class Sly(logging.Filter):
        def filter(self, record: Any) -> bool:
            look()
            return False

    sly = Sly()
    trial.undo(logger.removeFilter, sly)
    trial.afterwards(lambda: logger.warning("anything"))
    return doing(lambda: logger.addFilter(sly))


@bypass(
    "T19",
    "not defended",
    reason="Assigning an attribute of a module is no call and has no event in Python.",
)
def name_replaced_in_a_module(trial: Trial) -> Model:
    """`jnp.sinc = ...`: whoever uses that name later runs the attacker's function."""
    original = jnp.sinc
    trial.undo(setattr, jnp, "sinc", original)

    def other(x: Any) -> Any:
        trial.saw("called by somebody else")
        return original(x)

    trial.afterwards(lambda: jnp.sinc(1.0) is None)
    return doing(lambda: setattr(jnp, "sinc", other))


@bypass("T19", "not defended", reason=LATER)
def backward_pass(trial: Trial) -> Model:
    """The backward rule of a `custom_vjp` runs when the caller takes a gradient."""
    look = reads(trial)

    @jax.custom_vjp
    def f(x: Any) -> Any:
        return x

    def backward(_: Any, g: Any) -> Any:
        look()
        return (g,)

    f.defvjp(lambda x: (x, None), backward)
    trial.through = jax.grad
    return lambda x: f(x)


@bypass("T19", "not defended", reason=LATER)
def callback_in_a_backward_pass(trial: Trial) -> Model:
    """The backward rule of a `custom_vjp` calls back into Python: it was not in the
    program that was reviewed."""

    @jax.custom_vjp
    def f(x: Any) -> Any:
        return x

    def backward(_: Any, g: Any) -> Any:
        spec = jax.ShapeDtypeStruct(g.shape, g.dtype)
        return (jax.pure_callback(trial.report, spec, g),)

    f.defvjp(lambda x: (x, None), backward)
    trial.through = jax.grad
    return lambda x: f(x)


@bypass("T19", "guard")
def derivative_rule(trial: Trial) -> Model:
    """The rule of a `custom_jvp` runs when the caller differentiates."""
    look = reads(trial)

    @jax.custom_jvp
    def f(x: Any) -> Any:
        return x

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        look()
        return primals[0], tangents[0]

    trial.through = jax.grad
    return lambda x: f(x)


@bypass("T19", "guard")
def batching_rule(trial: Trial) -> Model:
    """The rule of a `custom_vmap` runs when the caller maps over a batch."""
    look = reads(trial)
    f = jax.custom_batching.custom_vmap(lambda x: x + 1)

    @f.def_vmap
    def rule(size: Any, batched: Any, x: Any) -> Any:
        look()
        return x + 1, batched[0]

    trial.through = jax.vmap
    trial.args = (jnp.ones(2),)
    return lambda x: f(x)


@bypass("T19", "guard")
def callback_in_a_batching_rule(trial: Trial) -> Model:
    """The same rule calls back into Python."""
    f = jax.custom_batching.custom_vmap(lambda x: x + 1)

    @f.def_vmap
    def rule(size: Any, batched: Any, x: Any) -> Any:
        spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(trial.report, spec, x), batched[0]

    trial.through = jax.vmap
    trial.args = (jnp.ones(2),)
    return lambda x: f(x)


@bypass("T19", "guard")
def callback_in_a_derivative_rule(trial: Trial) -> Model:
    """The rule of a `custom_jvp` calls back into Python."""

    @jax.custom_jvp
    def f(x: Any) -> Any:
        return x

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        spec = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(trial.report, spec, primals[0]), tangents[0]

    def through(jitted: Any) -> Any:
        return lambda x: jax.jvp(jitted, (x,), (x,))[0]

    trial.through = through
    return lambda x: f(x)


@bypass("T19", "guard")
def policy_of_checkpoint(trial: Trial) -> Model:
    """The policy of `jax.checkpoint` is a function that JAX asks when the caller
    takes a gradient."""
    look = reads(trial)

    def policy(*_: Any, **__: Any) -> bool:
        look()
        return False

    trial.through = jax.grad
    return jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)), policy=policy)


@bypass("T19", "not defended", reason=LATER)
def container_of_results(trial: Trial) -> Model:
    """A class registered as a pytree: JAX builds it anew for the result of every
    call, long after the trace."""
    armed: list[bool] = []

    class Box:
        def __init__(self, value: Any) -> None:
            self.value = value

    def rebuild(_: Any, leaves: Any) -> Any:
        if armed:
            trial.saw("ran at a call")
        return Box(*leaves)

    jax.tree_util.register_pytree_node(Box, lambda b: ((b.value,), None), rebuild)

    def through(jitted: Any) -> Any:
        def twice(x: Any) -> Any:
            jitted(x)
            armed.append(True)
            return jitted(x).value

        return twice

    trial.through = through
    return lambda x: Box(x + 1)
