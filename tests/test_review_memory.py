"""The estimated peak: what has a buffer, how long, and what XLA says of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import safejax

KIB = 1024
N = 256
BYTES = 4 * N * N
SQUARE = jax.ShapeDtypeStruct((N, N), jnp.float32)


def review(fun: Any, *args: Any, **options: Any) -> Any:
    return safejax.safe_jit(fun, **options).review(*args)


def temporaries(fun: Any, *args: Any, **options: Any) -> float:
    """How many squares the estimate has beside arguments and results."""
    report = review(fun, *args, **options)
    beside = sum(b.nbytes for b in report.alive if b.kind == "temporary")
    return beside / BYTES


def test_elementwise_chain_has_no_buffers():
    def chain(x: Any) -> Any:
        for _ in range(20):
            x = x * 2 + 1
        return x

    report = review(chain, SQUARE)

    assert (report.peak_bytes, report.held_bytes) == (2 * BYTES, 2 * BYTES)


def test_matrix_product_has_a_buffer_until_its_last_reader():
    def chain(x: Any) -> Any:
        y = x @ x
        for _ in range(10):
            y = y @ x
        return y

    assert temporaries(chain, SQUARE) == 2


def test_values_that_wait_are_all_alive():
    def waiting(x: Any) -> Any:
        products = [x @ (x + i) for i in range(8)]
        total = products[0]
        for y in products[1:]:
            total = total @ y
        return total

    assert temporaries(waiting, SQUARE) >= 8


def test_scan_holds_one_copy_of_what_each_trip_makes():
    def scanned(x: Any) -> Any:
        return jax.lax.scan(lambda c, _: ((c @ x) @ x, None), x, length=1000)[0]

    assert temporaries(scanned, SQUARE) <= 4


def test_scan_holds_what_it_stacks():
    def stacked(x: Any) -> Any:
        ys = jax.lax.scan(lambda c, _: (c @ x, c), x, length=50)[1]
        return ys.max()

    assert temporaries(stacked, SQUARE) >= 50


def test_branches_count_as_the_largest():
    def branched(x: Any) -> Any:
        def large(a: Any) -> Any:
            return jnp.sort(jnp.concatenate([a] * 10), 0)[:N]

        return jax.lax.cond(x.sum() > 0, large, lambda a: a, x)

    assert temporaries(branched, SQUARE) >= 10


def test_donated_argument_makes_room_for_a_result():
    plain = review(lambda x: x + 1, SQUARE)
    donating = review(lambda x: x + 1, SQUARE, donate_argnums=0)

    assert plain.peak_bytes == 2 * BYTES
    assert donating.peak_bytes == BYTES
    assert donating.inputs[0].donated


def test_argument_that_is_not_read_does_not_count():
    assert review(lambda x, y: x + 1, SQUARE, SQUARE).peak_bytes == 2 * BYTES


def test_captured_array_counts():
    table = jnp.ones((N, N))

    assert review(lambda x: x + table, SQUARE).peak_bytes == 3 * BYTES


def test_checkpoint_makes_the_estimate_smaller_where_it_saves_memory():
    def layer(x: Any, w: Any) -> Any:
        for _ in range(4):
            x = jnp.tanh(x @ w)
        return x

    def loss(step: Any) -> Any:
        def total(ws: Any, x: Any) -> Any:
            return jax.lax.scan(lambda h, w: (step(h, w), None), x, ws)[0].sum()

        return jax.grad(total)

    ws = jax.ShapeDtypeStruct((16, N, N), jnp.float32)
    plain = review(loss(layer), ws, SQUARE).peak_bytes
    saving = review(loss(jax.checkpoint(layer)), ws, SQUARE).peak_bytes

    assert saving < 0.7 * plain


def test_sharded_arguments_count_by_their_part():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("i"))
    whole = jax.NamedSharding(mesh, jax.P())

    def half(w: Any, x: Any) -> Any:
        return jnp.tanh(x @ w)

    shared = review(
        half, SQUARE, SQUARE, in_shardings=(whole, rows), out_shardings=rows
    )

    # The weights in full; of the batch, the result and the product one half each.
    assert shared.held_bytes == 2 * BYTES
    assert shared.peak_bytes <= 2.7 * BYTES


def test_explicitly_sharded_types_count_by_their_part():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    rows = jax.NamedSharding(mesh, jax.P("i"))
    with jax.set_mesh(mesh):
        x = jax.device_put(np.ones((N, N), np.float32), rows)
        report = review(jnp.sin, x)

    assert report.peak_bytes == BYTES


def test_shard_map_counts_what_one_device_holds():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))

    def local(x: Any) -> Any:
        return x @ (x.T @ x)

    rows = jax.P("i")
    report = review(
        jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows), SQUARE
    )

    assert report.held_bytes == BYTES


def mlp(params: Any, x: Any) -> Any:
    for w, b in params:
        x = jax.nn.relu(x @ w + b)
    return (x**2).sum()


def attention(_: Any, x: Any) -> Any:
    scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", x, x))
    return (jnp.einsum("bqk,bkd->bqd", scores, x) ** 2).sum()


def rnn(params: Any, xs: Any) -> Any:
    (w, _), *_ = params

    def step(h: Any, x: Any) -> Any:
        h = jnp.tanh(h @ w + x)
        return h, h

    return (jax.lax.scan(step, xs[0], xs)[1] ** 2).sum()


PARAMS = [
    (
        jax.ShapeDtypeStruct((256, 256), jnp.float32),
        jax.ShapeDtypeStruct((256,), jnp.float32),
    )
] * 3


@pytest.mark.parametrize(
    ("fun", "args"),
    [
        (jax.grad(mlp), (PARAMS, jax.ShapeDtypeStruct((512, 256), jnp.float32))),
        (
            jax.grad(attention, argnums=1),
            (0.0, jax.ShapeDtypeStruct((4, 128, 64), jnp.float32)),
        ),
        (jax.grad(rnn), (PARAMS, jax.ShapeDtypeStruct((50, 64, 256), jnp.float32))),
        (lambda x: jnp.sort(x, 0), (SQUARE,)),
        (lambda x: jnp.fft.fft2(x).real, (SQUARE,)),
    ],
    ids=["MLP", "attention", "RNN", "sort", "FFT"],
)
def test_estimate_is_near_what_xla_says(fun: Any, args: Any):
    stats = jax.jit(fun).lower(*args).compile().memory_analysis()
    real = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
    )
    estimate = review(fun, *args).peak_bytes

    assert 0.9 * real <= estimate <= 4 * real
