"""Programs inside programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from threats.bypasses._kit import F32, Trial

Model = Callable[[Any], Any]


def calling(trial: Trial) -> Model:
    """A model that calls back with the plainest API."""
    return lambda x: jax.pure_callback(trial.report, F32, x)


def equation_of(f: Model) -> Any:
    """The equation of a program of one, to be bound without an API."""
    return jax.make_jaxpr(f)(jnp.float32(1)).eqns[0]


def in_scan(f: Model) -> Model:
    """The body of a loop with a known length."""
    return lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, length=1)[0]


def in_cond(f: Model) -> Model:
    """A branch that is taken when the program runs."""
    return lambda x: jax.lax.cond(x < 100, f, lambda v: v, x)


def in_while(f: Model) -> Model:
    """The body of a loop with an unknown length."""
    return lambda x: jax.lax.while_loop(
        lambda c: c[0] < 1, lambda c: (c[0] + 1, f(c[1])), (0, x)
    )[1]


def in_remat(f: Model) -> Model:
    """A function whose values are computed again for the gradient."""
    return jax.checkpoint(f)


def in_custom_jvp(f: Model) -> Model:
    """A function with a derivative of its own."""
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda primals, tangents: (wrapped(*primals), tangents[0]))
    return wrapped


def in_custom_vjp(f: Model) -> Model:
    """A function with a backward pass of its own."""
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda x: (f(x), None), lambda _, g: (g,))
    return wrapped


def in_shard_map(f: Model) -> Model:
    """What each device does with its part."""
    mesh = jax.make_mesh((1,), ("i",), (AxisType.Auto,), devices=jax.devices()[:1])
    spec = PartitionSpec()
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


WRAPPERS = (in_scan, in_cond, in_while, in_remat, in_custom_jvp)


def nested(leaf: Model, depth: int) -> Model:
    """The leaf inside so many programs inside one another."""
    for wrap in WRAPPERS[:depth]:
        leaf = wrap(leaf)
    return leaf
