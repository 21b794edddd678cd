"""Programs whose memory is estimated and then compared with what XLA says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

F32 = jnp.float32


def _struct(*shape: int, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _mlp(params: Any, x: Any) -> Any:
    for w, b in params:
        x = jax.nn.relu(x @ w + b)
    return x


def _conv(x: Any, w: Any, stride: int = 1, groups: int = 1) -> Any:
    return jax.lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _cnn(params: Any, x: Any) -> Any:
    """Depthwise and pointwise convolutions in turn, as in MobileNet."""
    *blocks, head = params
    for depthwise, pointwise in blocks:
        x = jax.nn.relu(_conv(x, depthwise, groups=x.shape[-1]))
        x = jax.nn.relu(_conv(x, pointwise, stride=2))
    return x.mean((1, 2)) @ head


def _attention(params: Any, x: Any) -> Any:
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, w) for w in params)
    scores = jnp.einsum("bqhk,bshk->bhqs", q, k) / 8.0
    weights = jax.nn.softmax(scores)
    return jnp.einsum("bhqs,bshk->bqhk", weights, v)


def _norm(x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def _block(params: Any, x: Any) -> Any:
    qkv, out, up, down = params
    x = x + jnp.einsum("bqhk,hkd->bqd", _attention(qkv, _norm(x)), out)
    return x + jax.nn.gelu(_norm(x) @ up) @ down


def _rnn(params: Any, xs: Any) -> Any:
    w, u = params

    def step(h: Any, x: Any) -> Any:
        h = jnp.tanh(h @ w + x @ u)
        return h, h

    return jax.lax.scan(step, jnp.zeros((xs.shape[1], w.shape[0])), xs)[1]


def _loss(model: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, x: (model(params, x) ** 2).sum()


_MODELS: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "MLP": (_mlp, [(_struct(1024, 1024), _struct(1024))] * 6, _struct(2048, 1024)),
    "CNN": (
        _cnn,
        [
            (_struct(3, 3, 1, 16), _struct(1, 1, 16, 64)),
            (_struct(3, 3, 1, 64), _struct(1, 1, 64, 128)),
            _struct(128, 10),
        ],
        _struct(32, 64, 64, 16),
    ),
    "attention": (_attention, (_struct(512, 8, 64),) * 3, _struct(8, 512, 512)),
    "transformer block": (
        _block,
        (
            (_struct(512, 8, 64),) * 3,
            _struct(8, 64, 512),
            _struct(512, 2048),
            _struct(2048, 512),
        ),
        _struct(8, 512, 512),
    ),
    "scan RNN": (_rnn, (_struct(512, 512), _struct(256, 512)), _struct(200, 64, 256)),
}


def _stack(params: Any, x: Any) -> Any:
    return jax.lax.scan(lambda h, p: (_block(p, h), None), x, params)[0]


def _adam(params: Any, m: Any, v: Any, x: Any) -> Any:
    grads = jax.grad(_loss(_mlp))(params, x)
    m = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, m, grads)
    v = jax.tree.map(lambda a, g: 0.99 * a + 0.01 * g * g, v, grads)
    step = jax.tree.map(lambda p, a, b: p - a / (jnp.sqrt(b) + 1e-8), params, m, v)
    return step, m, v


def _others() -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    square = _struct(2048, 2048)
    yield "FFT", lambda x: jnp.fft.fft2(x).real, (square,)
    yield "FFT there and back", _filtered, (_struct(64, 256, 256),)
    yield "sort", lambda x: jnp.sort(x, axis=-1), (square,)
    yield (
        "embedding, gradient",
        jax.grad(_embedded),
        (
            _struct(50_000, 128),
            _struct(64, 256, dtype=jnp.int32),
        ),
    )
    yield "argsort and gather", _by_norm, (square,)
    yield "max pool, gradient", jax.grad(_window), (_struct(16, 128, 128, 32),)
    yield (
        "einsum",
        lambda a, b: jnp.einsum("bij,bkj->bik", a, b),
        (
            _struct(32, 256, 256),
            _struct(32, 512, 256),
        ),
    )
    yield (
        "einsum, permuted",
        lambda a, b: jnp.einsum("ibj,kjb->bki", a, b),
        (
            _struct(256, 32, 256),
            _struct(512, 256, 32),
        ),
    )
    yield "elementwise chain", _chain, (square,)
    yield "pairwise distances", _distances, (_struct(1024, 64), _struct(1024, 64))
    yield "cumulative sum", lambda x: jnp.cumsum(x, axis=0), (square,)
    yield (
        "random normal",
        lambda k: jax.random.normal(k, (2048, 2048)),
        (jax.eval_shape(lambda: jax.random.key(0)),),
    )
    yield (
        "Adam step of an MLP",
        _adam,
        (
            *(_MODELS["MLP"][1],) * 3,
            _struct(512, 1024),
        ),
    )
    params = jax.tree.map(
        lambda s: _struct(4, *s.shape), _MODELS["transformer block"][1]
    )
    x = _struct(4, 256, 512)
    yield "scanned transformer", _stack, (params, x)
    yield "scanned transformer, gradient", jax.grad(_loss(_stack)), (params, x)


def _embedded(table: Any, tokens: Any) -> Any:
    return (table[tokens] ** 2).sum()


def _window(x: Any) -> Any:
    window = (1, 2, 2, 1)
    pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    return (pooled**2).sum()


def _filtered(x: Any) -> Any:
    spectrum = jnp.fft.rfft2(x)
    return jnp.fft.irfft2(spectrum * jnp.exp(-jnp.abs(spectrum)))


def _by_norm(x: Any) -> Any:
    return x[jnp.argsort((x**2).sum(-1))]


def _chain(x: Any) -> Any:
    for _ in range(20):
        x = jnp.sin(x) * 2 + 1
    return x


def _distances(a: Any, b: Any) -> Any:
    return jnp.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


def programs() -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Name, function and arguments of each program."""
    for name, (model, params, x) in _MODELS.items():
        yield name, model, (params, x)
        yield f"{name}, gradient", jax.grad(_loss(model)), (params, x)
        kept = jax.grad(_loss(jax.checkpoint(model)))
        yield f"{name}, gradient with checkpoint", kept, (params, x)
    yield from _others()
