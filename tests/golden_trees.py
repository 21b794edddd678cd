"""What the files in data/v1 hold: made once, by format version 1, and never again."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np


def everything() -> dict[str, Any]:
    """A tree with one of everything that version 1 stores."""
    return {
        "jax": {
            "f32": jnp.arange(6, dtype=jnp.float32).reshape(2, 3),
            "bf16": jnp.array([1, -2.5, jnp.nan, -0.0], jnp.bfloat16),
            "i4": jnp.arange(-3, 4).astype(jnp.int4),
            "empty": jnp.zeros((0, 3), jnp.int8),
            "bool": jnp.array(True),
        },
        "numpy": (
            np.arange(3, dtype=np.float64),
            np.array([2**40, -1]),
            np.array([1 + 2j]),
            np.arange(4).astype(ml_dtypes.float8_e4m3fn),
            np.arange(3).astype(ml_dtypes.float8_e3m4),
            np.array([0, 1, 2, 3, 1], ml_dtypes.uint2),
        ),
        "scalars": [True, -7, 0.1, 1j, None],
        "keys": jax.random.split(jax.random.key(5), 2),
        "odd/~names": {"": 1, "é\n": 2},
        "numbers": {3: jnp.ones(5000), 10: jnp.zeros(4097, jnp.uint8)},
        "none": {},
    }
