"""A checkpoint copied chunk by chunk, each verified before it is written."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from safejax._files import open_to_read, replacing, write_from
from safejax.checkpoint._manifest import PURPOSE, read_content
from safejax.checkpoint._root import (
    SHARD_PURPOSE,
    Root,
    is_folder_checkpoint,
    read_root,
    remove_other_files,
    write_root,
)
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._blob import verified_chunks
from safejax.signing._header import ALIGNMENT, LENGTH_BYTES, Header
from safejax.signing._seal import Draft, Signed, read_header, refused


def resign(path: Path, ring: KeyRing, *, limits: LoadLimits | None = None) -> None:
    """Verifies a checkpoint and signs it anew with the ring's primary key.

    Args:
        path: A file, or a folder with the files of many processes.
        ring: The old key verifies, the primary key signs.
        limits: How large the checkpoint may be.

    Raises:
        SignatureError: It does not verify; it is left as it is.
        SigningKeyError: The ring can't sign.
        FormatError: It is no signed checkpoint.
        StorageError: The system refused.
    """
    within = limits or LoadLimits()
    if not is_folder_checkpoint(path):
        _resign_file(path, path, ring, PURPOSE, within, None)
        return
    root = read_root(path, ring, within)
    token = secrets.token_hex(8)
    files = []
    for rank, (name, mac) in enumerate(root.files):
        new = f"shard-{token}-{rank:05d}.safetensors"
        files.append(
            (
                new,
                _resign_file(path / name, path / new, ring, SHARD_PURPOSE, within, mac),
            )
        )
    write_root(path, Root(root.content, files, root.pieces), ring)
    remove_other_files(path, {name for name, _ in files})


def _resign_file(
    source: Path,
    place: Path,
    ring: KeyRing,
    purpose: str,
    limits: LoadLimits,
    mac: str | None,
) -> str:
    with open_to_read(source) as (fd, known):
        signed = read_header(fd, known, ring, purpose, limits)
        if mac is not None and signed.mac != mac:
            raise refused()
        draft = Draft(signed.header, ring)
        with replacing(place, overwrite=True, mode=0o644) as out:
            _copy_data(fd, signed, out, draft.data_at)
            write_from(out, 0, [draft.sign(signed.header.digests)])
    return draft.mac


def _copy_data(fd: int, signed: Signed, out: int, data_at: int) -> None:
    for start, data in verified_chunks(fd, signed):
        write_from(out, data_at + start, [data])


def to_safetensors(
    source: Path,
    place: Path,
    ring: KeyRing,
    *,
    limits: LoadLimits | None = None,
    overwrite: bool = False,
) -> None:
    """Verifies a checkpoint of one file and writes it as a plain safetensors file.

    Dtypes that safetensors lacks stay bytes (``U8``).

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed checkpoint.
        StorageError: The system refused.
    """
    within = limits or LoadLimits()
    with open_to_read(source) as (fd, known):
        signed = read_header(fd, known, ring, PURPOSE, within)
        read_content(signed.header, within)
        head = _plain_header(signed.header)
        with replacing(place, overwrite=overwrite, mode=0o644) as out:
            write_from(out, 0, [head])
            _copy_data(fd, signed, out, len(head))


def _plain_header(header: Header) -> bytes:
    document = {
        name: {"dtype": t.dtype, "shape": t.shape, "data_offsets": (t.start, t.end)}
        for name, t in header.tensors.items()
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
