"""How each dtype lies in a file, bit for bit, and how it is made of it again.

What safetensors knows is stored as it is. The rest is stored as bytes: values of four
or two bits packed, the others by their own bytes.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np

NATIVE: Final = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip

# Bits of one value: fewer than a byte holds.
_BITS: Final = {
    "int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2,
}  # fmt: skip
_BYTES: Final = (
    "complex128", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz",
    "float6_e2m3fn", "float6_e3m2fn", "int1", "uint1",
)  # fmt: skip

_LITTLE: Final = np.dtype("<u2").isnative


def _named(name: str) -> np.dtype[Any] | None:
    kind = getattr(ml_dtypes, name, None)
    if isinstance(kind, type):
        return np.dtype(kind)
    return np.dtype(name) if hasattr(np, name) or name == "bool" else None


# The whole table of what may be in a file: nothing is looked up by a name from one.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    name: dtype
    for name in (*NATIVE, *_BITS, *_BYTES)
    if (dtype := _named(name)) is not None
}


# NumPy makes up a dtype's name each time it is asked, in 6 µs.
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


def name_of(dtype: np.dtype[Any]) -> str | None:
    """The name of a dtype in a file; None for one that can't be saved.

    A dtype with the other order of bytes has the name of that with ours.
    """
    name = _NAMES.get(dtype)
    if name is None and _LITTLE and not dtype.isnative:
        name = _NAMES.get(dtype.newbyteorder("="))
    return name if _LITTLE else None


def is_packed(name: str) -> bool:
    """Whether several values share a byte in a file."""
    return name in _BITS


def stored_bytes(name: str, size: int) -> int:
    """How many bytes so many values take in a file."""
    if name in _BITS:
        return -(-size * _BITS[name] // 8)
    return size * DTYPES[name].itemsize


def to_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bytes of an array as they are to be stored, without a copy where possible."""
    # Others' arrays may be views in any order: NumPy copies those.
    flat = np.ascontiguousarray(array).reshape(-1)
    bits = _BITS.get(_NAMES[array.dtype])
    if bits is None:
        return flat.view(np.uint8)
    each = 8 // bits
    values = flat.view(np.uint8) & ((1 << bits) - 1)
    values = np.pad(values, (0, -values.size % each)).reshape(-1, each)
    packed = np.zeros(len(values), np.uint8)
    for i in range(each):
        packed |= values[:, i] << np.uint8(i * bits)
    return packed


def to_text(array: np.ndarray[Any, Any]) -> bytes:
    """The same as a copy, with less ado for a small array."""
    if _NAMES[array.dtype] in _BITS:
        return to_bytes(array).tobytes()
    return array.tobytes()


def from_bytes(
    stored: np.ndarray[Any, Any], name: str, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """The array that :func:`to_bytes` stored: a view, or unpacked."""
    if name not in _BITS:
        return stored.view(DTYPES[name]).reshape(shape)
    bits = _BITS[name]
    each = 8 // bits
    values = np.empty((stored.size, each), np.uint8)
    for i in range(each):
        values[:, i] = stored >> np.uint8(i * bits)
    values &= np.uint8((1 << bits) - 1)  # as ml_dtypes itself holds them
    count = int(np.prod(shape, dtype=np.int64))
    return values.reshape(-1)[:count].view(DTYPES[name]).reshape(shape)
