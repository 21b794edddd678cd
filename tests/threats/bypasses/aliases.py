"""T13: a blocked API by another name."""

from __future__ import annotations

import copy
import functools
import operator
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import make_jaxpr as from_before
from threats.bypasses._kit import Trial, bypass


def reading(trial: Trial, act: Callable[[], Any]) -> Callable[[Any], Any]:
    """A model that does this while it is traced, and notes what it got."""

    def model(x: Any) -> Any:
        trial.saw(str(act()))
        return x + 1

    return model


@bypass("T13", "guard")
def name_imported_before(trial: Trial) -> Callable[..., Any]:
    """`from jax import make_jaxpr` when the module was imported."""
    return reading(trial, lambda: from_before(jnp.sin)(1.0))


@bypass("T13", "guard")
def functools_partial(trial: Trial) -> Callable[..., Any]:
    """`functools.partial(jax.make_jaxpr, f)`: no Python frame of its own."""
    made = functools.partial(jax.make_jaxpr, jnp.sin)
    return reading(trial, lambda: made()(1.0))


@bypass("T13", "guard")
def computed_name(trial: Trial) -> Callable[..., Any]:
    """`getattr` with a name put together at run time: no scan of sources sees it."""
    return reading(trial, lambda: getattr(jax, "_".join(("make", "jaxpr")))(abs)(1.0))


@bypass("T13", "guard")
def module_dictionary(trial: Trial) -> Callable[..., Any]:
    """`vars(jax)["make_jaxpr"]`: past the module's own look-up."""
    return reading(trial, lambda: vars(jax)["make_jaxpr"](jnp.sin)(1.0))


@bypass("T13", "guard")
def private_path(trial: Trial) -> Callable[..., Any]:
    """`jax._src.api.make_jaxpr`: where JAX itself keeps it."""
    return reading(trial, lambda: jax._src.api.make_jaxpr(jnp.sin)(1.0))


@bypass("T13", "guard")
def wrapped_function(trial: Trial) -> Callable[..., Any]:
    """`jax.make_jaxpr.__wrapped__`: below JAX's own wrapper."""
    return reading(trial, lambda: jax.make_jaxpr.__wrapped__(jnp.sin)(1.0))


@bypass("T13", "guard")
def closure(trial: Trial) -> Callable[..., Any]:
    """A reference that a closure kept from before the scope."""

    def keep(api: Any) -> Callable[[], Any]:
        return lambda: api(jnp.sin)(1.0)

    return reading(trial, keep(jax.make_jaxpr))


@bypass("T13", "guard")
def default_argument(trial: Trial) -> Callable[..., Any]:
    """A reference in the default of a parameter."""
    return reading(trial, lambda api=jax.make_jaxpr: api(jnp.sin)(1.0))


@bypass("T13", "guard")
def class_attribute(trial: Trial) -> Callable[..., Any]:
    """A reference as a static method of a class."""

    class Holder:
        look = staticmethod(jax.make_jaxpr)

    return reading(trial, lambda: Holder().look(jnp.sin)(1.0))


@bypass("T13", "guard")
def bound_method(trial: Trial) -> Callable[..., Any]:
    """`types.MethodType(jax.make_jaxpr, f)()`: called as a method of its argument."""
    method = types.MethodType(jax.make_jaxpr, jnp.sin)
    return reading(trial, lambda: method()(1.0))


@bypass("T13", "guard")
def cached_property(trial: Trial) -> Callable[..., Any]:
    """A `functools.cached_property` that is the API: reading an attribute calls it."""

    class Layer:
        program = functools.cached_property(jax.make_jaxpr)

        def __call__(self, x: Any) -> Any:
            return jnp.sin(x)

    return reading(trial, lambda: Layer().program(1.0))


@bypass("T13", "guard")
def method_caller(trial: Trial) -> Callable[..., Any]:
    """`operator.methodcaller("make_jaxpr", f)(jax)`: called from C."""
    call = operator.methodcaller("make_jaxpr", jnp.sin)
    return reading(trial, lambda: call(jax)(1.0))


