"""Loading a checkpoint of many files: each process reads what its devices hold."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from safejax._files import open_to_read
from safejax.checkpoint._dtypes import from_bytes
from safejax.checkpoint._leaves import Leaf
from safejax.checkpoint._memory import plan
from safejax.checkpoint._pieces import (
    Box,
    Piece,
    assemble,
    box_of,
    box_shape,
    inside,
    overlap,
    whole,
)
from safejax.checkpoint._place import Target, as_keys, place_array
from safejax.checkpoint._read import Progress, Reader
from safejax.checkpoint._root import SHARD_PURPOSE, Root
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._seal import read_header, refused

Held = tuple[Box, np.ndarray[Any, Any]]


def load_shards(
    folder: Path,
    root: Root,
    ring: KeyRing,
    targets: Mapping[str, Target],
    limits: LoadLimits,
    progress: Progress | None,
) -> dict[str, Any]:
    """The leaves of a verified root that are wanted here.

    Raises:
        SignatureError: A file is not the one that the root names, or was changed.
        FormatError: A file is no signed file.
        StorageError: A file can't be read.
    """
    leaves = root.content.leaves
    wanted = {name: _boxes(leaves[name], targets[name]) for name in targets}
    by_file: dict[int, list[Piece]] = collections.defaultdict(list)
    for name, boxes in wanted.items():
        for piece in root.pieces.get(name, ()):
            if any(overlap(piece.box, box) is not None for box in boxes):
                by_file[piece.file].append(piece)
    held: dict[str, list[Held]] = collections.defaultdict(list)
    for number, pieces in sorted(by_file.items()):
        found = _read_file(folder, root.files[number], ring, pieces, limits, progress)
        for piece, stored in zip(pieces, found, strict=True):
            shape = box_shape(piece.box)
            part = leaves[piece.leaf]._replace(shape=shape)
            if stored.size != part.stored:
                raise refused()
            array = from_bytes(stored, part.dtype, shape)
            held[piece.leaf].append((piece.box, array))
    return {
        name: _make(leaves[name], targets[name], boxes, held[name])
        for name, boxes in wanted.items()
    }


def _sharding(leaf: Leaf, target: Target) -> Any:
    where = target[1]
    spread = where is not None and len(where.device_set) > 1
    return where if spread and not leaf.kind.startswith("key:") else None


def _boxes(leaf: Leaf, target: Target) -> list[Box]:
    """The parts of a leaf that this process needs."""
    sharding = _sharding(leaf, target)
    if sharding is None:
        return [whole(leaf.shape)]
    indices = sharding.addressable_devices_indices_map(leaf.shape).values()
    return list(dict.fromkeys(box_of(index, leaf.shape) for index in indices))


def _read_file(
    folder: Path,
    file: tuple[str, str],
    ring: KeyRing,
    pieces: Sequence[Piece],
    limits: LoadLimits,
    progress: Progress | None,
) -> list[np.ndarray[Any, Any]]:
    name, mac = file
    with open_to_read(folder / name) as (fd, known):
        signed = read_header(fd, known, ring, SHARD_PURPOSE, limits)
        names = {piece.name for piece in pieces}
        if signed.mac != mac or not names <= signed.header.tensors.keys():
            raise refused()
        tensors = {n: t for n, t in signed.header.tensors.items() if n in names}
        memory = plan(tensors)
        Reader(
            folder / name, fd, signed.data_at, signed.header, memory.segments, progress
        ).read()
    return [memory.stored(piece.name) for piece in pieces]


def _make(leaf: Leaf, target: Target, boxes: Sequence[Box], held: list[Held]) -> Any:
    sharding = _sharding(leaf, target)
    if 0 in leaf.shape:
        empty = from_bytes(np.empty(0, np.uint8), leaf.dtype, leaf.shape)
        held = [(whole(leaf.shape), empty)]
    if sharding is None:
        return place_array(assemble(whole(leaf.shape), held), leaf, target)
    parts = {box: assemble(box, held) for box in boxes}

    def part(index: Any) -> np.ndarray[Any, Any]:
        box = box_of(index, leaf.shape)
        array = parts[box][inside(box, box)]
        array.flags.writeable = False
        return array

    return as_keys(
        jax.make_array_from_callback(leaf.shape, sharding, part), leaf, target
    )
