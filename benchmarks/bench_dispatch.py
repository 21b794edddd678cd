"""What a call costs that is let through."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import safejax
from benchmarks._harness import Effort, Limit, Row, pair

GROUP = "dispatch"

_F32 = jnp.float32
# Small: beyond 1,000 operations a program runs on another thread, with its noise.
_X = jax.ShapeDtypeStruct(("b", 16), _F32)


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    return [*_arrays(effort), *_trees(effort), *_shown(effort)]


def _row(
    name: str,
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    effort: Effort,
    limit: float | None = None,
    *,
    options: dict[str, Any] | None = None,
    **safe: Any,
) -> Row:
    options = options or {}
    calls = jax.jit(fun, **options), safejax.safe_jit(fun, **safe, **options)
    bound = None if limit is None else Limit(limit)
    return pair(GROUP, name, calls, args, effort, bound)


# --- arrays -----------------------------------------------------------------------


def _one(x: jax.Array) -> jax.Array:
    return x + 1


def _four(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    return a + b + c + d


def _arrays(effort: Effort) -> list[Row]:
    x = jnp.ones((8, 16), _F32)
    four = dict.fromkeys("abcd", _X)
    numpy = np.ones((8, 16), np.float32)
    return [
        _row("no contract, one jax.Array", _one, (x,), effort, 1.02),
        _row("contract, one jax.Array", _one, (x,), effort, 1.10, contract={"x": _X}),
        _row("contract, four", _four, (x,) * 4, effort, 1.15, contract=four),
        _row("contract, one NumPy", _one, (numpy,), effort, 1.20, contract={"x": _X}),
    ]


# --- trees ------------------------------------------------------------------------


def layers(count: int, leaves: int) -> dict[str, dict[str, jax.Array]]:
    """Parameters as models hold them: a dict of layers, each a dict of arrays."""
    return {
        f"layer{i}": {f"w{j}": jnp.full((4, 4), 1.0) for j in range(leaves)}
        for i in range(count)
    }


def _apply(params: Any, x: jax.Array) -> jax.Array:
    total = functools.reduce(jnp.add, jax.tree.leaves(params))
    return x + total.sum()


def _trees(effort: Effort) -> list[Row]:
    x = jnp.ones((8, 16), _F32)
    leaf = jax.ShapeDtypeStruct((4, 4), _F32)
    params = layers(100, 10)
    unchecked = _row(
        "1,000 leaves unchecked, one checked",
        _apply,
        (params, x),
        effort,
        1.05,
        contract={"params": None, "x": _X},
    )
    flat = {name + w: v for name, layer in params.items() for w, v in layer.items()}
    trees = {
        "100 x 10": (params, jax.tree.map(lambda _: leaf, params)),
        "500 x 2": (layers(500, 2), leaf),
        "flat": (flat, leaf),
    }
    checked = [
        _row(
            f"contract over all of 1,000 leaves, {name}",
            _apply,
            (tree, x),
            effort,
            1.5,
            contract={"params": contract, "x": _X},
        )
        for name, (tree, contract) in trees.items()
    ]
    return [unchecked, *checked]


# --- shown, without a limit -------------------------------------------------------


def _scaled(x: jax.Array, scale: float) -> jax.Array:
    return x * scale


def _moded(x: jax.Array, mode: str) -> jax.Array:
    return x + 1 if mode == "add" else x - 1


def _shown(effort: Effort) -> list[Row]:
    x = jnp.ones((8, 16), _F32)
    numpy = np.ones((8, 16), np.float32)
    finite = {"x": safejax.spec("f32[b, 16]", finite=True)}
    clip = {
        "x": safejax.spec("f32[b, 16]", minimum=0.0, maximum=1.0, on_violation="clip")
    }
    scalar = {"x": _X, "scale": safejax.spec("f32[]")}
    mode = {"x": _X, "mode": safejax.spec(one_of=("add", "subtract"))}
    static = {"static_argnames": "mode"}
    evict = safejax.Limits(on_limit="evict")
    return [
        _row("finite, NumPy 8x16", _one, (numpy,), effort, contract=finite),
        _row("finite, jax.Array 8x16", _one, (x,), effort, contract=finite),
        _row("clip, jax.Array 8x16", _one, (x,), effort, contract=clip),
        _row(
            "Python scalar beside an array", _scaled, (x, 2.0), effort, contract=scalar
        ),
        _row(
            "static argument, one_of",
            _moded,
            (x, "add"),
            effort,
            contract=mode,
            options=static,
        ),
        _row('no contract, on_limit="evict"', _one, (x,), effort, limits=evict),
    ]
