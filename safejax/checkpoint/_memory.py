"""Private memory that a file is read into, and that arrays then are views of.

Two facts shape it. A gigabyte of fresh pages of 4 KiB takes longer to get than to hash,
so large blocks ask for huge pages. And any array that is left of a block keeps all of
it, so each large leaf has a mapping of its own, which goes when the leaf goes; small
leaves share blocks of a few megabytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from safejax.signing._header import Tensor

_HUGE: Final = 2 << 20
_BLOCK: Final = 8 << 20
_ALIGNED: Final = 4096  # from this size on, JAX shall use them in place
_ALIGNMENT: Final = 64


@dataclasses.dataclass(slots=True, eq=False)
class Segment:
    """A part of a file's data, and the memory that it goes to, byte by byte."""

    start: int
    end: int
    array: np.ndarray[Any, Any]

    @property
    def view(self) -> memoryview:
        """The memory, to be written to."""
        return self.array.data


class Memory:
    """Where the leaves of one file go; each lies within one segment.

    Attributes:
        segments: In the order of the data; there may be gaps between.
        home: The segment of each leaf.
        tensors: Where each leaf lies in the file.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.segments: list[Segment] = []
        self.home: dict[str, Segment] = {}
        self.tensors = tensors

    def stored(self, name: str) -> np.ndarray[Any, Any]:
        """The bytes of a leaf."""
        home, (_, _, start, end) = self.home[name], self.tensors[name]
        return home.array[start - home.start : end - home.start]

    def add(self, blocks: Sequence[tuple[int, int, list[str]]]) -> None:
        """Has these parts of the data share memory, each aligned."""
        sizes = [
            -(-(end - start) // _ALIGNMENT) * _ALIGNMENT for start, end, _ in blocks
        ]
        block, at = allocate(sum(sizes)), 0
        for (start, end, names), size in zip(blocks, sizes, strict=True):
            segment = Segment(start, end, block[at : at + end - start])
            if start < end:
                self.segments.append(segment)
            self.home.update(dict.fromkeys(names, segment))
            at += size


def allocate(size: int) -> np.ndarray[Any, Any]:
    """Private memory, aligned."""
    if size < _HUGE:  # from the heap, which may have it at hand
        spare = np.empty(size + _ALIGNMENT, np.uint8)
        skip = -spare.ctypes.data % _ALIGNMENT
        return spare[skip : skip + size]
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            block.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(block, np.uint8)


def plan(tensors: Mapping[str, Tensor]) -> Memory:
    """Memory for these leaves, which are in the order of their data."""
    memory = Memory(tensors)
    shared: list[tuple[int, int, list[str]]] = []
    total = 0
    for start, end, names in _runs(tensors):
        if end - start >= _HUGE:
            memory.add([(start, end, names)])
            continue
        if total + end - start > _BLOCK:
            memory.add(shared)
            shared, total = [], 0
        shared.append((start, end, names))
        total += end - start + _ALIGNMENT
    memory.add(shared)
    return memory


def _runs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[int, int, list[str]]]:
    """Parts of the data: each large leaf, and small ones that follow each other."""
    start = end = 0
    names: list[str] = []
    for name, (_, _, first, last) in tensors.items():
        if last - first < _ALIGNED and first == end and last - start <= _BLOCK:
            names.append(name)
            end = last
            continue
        if names:
            yield start, end, names
        start, end, names = first, last, [name]
        if last - first >= _ALIGNED:
            yield start, end, names
            names, start = [], end
    if names:
        yield start, end, names
