"""A tree taken apart for a file: what it is, and its bytes, leaf by leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jax
import numpy as np

from safejax.checkpoint._dtypes import to_bytes, to_text
from safejax.checkpoint._leaves import Leaf, leaf_to_save, to_numpy
from safejax.checkpoint._manifest import PURPOSE, Content, content_fields, new_header
from safejax.checkpoint._tree import flatten
from safejax.signing._header import Header
from safejax.signing._origin import Origin

_SMALL: Final = 4096
_AHEAD: Final = 32  # device arrays whose copy to the host is under way


@dataclasses.dataclass(slots=True)
class Snapshot:
    """What is to be written.

    Attributes:
        header: Still without digests.
        leaves: What each leaf is.
        values: The leaves themselves.
    """

    header: Header
    leaves: Mapping[str, Leaf]
    values: dict[str, Any]

    def pieces(self) -> Iterator[memoryview]:
        """The bytes, in the order of the file. Small leaves come in one piece."""
        order = list(self.header.tensors)
        small: list[bytes] = []
        for i, (name, tensor) in enumerate(self.header.tensors.items()):
            if i % _AHEAD == 0:
                self._prefetch(order[i : i + 2 * _AHEAD])
            array = to_numpy(self.values[name], self.leaves[name], name)
            if tensor.end - tensor.start < _SMALL:
                small.append(to_text(array))
                continue
            if small:
                yield memoryview(b"".join(small))
                small.clear()
            yield to_bytes(array).data.cast("B")
        if small:
            yield memoryview(b"".join(small))

    def _prefetch(self, names: list[str]) -> None:
        if jax.default_backend() == "cpu":
            return
        for name in names:
            value = self.values[name]
            if isinstance(value, jax.Array):
                value.copy_to_host_async()

    def detach(self) -> None:
        """Makes the values this snapshot's own: nobody's later change reaches them.

        A view of an array on the host keeps its memory from being donated; what is
        elsewhere is fetched, and what can be changed in place is copied.
        """
        self._prefetch(list(self.values))
        for name, value in self.values.items():
            if isinstance(value, np.ndarray):
                self.values[name] = value.copy()
            elif isinstance(value, jax.Array) and self.leaves[name].kind == "jax":
                self.values[name] = np.asarray(value)


def take_snapshot(tree: Any, origin: Origin, digest: str) -> Snapshot:
    """Takes a tree apart.

    Raises:
        FormatError: It has a leaf or a key that can't be saved (``SJ507``).
    """
    flat = flatten(tree)
    values = dict(zip(flat.names, flat.leaves, strict=True))
    same: dict[Leaf, Leaf] = {}  # thousands of leaves are of a few kinds
    known: dict[int, tuple[Any, Leaf]] = {}  # by the abstract value that they share
    leaves: dict[str, Leaf] = {}
    for name, value in values.items():
        abstract = value.aval if isinstance(value, jax.Array) else None
        found = known.get(id(abstract)) if abstract is not None else None
        if found is None:
            leaf = leaf_to_save(value, name)
            # It is kept beside the leaf, so that its identity is no other's.
            found = abstract, same.setdefault(leaf, leaf)
            if abstract is not None:
                known[id(abstract)] = found
        leaves[name] = found[1]
    content = Content(origin, flat.structure, flat.names, leaves)
    return snapshot_of(values, leaves, content_fields(content), digest, PURPOSE)


def snapshot_of(
    values: dict[str, Any],
    leaves: Mapping[str, Leaf],
    fields: Mapping[str, str],
    digest: str,
    purpose: str,
) -> Snapshot:
    """A snapshot of leaves that have names already."""
    return Snapshot(new_header(fields, leaves, digest, purpose), leaves, values)
