"""One signed checkpoint looked at without loading it."""

from __future__ import annotations

from pathlib import Path

from safejax._files import open_to_read
from safejax.checkpoint._manifest import PURPOSE, Content, read_content
from safejax.checkpoint._read import Progress, Reader
from safejax.checkpoint._root import SHARD_PURPOSE, is_folder_checkpoint, read_root
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._origin import Origin
from safejax.signing._seal import Signed, read_header, refused


def _read(
    path: Path,
    ring: KeyRing,
    purpose: str,
    limits: LoadLimits,
    progress: Progress | None,
    *,
    data: bool,
) -> Signed:
    with open_to_read(path) as (fd, known):
        signed = read_header(fd, known, ring, purpose, limits)
        if data:
            Reader(
                path, fd, signed.data_at, signed.header, (), progress, everything=True
            ).read()
    return signed


def verify_path(
    path: Path,
    ring: KeyRing,
    limits: LoadLimits,
    *,
    data: bool = True,
    progress: Progress | None = None,
) -> Content:
    """Checks all signatures of a checkpoint and, unless ``data`` is False, its data.

    Args:
        path: A file, or a folder with the files of many processes.
        ring: The keys that may have signed.
        limits: How large it may be.
        data: Whether to read the data as well.
        progress: Called with the bytes read and to be read, for each file.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed checkpoint, or not one that the limits admit.
        StorageError: It can't be read.
    """
    if not is_folder_checkpoint(path):
        signed = _read(path, ring, PURPOSE, limits, progress, data=data)
        return read_content(signed.header, limits)
    root = read_root(path, ring, limits)
    for name, mac in root.files:
        file = path / name
        if _read(file, ring, SHARD_PURPOSE, limits, progress, data=data).mac != mac:
            raise refused()
    return root.content


def origin_of(path: Path, ring: KeyRing, limits: LoadLimits) -> Origin:
    """Where a checkpoint comes from, by its signature alone.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed checkpoint, or not one that the limits admit.
        StorageError: It can't be read.
    """
    if is_folder_checkpoint(path):
        return read_root(path, ring, limits).content.origin
    return verify_path(path, ring, limits, data=False).origin
