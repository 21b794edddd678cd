"""Programs to compile: small ones, slow ones, and ones made never to end.

Every function here makes new functions each time, so that nothing that JAX or safejax
keeps for a function answers for a compilation.
"""

# ruff: noqa: PLW0108  a lambda is a new function each time, what it calls is not

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec


class Program(NamedTuple):
    """A function and the arguments to compile it for."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]


def _rows(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _spd(n: int) -> Any:
    x = _rows(n, n)
    return x @ x.T + n * np.eye(n, dtype=np.float32)


# --- ordinary programs ------------------------------------------------------------


def ordinary() -> list[Program]:
    """56 programs of the kinds that people write."""
    families = (_elementwise, _algebra, _windows, _orders, _loops, _random, _gradients)
    return [
        Program(f"{family.__name__[1:]} {i}", function, args)
        for family in families
        for i, (function, args) in enumerate(family())
    ]


_Pairs = list[tuple[Callable[..., Any], tuple[Any, ...]]]


def _elementwise() -> _Pairs:
    x = (_rows(33, 7),)
    return [
        (lambda x: jnp.tanh(x) * 2 + 1, x),
        (lambda x: jax.nn.softmax(x), x),
        (lambda x: jax.nn.gelu(x).astype(jnp.bfloat16), x),
        (lambda x: jnp.where(x > 0, jnp.log1p(jnp.abs(x)), jnp.expm1(x)), x),
        (lambda x: (x - x.mean(0)) / (x.std(0) + 1e-6), x),
        (lambda x: jax.nn.logsumexp(x, axis=1), x),
        (lambda x: jnp.einsum("ij,kj->ik", x, x), x),
        (lambda x: {"a": x.astype(jnp.int32) % 5, "b": jnp.sign(x)}, x),
    ]


def _algebra() -> _Pairs:
    a, b = _spd(12), _rows(12, 3)
    return [
        (lambda a, b: a @ b, (a, b)),
        (lambda a: jnp.linalg.cholesky(a), (a,)),
        (lambda a, b: jnp.linalg.solve(a, b), (a, b)),
        (lambda a: jnp.linalg.qr(a), (a,)),
        (lambda a: jnp.linalg.svd(a), (a,)),
        (lambda a: jnp.linalg.eigh(a), (a,)),
        (lambda a: jnp.linalg.slogdet(a), (a,)),
        (lambda a: jnp.linalg.eigvals(a), (a,)),
        (lambda a, b: jax.scipy.linalg.solve_triangular(a, b), (a, b)),
        (lambda a: jax.scipy.linalg.expm(a / 40), (a,)),
    ]


def _windows() -> _Pairs:
    image, kernel = _rows(2, 3, 16, 16), _rows(4, 3, 3, 3)
    signal = (_rows(64),)
    return [
        (lambda x, k: lax.conv(x, k, (1, 1), "SAME"), (image, kernel)),
        (lambda x, k: lax.conv(x, k, (2, 2), "VALID"), (image, kernel)),
        (lambda x: jnp.convolve(x, x[:5]), signal),
        (lambda x: jnp.fft.fft(x), signal),
        (lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * 2), signal),
        (lambda x: jnp.fft.fft2(x), (_rows(8, 12),)),
        (
            lambda x: lax.reduce_window(
                x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"
            ),
            (image,),
        ),
        (lambda x: jnp.cumsum(x), signal),
    ]


def _orders() -> _Pairs:
    x, i = _rows(40), np.arange(40, dtype=np.int32) % 7
    return [
        (lambda x: jnp.sort(x), (x,)),
        (lambda x: jnp.argsort(x), (x,)),
        (lambda x: lax.top_k(x, 5), (x,)),
        (lambda x: jnp.median(x), (x,)),
        (lambda x, i: x[i], (x, i)),
        (lambda x, i: jnp.zeros(7).at[i].add(x), (x, i)),
        (lambda x, i: jax.ops.segment_max(x, i, num_segments=7), (x, i)),
        (lambda x: jnp.searchsorted(jnp.sort(x), x), (x,)),
    ]


def _loops() -> _Pairs:
    x, w = _rows(9, 5), _rows(5, 5)

    def step(carry: Any, row: Any) -> Any:
        carry = jnp.tanh(carry @ w + row)
        return carry, carry.sum()

    return [
        (lambda x: lax.scan(step, jnp.zeros(5), x), (x,)),
        (lambda x: lax.fori_loop(0, 5, lambda i, y: y * 0.9 + i, x), (x,)),
        (lambda x: lax.while_loop(lambda y: y.sum() < 99, lambda y: y + 1, x), (x,)),
        (lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), (x,)),
        (lambda x: lax.map(lambda row: row @ w, x), (x,)),
        (lambda x: lax.associative_scan(jnp.maximum, x), (x,)),
        (lambda x: jax.vmap(lambda row: jnp.outer(row, row))(x), (x,)),
    ]


def _random() -> _Pairs:
    key = (np.array([1, 2], np.uint32),)
    return [
        (lambda k: jax.random.normal(k, (20,)), key),
        (lambda k: jax.random.uniform(k, (20,)), key),
        (lambda k: jax.random.permutation(k, 20), key),
        (lambda k: jax.random.categorical(k, jnp.zeros((4, 9))), key),
        (lambda k: jax.random.gamma(k, 2.0, (6,)), key),
        (lambda k: jax.random.randint(jax.random.split(k)[1], (9,), 0, 50), key),
        (lambda k: jax.random.truncated_normal(k, -1.0, 1.0, (8,)), key),
    ]


def _gradients() -> _Pairs:
    x, w = _rows(9, 5), _rows(5, 5, seed=1)

    def loss(w: Any, x: Any) -> Any:
        return (jnp.tanh(x @ w) ** 2).mean()

    def scanned(w: Any, x: Any) -> Any:
        return lax.scan(lambda c, r: (jnp.tanh(c @ w + r), None), x[0], x)[0].sum()

    return [
        (jax.grad(loss), (w, x)),
        (jax.value_and_grad(loss), (w, x)),
        (jax.grad(scanned), (w, x)),
        (jax.jacfwd(lambda v: jnp.sin(v) * v.sum()), (x[0],)),
        (jax.jacrev(lambda v: jnp.sin(v) * v.sum()), (x[0],)),
        (jax.hessian(lambda v: (v**3).sum()), (x[0],)),
        (jax.grad(jax.checkpoint(loss)), (w, x)),
        (jax.grad(lambda a: jnp.linalg.cholesky(a).sum()), (_spd(6),)),
    ]


def sharded() -> list[Program]:
    """Four programs over four devices."""
    mesh = jax.make_mesh((4,), ("d",))
    spread = NamedSharding(mesh, PartitionSpec("d"))
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.device_put(_rows(8, 16), spread)
    w = jax.device_put(_rows(16, 4), whole)
    shards = jax.shard_map(
        lambda v: lax.psum(v.sum(0), "d"),
        mesh=mesh,
        in_specs=PartitionSpec("d"),
        out_specs=PartitionSpec(),
    )
    return [
        Program("sharded 0", lambda x, w: jnp.tanh(x @ w), (x, w)),
        Program("sharded 1", lambda x, w: (x @ w).sum(0), (x, w)),
        Program("sharded 2", jax.grad(lambda w, x: ((x @ w) ** 2).sum()), (w, x)),
        Program("sharded 3", lambda x: shards(x) * 2, (x,)),
    ]


# --- slow programs ----------------------------------------------------------------


def slow(steps: int) -> Program:
    """An unrolled recurrence: each step is one more product to compile."""
    w = _rows(8, 8)

    def unrolled(x: Any) -> Any:
        for i in range(steps):
            x = jnp.tanh(x @ w) + x[i % 8]
        return x

    return Program(f"{steps} unrolled steps", unrolled, (w,))


def serial(steps: int) -> Program:
    """A chain of gathers: one kernel, so that XLA has nothing to do side by side."""
    rows, order = _rows(16, 16), np.arange(16)

    def gathers(x: Any, k: Any) -> Any:
        for i in range(steps):
            x = x[(k + i) % 16] * 1.1
        return x

    return Program(f"{steps} gathers", gathers, (rows, order))


def products(steps: int) -> Program:
    """A chain of matrix products, each a kernel of its own."""
    w = _rows(64, 64)

    def multiplied(x: Any, w: Any) -> Any:
        for i in range(steps):
            x = jnp.tanh(x @ w) + i
        return x

    return Program(f"{steps} matrix products", multiplied, (w, w))


def training_step(layers: int) -> Program:
    """The gradient step of a small transformer."""
    width, heads, length = 64, 4, 32
    sizes = {
        **dict.fromkeys("qkvo", (width, width)),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    params = [
        {name: _rows(*shape, seed=i) for name, shape in sizes.items()}
        for i in range(layers)
    ]

    def normal(x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def attended(p: Any, x: Any) -> Any:
        split = [
            (normal(x) @ p[n]).reshape(-1, length, heads, width // heads) for n in "qkv"
        ]
        q, k, v = (part.swapaxes(1, 2) for part in split)
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / 4.0)
        return (weights @ v).swapaxes(1, 2).reshape(x.shape) @ p["o"]

    def loss(params: Any, x: Any) -> Any:
        for p in params:
            x = x + attended(p, x)
            x = x + jax.nn.gelu(normal(x) @ p["up"]) @ p["down"]
        return (x**2).mean()

    def step(params: Any, x: Any) -> Any:
        value, slopes = jax.value_and_grad(loss)(params, x)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)

    batch = np.ones((8, length, width), np.float32)
    return Program(f"training step, {layers} layers", step, (params, batch))


# --- compile bombs ----------------------------------------------------------------


def bomb(number: int) -> Program:
    """A small program that XLA works on for many seconds; each is another one."""
    kinds = (_chain, _sorts, _nested, _folded)
    return kinds[number % 4](number)


def _chain(number: int) -> Program:
    def chain(x: Any) -> Any:
        for i in range(200):
            x = jnp.tanh(x @ x) + x[i % 8] * number
        return x

    return Program("unrolled chain", chain, (_rows(8, 8),))


def _sorts(number: int) -> Program:
    def sorts(x: Any) -> Any:
        for i in range(600):
            x = lax.sort(x @ x + (i + number)) * lax.sin(x)
        return x

    return Program("sorts", sorts, (_rows(8, 8),))


def _nested(number: int) -> Program:
    def nested(x: Any) -> Any:
        w = x

        def inner(_: Any, y: Any) -> Any:
            for i in range(120):
                y = jnp.tanh(y @ w) + y[i % 8] * number
            return y

        def outer(_: Any, y: Any) -> Any:
            return lax.fori_loop(0, 3, inner, y) + lax.cos(y)

        return lax.fori_loop(0, 4, outer, x)

    return Program("nested loops", nested, (_rows(8, 8),))


def _folded(number: int) -> Program:
    big = np.arange(400 * 400, dtype=np.float32).reshape(400, 400) + number

    def folded(x: Any) -> Any:
        windows = lax.reduce_window(
            jnp.asarray(big), np.float32(0), lax.add, (120, 120), (1, 1), "VALID"
        )
        return x + windows.sum()

    return Program("constants to fold", folded, (_rows(8),))
