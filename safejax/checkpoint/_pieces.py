"""Parts of arrays: who writes which, and how an array is made of them again.

An array that is spread over processes is saved in pieces, each by the process that
holds the first copy of it. Loading takes the pieces that overlap what is wanted, on
whatever mesh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from safejax.checkpoint._leaves import Leaf, is_random_key

Box = tuple[tuple[int, int], ...]  # start and end on each axis


class Piece(NamedTuple):
    """A part of a leaf, in the file of one process."""

    leaf: str
    box: Box
    file: int
    name: str


def box_of(index: Sequence[slice], shape: Sequence[int]) -> Box:
    """Start and end on each axis, for slices as JAX's shardings give them."""
    return tuple(
        part.indices(size)[:2] for part, size in zip(index, shape, strict=True)
    )


def box_shape(box: Box) -> tuple[int, ...]:
    """The shape of a part."""
    return tuple(end - start for start, end in box)


def whole(shape: Sequence[int]) -> Box:
    """All of an array."""
    return tuple((0, size) for size in shape)


def overlap(a: Box, b: Box) -> Box | None:
    """What two parts have in common."""
    common = tuple(
        (max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True)
    )
    return None if any(start >= end for start, end in common) else common


def inside(part: Box, of: Box) -> tuple[slice, ...]:
    """The slices of a part within another."""
    return tuple(
        slice(start - origin, end - origin)
        for (start, end), (origin, _) in zip(part, of, strict=True)
    )


def own_parts(value: Any, leaf: Leaf, rank: int) -> Iterator[tuple[Box, Any]]:
    """The parts of a leaf that this process is to write, each with its values."""
    if not isinstance(value, jax.Array) or value.is_fully_addressable:
        # Each process has all of it, and the first writes it.
        if rank == 0:
            yield whole(leaf.shape), value
        return
    data = jax.random.key_data(value) if is_random_key(value) else value
    for shard in data.addressable_shards:
        if shard.replica_id == 0:
            yield box_of(shard.index, leaf.shape), shard.data


def covers(boxes: Sequence[Box], shape: Sequence[int]) -> bool:
    """Whether the parts are all of an array, none of it twice."""
    if math.prod(shape) == 0:
        return True
    if sum(math.prod(box_shape(box)) for box in boxes) != math.prod(shape):
        return False
    # Parts of a sharding are a grid: two that overlap would share a corner.
    return len(set(boxes)) == len(boxes) and not _any_overlap(boxes)


def _any_overlap(boxes: Sequence[Box]) -> bool:
    ordered = sorted(boxes)
    for i, box in enumerate(ordered):
        for other in ordered[i + 1 :]:
            if box and other[0][0] >= box[0][1]:
                break
            if overlap(box, other) is not None:
                return True
    return False


def assemble(
    box: Box, pieces: Sequence[tuple[Box, np.ndarray[Any, Any]]]
) -> np.ndarray[Any, Any]:
    """The values of a part, from the pieces that overlap it."""
    for held, array in pieces:
        if held == box:
            return array
    made = np.empty(box_shape(box), pieces[0][1].dtype)
    for held, array in pieces:
        common = overlap(held, box)
        if common is not None:
            made[inside(common, box)] = array[inside(common, held)]
    return made
