"""Arrays grow to their bucket, and answers shrink back, on the host.

Both on the device would make a program for every size, which is what buckets are for
avoiding. On CPU the memory is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from safejax import _jax
from safejax.contract._dims import Expr

Env = Mapping[str, int]


def padded(leaf: Any, target: tuple[tuple[int, int], ...], pad: float) -> Any:
    """A leaf with some axes grown, the new elements all ``pad``.

    Args:
        leaf: An array, or the ``jax.ShapeDtypeStruct`` of one.
        target: The axes with their new sizes.
        pad: What the new elements are.
    """
    shape = list(leaf.shape)
    for axis, size in target:
        shape[axis] = size
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(shape=tuple(shape))  # type: ignore[no-untyped-call]
    # Memory of its own for every call, all of it written: nothing of another request
    # can stand in the padding.
    grown = np.full(shape, pad, leaf.dtype) if pad else np.zeros(shape, leaf.dtype)
    grown[tuple(map(slice, leaf.shape))] = leaf
    if getattr(leaf, "committed", False):
        return jax.device_put(grown, leaf.sharding)
    # As an array of JAX: jax.transfer_guard("disallow") admits what came as one.
    return _jax.from_host(grown, leaf) if isinstance(leaf, jax.Array) else grown


def cut(leaf: Any, index: tuple[slice, ...] | None) -> Any:
    """What is not padding of an array in an answer."""
    if index is None:
        return leaf
    return _jax.from_host(np.asarray(leaf)[index], leaf)


def kept(
    carried: tuple[tuple[int, Expr], ...], before: Env, after: Env
) -> tuple[slice, ...] | None:
    """What to keep of one array of an answer; ``None``: all of it.

    Args:
        carried: The axes whose size follows from bucketed names.
        before: The sizes of the call.
        after: Those it was padded to.
    """
    ends = {
        axis: max(0, expr.run(before))
        for axis, expr in carried
        if expr.run(before) != expr.run(after)
    }
    if not ends:
        return None
    return tuple(slice(ends.get(axis)) for axis in range(max(ends) + 1))
