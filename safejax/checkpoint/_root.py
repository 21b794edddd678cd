"""A checkpoint of many files: the signed root that names them, and what each holds.

The root is one small file in a folder, beside a file of each process. Whatever is not
named by the root, with its MAC, is not part of the checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safejax._file_errors import FormatError
from safejax._files import open_to_read, read_exactly, write_small
from safejax.checkpoint._leaves import Leaf, leaf_of_note
from safejax.checkpoint._manifest import Content
from safejax.checkpoint._pieces import Box, Piece, covers
from safejax.checkpoint._tree import names_in
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._blob import seal, unseal
from safejax.signing._canonical import decode, encode
from safejax.signing._origin import read_origin

ROOT_NAME: Final = "checkpoint.root"
ROOT_PURPOSE: Final = "checkpoint-root"
SHARD_PURPOSE: Final = "checkpoint-shard"
SHARD_FILE: Final = re.compile(r"shard-[0-9a-f]{16}-[0-9]{5}\.safetensors")


@dataclasses.dataclass(frozen=True, slots=True)
class Root:
    """What a folder's checkpoint consists of.

    Attributes:
        content: The tree and its leaves.
        files: Name and MAC of each file.
        pieces: The parts of each leaf.
    """

    content: Content
    files: Sequence[tuple[str, str]]
    pieces: Mapping[str, Sequence[Piece]]


def is_folder_checkpoint(path: Path) -> bool:
    """Whether a path is a folder with a checkpoint in it, as far as one can see."""
    return os.path.isfile(os.path.join(path, ROOT_NAME))  # noqa: PTH113, PTH118  40 µs


def write_root(folder: Path, root: Root, ring: KeyRing) -> None:
    """Puts a new root in place of the old: from then on the new checkpoint counts.

    Raises:
        FormatError: A leaf's pieces are not all of it.
        StorageError: The system refused.
    """
    _check_cover(root)
    content = root.content
    payload = encode(
        {
            "tree": content.structure,
            "leaves": {name: _note(leaf) for name, leaf in content.leaves.items()},
            "files": [list(entry) for entry in root.files],
            "pieces": {
                name: [[p.file, p.name, [list(x) for x in p.box]] for p in pieces]
                for name, pieces in root.pieces.items()
            },
        }
    )
    fields = content.origin.fields()
    data = seal(payload, purpose=ROOT_PURPOSE, ring=ring, fields=fields)
    write_small(folder / ROOT_NAME, data, overwrite=True, mode=0o644)


def _note(leaf: Leaf) -> list[Any]:
    return [leaf.kind, leaf.dtype, list(leaf.shape)]


def _check_cover(root: Root) -> None:
    for name, leaf in root.content.leaves.items():
        boxes = [piece.box for piece in root.pieces.get(name, ())]
        if not covers(boxes, leaf.shape):
            raise FormatError(
                f"the pieces of {name} are not all of it, or hold a part twice",
                code="SJ507",
                details={"path": name},
                hint="every process must save the same tree",
            )


def read_root(folder: Path, ring: KeyRing, limits: LoadLimits) -> Root:
    """The verified root of a folder.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no root, or not one that the limits admit.
        StorageError: It can't be read.
    """
    with open_to_read(folder / ROOT_NAME) as (fd, known):
        if known.st_size > 2 * limits.max_header_bytes:
            raise FormatError(
                f"the root has {known.st_size} bytes, more than twice "
                f"LoadLimits.max_header_bytes={limits.max_header_bytes}"
            )
        data = read_exactly(fd, 0, known.st_size) or b""
    payload, fields = unseal(data, purpose=ROOT_PURPOSE, ring=ring, limits=limits)
    return parse_root(payload, fields, limits)


def parse_root(payload: bytes, fields: Mapping[str, str], limits: LoadLimits) -> Root:
    """Reads what :func:`write_root` writes. Verify it first.

    Raises:
        FormatError: It is malformed, or not what the limits admit.
    """
    origin = read_origin(fields)
    document = decode(payload, "root")
    try:
        names = names_in(document["tree"], limits.max_depth)
        leaves = {k: leaf_of_note(note) for k, note in document["leaves"].items()}
        files = [(str(name), str(mac)) for name, mac in document["files"]]
        pieces = {
            name: [_piece(name, *entry) for entry in entries]
            for name, entries in document["pieces"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FormatError("the root is malformed") from None
    root = Root(Content(origin, document["tree"], names, leaves), files, pieces)
    _check(root, limits)
    return root


def _piece(leaf: str, file: int, name: str, box: Sequence[Sequence[int]]) -> Piece:
    whole: Box = tuple((int(start), int(end)) for start, end in box)
    return Piece(leaf, whole, int(file), str(name))


def _check(root: Root, limits: LoadLimits) -> None:
    leaves, names = root.content.leaves, root.content.names
    if len(leaves) > limits.max_leaves or len(root.files) > limits.max_files:
        raise FormatError("the root has more leaves or files than LoadLimits admits")
    if sum(leaf.stored for leaf in leaves.values()) > limits.max_data_bytes:
        raise FormatError("the checkpoint is larger than LoadLimits.max_data_bytes")
    if len(set(names)) != len(names) or set(names) != leaves.keys():
        raise FormatError("the tree and the leaves of the root are not the same")
    if not all(SHARD_FILE.fullmatch(name) for name, _ in root.files):
        raise FormatError("the root names a file that is none of a checkpoint")
    for name, leaf in leaves.items():
        for piece in root.pieces.get(name, ()):
            fits = len(piece.box) == len(leaf.shape) and all(
                0 <= start <= end <= size
                for (start, end), size in zip(piece.box, leaf.shape, strict=True)
            )
            if not fits or not 0 <= piece.file < len(root.files):
                raise FormatError("a piece in the root is malformed")
    _check_cover(root)


def parse_pieces(text: str) -> dict[str, tuple[str, Box]]:
    """What the file of a process says of its pieces: the leaf and the part of each.

    Raises:
        FormatError: It is malformed.
    """
    try:
        return {
            name: (str(leaf), tuple((int(start), int(end)) for start, end in box))
            for name, (leaf, box) in decode(text, "list of pieces").items()
        }
    except (TypeError, ValueError, AttributeError):
        raise FormatError("the list of pieces is malformed") from None


def remove_other_files(folder: Path, keep: set[str]) -> None:
    """Removes the files of older checkpoints; the root does not name them any more."""
    for entry in folder.iterdir():
        if SHARD_FILE.fullmatch(entry.name) and entry.name not in keep:
            entry.unlink(missing_ok=True)
