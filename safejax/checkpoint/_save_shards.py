"""Saving from many processes: each writes its part, and the first one commits."""

from __future__ import annotations

import errno
import itertools
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from safejax._file_errors import FormatError, StorageError
from safejax._files import open_to_read, remove_leftovers, system_errors
from safejax._jax import Meeting
from safejax.checkpoint._leaves import Leaf, leaf_of, leaf_to_save, to_numpy
from safejax.checkpoint._manifest import Content
from safejax.checkpoint._pieces import Box, Piece, box_shape, own_parts
from safejax.checkpoint._read import Progress
from safejax.checkpoint._root import (
    SHARD_FILE,
    SHARD_PURPOSE,
    Root,
    is_folder_checkpoint,
    parse_pieces,
    remove_other_files,
    write_root,
)
from safejax.checkpoint._snapshot import Snapshot, snapshot_of
from safejax.checkpoint._tree import Flat, flatten
from safejax.checkpoint._write import write_checkpoint
from safejax.errors import SafeJaxError
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._canonical import encode
from safejax.signing._origin import Origin
from safejax.signing._seal import read_header

_FAILED: Final = "failed: "
_DONE: Final = "done"

_turns = itertools.count()


def save_shards(
    folder: Path,
    tree: Any,
    origin: Origin,
    ring: KeyRing,
    *,
    overwrite: bool,
    timeout_s: float,
    progress: Progress | None,
) -> None:
    """Saves a tree into a folder; every process must call it with the same tree.

    Raises:
        FormatError: A leaf can't be saved, or the processes' trees differ.
        StorageError: The system refused, or another process failed or did not answer.
    """
    meeting = Meeting(f"safejax/save/{next(_turns)}", timeout_s)
    try:
        flat = flatten(tree)
        leaves = {
            name: leaf_to_save(value, name)
            for name, value in zip(flat.names, flat.leaves, strict=True)
        }
        name = _own_file(folder, meeting, overwrite=overwrite)
        pieces = _own_pieces(flat, leaves, meeting.rank)
        snapshot = _snapshot(pieces, origin, ring)
        mac = write_checkpoint(
            folder / name, snapshot, ring, overwrite=False, progress=progress
        )
        meeting.say(f"file-{meeting.rank}", json.dumps([name, mac]))
        if meeting.rank == 0:
            content = Content(origin, flat.structure, flat.names, leaves)
            _commit(folder, content, meeting, ring)
    except BaseException as error:
        _give_up(meeting, error)
        raise
    if meeting.rank:
        _heard(meeting, "root", "process 0")


def _commit(folder: Path, content: Content, meeting: Meeting, ring: KeyRing) -> None:
    files = [_file_of(meeting, rank) for rank in range(meeting.size)]
    write_root(folder, _root(folder, content, files, ring), ring)
    meeting.say("root", _DONE)
    remove_other_files(folder, {name for name, _ in files})


def _give_up(meeting: Meeting, error: BaseException) -> None:
    """Tells the others at once, so that they need not wait for the deadline."""
    word = _FAILED + (error.message if isinstance(error, SafeJaxError) else "an error")
    awaited = ("token", "root") if meeting.rank == 0 else (f"file-{meeting.rank}",)
    for key in awaited:
        meeting.say_unless_said(key, word)


def _own_file(folder: Path, meeting: Meeting, *, overwrite: bool) -> str:
    if meeting.rank == 0:
        if is_folder_checkpoint(folder) and not overwrite:
            raise StorageError(
                f"can't write {folder}: there is a checkpoint",
                details={"errno": errno.EEXIST},
                hint="pass overwrite=True to replace it",
            )
        with system_errors("can't make", folder):
            folder.mkdir(exist_ok=True)
        remove_leftovers(folder)
        meeting.say("token", secrets.token_hex(8))
    token = _heard(meeting, "token", "process 0")
    return f"shard-{token}-{meeting.rank:05d}.safetensors"


def _heard(meeting: Meeting, key: str, who: str) -> str:
    try:
        word = meeting.hear(key)
    except TimeoutError:
        raise StorageError(
            f"{who} did not answer in time: the checkpoint was not committed",
            details={"errno": errno.ETIMEDOUT},
            hint="the older checkpoint still stands; see whether that process lives",
        ) from None
    if word.startswith(_FAILED):
        raise StorageError(
            f"{who} could not save: {word.removeprefix(_FAILED)}",
            details={"errno": errno.ECANCELED},
        )
    return word


def _file_of(meeting: Meeting, rank: int) -> tuple[str, str]:
    name, mac = json.loads(_heard(meeting, f"file-{rank}", f"process {rank}"))
    return name, mac


def _own_pieces(
    flat: Flat, leaves: dict[str, Leaf], rank: int
) -> dict[str, tuple[str, Box, Any]]:
    def found() -> Iterator[tuple[str, tuple[str, Box, Any]]]:
        for name, value in zip(flat.names, flat.leaves, strict=True):
            for i, (box, part) in enumerate(own_parts(value, leaves[name], rank)):
                array = to_numpy(part, leaves[name], name)
                yield f"{name}@{i}", (name, box, array)

    return dict(found())


def _snapshot(
    pieces: dict[str, tuple[str, Box, Any]], origin: Origin, ring: KeyRing
) -> Snapshot:
    values = {name: part for name, (_, _, part) in pieces.items()}
    leaves = {
        name: Leaf("jax", leaf_of(part, name).dtype, box_shape(box))
        for name, (_, box, part) in pieces.items()
    }
    where = {name: [leaf, box] for name, (leaf, box, _) in pieces.items()}
    fields = {**origin.fields(), "pieces": encode(where).decode()}
    return snapshot_of(values, leaves, fields, ring.digest, SHARD_PURPOSE)


def _root(
    folder: Path, content: Content, files: list[tuple[str, str]], ring: KeyRing
) -> Root:
    """The root over all files, each read back and verified."""
    pieces: dict[str, list[Piece]] = {name: [] for name in content.leaves}
    for number, (name, mac) in enumerate(files):
        if not SHARD_FILE.fullmatch(name):
            raise FormatError("another process named a file that is none of ours")
        with open_to_read(folder / name) as (fd, known):
            signed = read_header(fd, known, ring, SHARD_PURPOSE, LoadLimits())
        if signed.mac != mac:
            raise FormatError("the file of another process is not the one it wrote")
        for piece, (leaf, box) in parse_pieces(signed.header.fields["pieces"]).items():
            if leaf not in pieces:
                raise FormatError(
                    f"process {number} has a leaf {leaf} that process 0 lacks",
                    code="SJ507",
                    hint="every process must save the same tree",
                )
            pieces[leaf].append(Piece(leaf, box, number, piece))
    return Root(content, files, pieces)
