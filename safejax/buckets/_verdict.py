"""Whether two answers are the same as far as their real parts go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from safejax.contract._dtypes import kind_of

# Programs of different sizes add in different orders, in bfloat16 too.
_TOLERANCE = 0.02
_INEXACT = ("float", "complex")


def differing(first: Sequence[Any], second: Sequence[Any]) -> int | None:
    """The first of these arrays that is not the same to the bit."""
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if a.shape != b.shape or a.tobytes() != b.tobytes():
            return index
    return None


def far_apart(first: Sequence[Any], second: Sequence[Any]) -> int | None:
    """The first of these arrays that differs by more than rounding explains."""
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if a.shape != b.shape or not _is_near(a, b):
            return index
    return None


def _is_near(a: Any, b: Any) -> bool:
    kind = kind_of(a.dtype)
    if kind not in _INEXACT:
        return bool(np.array_equal(a, b))
    wide = np.complex128 if kind == "complex" else np.float64
    a, b = a.astype(wide), b.astype(wide)
    finite = np.abs(a[np.isfinite(a)])
    scale = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(a, b, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True))


def is_blind(answer: Sequence[Any]) -> bool:
    """Whether an array has elements but none that could tell a difference."""
    return any(
        a.size and kind_of(a.dtype) in _INEXACT and not _has_finite(a) for a in answer
    )


def _has_finite(a: Any) -> bool:
    wide = np.complex128 if kind_of(a.dtype) == "complex" else np.float64
    return bool(np.isfinite(a.astype(wide)).any())
