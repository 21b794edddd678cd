"""What importing a signed program costs, against JAX's own reader of unsigned bytes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import safejax
from benchmarks._harness import Effort, Limit, Row

GROUP = "export"

_ROWS = 8
_LAYERS = 20


def _model(weights: jax.Array, x: jax.Array) -> jax.Array:
    for _ in range(_LAYERS):
        x = jnp.tanh(x @ weights) + x
    return x


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    rounds = 3 if effort.quick else 11
    with tempfile.TemporaryDirectory() as folder:
        return _measured(Path(folder), rounds)


def _measured(folder: Path, rounds: int) -> list[Row]:
    ring = safejax.KeyRing.generate()
    weights = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    rows = safejax.spec("f32[b, 64]")
    signed, plain = folder / "signed", folder / "plain"
    safejax.signed_export(signed, _model, weights, rows, key=ring)
    (b,) = export.symbolic_shape("b")
    structs = weights, jax.ShapeDtypeStruct((b, 64), jnp.float32)
    plain.write_bytes(export.export(jax.jit(_model))(*structs).serialize())

    def load_plain() -> Callable[..., Any]:
        return jax.jit(export.deserialize(bytearray(plain.read_bytes())).call)

    def load_signed() -> Callable[..., Any]:
        return safejax.signed_import(signed, key=ring)

    _timed(load_plain), _timed(load_signed)  # the worker is started once
    times = [(_timed(load_plain), _timed(load_signed)) for _ in range(rounds)]
    wholes = [tuple(map(sum, pair)) for pair in times]
    plain_ms, signed_ms = (
        sorted(pair[i][0] for pair in times)[rounds // 2] * 1e3 for i in (0, 1)
    )
    return [
        Row(
            group=GROUP,
            name="import and first call",
            unit="x",
            samples=tuple(ours / theirs for theirs, ours in wholes),
            limit=Limit(2.0),
            note=f"import alone: {signed_ms:.0f} ms, JAX's {plain_ms:.1f} ms; "
            f"{_LAYERS} layers, open batch, a warm worker",
        )
    ]


def _timed(load: Callable[[], Callable[..., Any]]) -> tuple[float, float]:
    """Seconds of loading, and of the first call."""
    arguments = np.ones((64, 64), np.float32), np.ones((_ROWS, 64), np.float32)
    start = time.perf_counter()
    function = load()
    loaded = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return loaded - start, time.perf_counter() - loaded