@bypass("T13", "guard")
def mapped(trial: Trial) -> Callable[..., Any]:
    """`map`, `sorted(key=)` and `functools.reduce` call it on the attacker's behalf."""

    def act() -> Any:
        made = list(map(jax.make_jaxpr, [jnp.sin]))
        return functools.reduce(lambda _, f: f(1.0), made, None)

    return reading(trial, act)


@bypass("T13", "guard")
def sort_key(trial: Trial) -> Callable[..., Any]:
    """`sorted(key=jax.make_jaxpr(f))`: the key is the program."""
    found: list[Any] = []

    def key(value: Any, api: Any = jax.make_jaxpr) -> int:
        found.append(api(jnp.sin)(value))
        return 0

    return reading(trial, lambda: (sorted([1.0], key=key), found))


@bypass("T13", "guard")
def called_by_jax(trial: Trial) -> Callable[..., Any]:
    """`jax.tree.map(jax.make_jaxpr, [f])`: the caller is a function of JAX."""
    return reading(trial, lambda: jax.tree.map(jax.make_jaxpr, [jnp.sin])[0](1.0))


@bypass("T13", "guard")
def transformed_by_jax(trial: Trial) -> Callable[..., Any]:
    """`jax.vmap(functools.partial(jax.eval_shape, f))`: the caller is a function of
    JAX, inside a transformation."""

    def shape(x: Any) -> Any:
        trial.saw("traced by eval_shape")
        return x

    def model(x: Any) -> Any:
        try:
            jax.vmap(functools.partial(jax.eval_shape, shape))(jnp.stack([x, x]))
        except TypeError:  # a shape is not what vmap can return
            trial.saw("eval_shape ran")
        return x

    return model


@bypass("T13", "guard")
def control_flow_body(trial: Trial) -> Callable[..., Any]:
    """A `jax.lax.scan` body that calls it when JAX traces the body."""

    def model(x: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
            return carry, None

        return jax.lax.scan(body, x, None, length=2)[0]

    return model


@bypass("T13", "guard")
def rule_of_a_gradient(trial: Trial) -> Callable[..., Any]:
    """A `custom_jvp` rule, which JAX calls while the model takes a gradient."""

    @jax.custom_jvp
    def f(x: Any) -> Any:
        return x * x

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
        return f(*primals), tangents[0]

    return jax.grad(f)


@bypass("T13", "guard")
def made_before(trial: Trial) -> Callable[..., Any]:
    """`show = jax.make_jaxpr(f)` before the scope, `show(x)` in it."""
    show = jax.make_jaxpr(jnp.sin)
    return reading(trial, lambda: show(1.0))


@bypass("T13", "guard")
def coroutine(trial: Trial) -> Callable[..., Any]:
    """A coroutine driven by hand, without an event loop."""

    async def ask() -> Any:
        return jax.make_jaxpr(jnp.sin)(1.0)

    def act() -> Any:
        try:
            ask().send(None)
        except StopIteration as stop:
            return stop.value

    return reading(trial, act)


@bypass("T13", "guard")
def copied_object(trial: Trial) -> Callable[..., Any]:
    """`copy.deepcopy` of an object whose `__reduce__` names the API."""

    class Sly:
        def __reduce__(self) -> Any:
            return jax.make_jaxpr, (jnp.sin,)

    return reading(trial, lambda: copy.deepcopy(Sly())(1.0))


@bypass("T13", "guard")
def second_try(trial: Trial) -> Callable[..., Any]:
    """The refusal is caught and the call repeated: a profile function that raises is
    switched off by Python."""

    def model(x: Any) -> Any:
        for _ in range(3):
            try:
                trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
            except PermissionError as error:
                refusal = error
            else:
                return x
        raise refusal

    return model
