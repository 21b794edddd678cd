"""The dtypes of JAX, by the names that texts and messages give them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

_DTYPE_NAMES: Final = (
    *("bool", "int2", "int4", "int8", "int16", "int32", "int64"),
    *("uint2", "uint4", "uint8", "uint16", "uint32", "uint64"),
    *("float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    *("float8_e8m0fnu", "bfloat16", "float16", "float32", "float64"),
    *("complex64", "complex128"),
)
_KEY_IMPLEMENTATIONS: Final = {
    "fry": "threefry2x32",
    "rbg": "rbg",
    "urbg": "unsafe_rbg",
}
_SHORT: Final = {"float": "f", "uint": "u", "int": "i", "complex": "c"}


def _shorten(name: str) -> str:
    for long, short in _SHORT.items():
        name = name.replace(long, short)
    return name


# Every dtype a spec may name, by its long name and by the one JAX prints.
DTYPES: Final[dict[str, Any]] = {
    **{name: np.dtype(name) for name in _DTYPE_NAMES},
    **{_shorten(name): np.dtype(name) for name in _DTYPE_NAMES},
    "key": jax.dtypes.prng_key,
}
_KINDS: Final = {
    "bool": np.bool_,
    "int": np.integer,
    "float": np.floating,
    "complex": np.complexfloating,
    "key": jax.dtypes.prng_key,
}


def kind_of(dtype: Any) -> str | None:
    """Which of ``_KINDS`` the dtype is, or None where JAX has no such arrays."""
    for kind, parent in _KINDS.items():
        if jnp.issubdtype(dtype, parent):
            return kind
    return None


def short_dtype(dtype: Any) -> str:
    """The dtype as messages write it, such as ``f32``, ``key<fry>`` or ``>f32``."""
    if dtype is jax.dtypes.prng_key:
        return "key"
    if dtype == jax.dtypes.float0:
        return "float0"
    name = str(getattr(dtype, "name", dtype))
    order = "" if getattr(dtype, "isnative", True) else ">"
    return f"{order}{_shorten(name) if name in DTYPES else name}"


def describe_aval(
    shape: Sequence[Any],
    dtype: Any,
    weak_type: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """An array as messages write it, such as ``f32[2,3]`` or ``weak f32[]``."""
    weak = "weak " if weak_type else ""
    return f"{weak}{short_dtype(dtype)}[{','.join(map(str, shape))}]"


def read_dtype(name: str) -> Any:
    """The dtype of that name, or None."""
    key = re.fullmatch(r"key<(\w+)>", name)
    if key is None:
        return DTYPES.get(name)
    implementation = _KEY_IMPLEMENTATIONS.get(key[1])
    if implementation is None:
        return None
    return jax.eval_shape(lambda: jax.random.key(0, impl=implementation)).dtype
