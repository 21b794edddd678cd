"""The header of a checkpoint: its fields, and the order of its data."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from safejax._file_errors import FormatError
from safejax.checkpoint._dtypes import DTYPES
from safejax.checkpoint._leaves import Leaf, leaf_in_file
from safejax.checkpoint._tree import names_in
from safejax.limits import LoadLimits
from safejax.signing._canonical import decode, encode
from safejax.signing._digests import chunk_bytes_for
from safejax.signing._header import Header, Tensor
from safejax.signing._origin import Origin, read_origin

PURPOSE: Final = "checkpoint"

_FIELDS: Final = ("context", "step", "run_id", "created", "metadata", "tree", "leaves")
_SMALL: Final = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """What a verified checkpoint contains.

    Attributes:
        origin: Where it comes from.
        structure: Of the tree.
        names: The leaves' names, in the order of the tree.
        leaves: What each is.
    """

    origin: Origin
    structure: Any
    names: Sequence[str]
    leaves: Mapping[str, Leaf]


# --- writing ----------------------------------------------------------------------


def lay_out(leaves: Mapping[str, Leaf]) -> dict[str, Tensor]:
    """Where each leaf lies in the data: without gaps, as safetensors demands.

    Large leaves come first whose size keeps the next one aligned in the file, so that
    memory read in one piece can be used where it lies; small ones last, the widest
    dtypes first, for the same reason.
    """
    first: list[str] = []
    second: list[str] = []
    small: dict[int, list[str]] = collections.defaultdict(list)
    kinds: dict[Leaf, tuple[int, list[str]]] = {}
    for leaf in set(leaves.values()):
        size = leaf.stored
        if size < _SMALL:
            kinds[leaf] = size, small[DTYPES[leaf.dtype].itemsize]
        else:
            kinds[leaf] = size, second if size % 64 else first
    for name, leaf in leaves.items():
        kinds[leaf][1].append(name)
    by_width = (small[width] for width in sorted(small, reverse=True))
    tensors, start = {}, 0
    for name in itertools.chain(first, second, *by_width):
        leaf = leaves[name]
        size = kinds[leaf][0]
        tensors[name] = leaf.tensor(start, size)
        start += size
    return tensors


def new_header(
    fields: Mapping[str, str], leaves: Mapping[str, Leaf], digest: str, purpose: str
) -> Header:
    """A header with these leaves, still without digests."""
    tensors = lay_out(leaves)
    size = max((t.end for t in tensors.values()), default=0)
    return Header(
        purpose=purpose,
        digest=digest,
        chunk_bytes=chunk_bytes_for(size),
        digests=b"",
        fields=fields,
        tensors=tensors,
    )


def content_fields(content: Content) -> dict[str, str]:
    """What a checkpoint of one file says of its tree, as texts for a header."""
    notes = {name: leaf.note() for name, leaf in content.leaves.items()}
    fields = content.origin.fields()
    fields["tree"] = encode(content.structure).decode()
    fields["leaves"] = encode({k: v for k, v in notes.items() if v}).decode()
    return fields


# --- reading ----------------------------------------------------------------------


def read_content(header: Header, limits: LoadLimits) -> Content:
    """What a verified header says of the tree.

    Raises:
        FormatError: A field is malformed, or the limits do not admit the tree.
    """
    if tuple(header.fields) != _FIELDS:
        raise FormatError("the header has other fields than a checkpoint's")
    structure = decode(header.fields["tree"], "tree")
    names = names_in(structure, limits.max_depth)
    notes = decode(header.fields["leaves"], "list of leaves")
    if type(notes) is not dict or not notes.keys() <= header.tensors.keys():
        raise FormatError("the notes on the arrays are malformed")
    if len(set(names)) != len(names) or set(names) != header.tensors.keys():
        raise FormatError("the tree and the arrays of the file are not the same")
    same: dict[tuple[str, tuple[int, ...]], Leaf] = {}  # thousands are of a few kinds
    leaves: dict[str, Leaf] = {}
    for name, tensor in header.tensors.items():
        note = notes.get(name) if notes else None
        leaf = same.get(tensor[:2]) if note is None else None
        if leaf is None:
            leaf = leaf_in_file(tensor, note)
            if note is None:
                same[tensor[:2]] = leaf
        leaves[name] = leaf
    return Content(read_origin(header.fields), structure, names, leaves)
