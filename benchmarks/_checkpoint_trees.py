"""The trees that checkpoints are measured with, and the key they are signed by."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import safejax

Flat = dict[str, jax.Array]


def key_ring(digest: Any) -> safejax.KeyRing:
    """The same key in every process. It protects nothing."""
    return safejax.KeyRing(safejax.Key(bytes(range(32)), id="bench"), digest=digest)


def transformer(total: int) -> Flat:
    """About 100 leaves as a language model has them, of so many bytes together."""
    rng = np.random.default_rng(0)
    width = max(64, int((total / (16 * 16)) ** 0.5) // 64 * 64)

    def weights(rows: int, columns: int, dtype: Any) -> jax.Array:
        bits = rng.integers(0, 1 << 14, (rows, columns), np.uint16)
        return jnp.asarray(bits.view(jnp.bfloat16).astype(dtype))

    flat: Flat = {"step": jnp.int32(7), "norm/scale": jnp.ones(width)}
    for i in range(16):
        for name in ("q", "k", "v", "o"):
            flat[f"layers/{i}/{name}"] = weights(width, width, jnp.bfloat16)
        flat[f"layers/{i}/mlp"] = weights(width, 2 * width, jnp.float32)
        flat[f"layers/{i}/norm"] = jnp.ones(width)
    left = total - sum(leaf.nbytes for leaf in flat.values())
    flat["embed"] = weights(max(1, left // (4 * width)), width, jnp.float32)
    return flat


_some = jax.jit(
    lambda x: [jnp.full((8,), i) + x if i % 2 else i + x for i in range(100)]
)


def tiny(count: int) -> Flat:
    """Many leaves of one to eight numbers, new ones at each call."""
    flat: Flat = {}
    for i in range(count // 100):
        for j, leaf in enumerate(_some(jnp.float32(i))):
            flat[f"p{i}/x{j}"] = leaf
    return jax.block_until_ready(flat)


def nested(flat: Flat) -> dict[str, Any]:
    """The same as a tree of dicts."""
    root: dict[str, Any] = {}
    for name, leaf in flat.items():
        *folders, last = name.split("/")
        at = root
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = leaf
    return root
