"""A signature over all files of a folder that another program has written.

Every regular file is listed with its size and digests; a link, a device, a file more
or a file less does not verify. The signature stands beside the folder, not in it.
"""

from __future__ import annotations

import concurrent.futures
import hmac
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from safejax._file_errors import FormatError
from safejax._files import (
    open_to_read,
    read_exactly,
    read_small,
    system_errors,
    write_small,
)
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._blob import seal, unseal
from safejax.signing._canonical import decode, encode
from safejax.signing._digests import new_hasher
from safejax.signing._seal import refused

PURPOSE: Final = "folder"
_CHUNK: Final = 8 << 20
_PIECE: Final = 1 << 20
_MAX_THREADS: Final = 8

Listing = dict[str, list[Any]]  # relative path: size, digests of the chunks in hex


def sign_folder(
    folder: Path, signature: Path, ring: KeyRing, fields: Mapping[str, str]
) -> None:
    """Writes the signature of a folder as it is now.

    Raises:
        FormatError: There is something else in it than files and folders.
        StorageError: A file can't be read, or the signature not written.
    """
    payload = encode(_listing(folder, ring.digest, LoadLimits()))
    data = seal(payload, purpose=PURPOSE, ring=ring, fields=fields)
    write_small(signature, data, overwrite=True)


def verify_folder(
    folder: Path, signature: Path, ring: KeyRing, limits: LoadLimits
) -> Mapping[str, str]:
    """Checks that a folder is what was signed; the fields that were signed with it.

    Raises:
        SignatureError: The signature does not verify, or a file was changed, added or
            removed.
        FormatError: The signature is none, or the limits do not admit the folder.
        StorageError: A file can't be read.
    """
    data, _ = read_small(signature, 2 * limits.max_header_bytes)
    payload, fields = unseal(data, purpose=PURPOSE, ring=ring, limits=limits)
    wanted = decode(payload, "list of files")
    try:
        sizes = {path: size for path, (size, _) in wanted.items()}
    except (AttributeError, TypeError, ValueError):
        raise FormatError("the list of files is malformed") from None
    if dict(_files(folder, limits)) != sizes:
        raise refused()
    found = _listing(folder, ring.digest, limits)
    if not hmac.compare_digest(encode(found), payload):
        raise refused()
    return fields


def _listing(folder: Path, digest: str, limits: LoadLimits) -> Listing:
    files = dict(_files(folder, limits))
    parts = [
        (path, at) for path, size in files.items() for at in range(0, size, _CHUNK)
    ]
    threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        digests = list(
            pool.map(lambda part: _digest(folder, part, files[part[0]], digest), parts)
        )
    listing: Listing = {path: [size, []] for path, size in files.items()}
    for (path, _), found in zip(parts, digests, strict=True):
        listing[path][1].append(found)
    return listing


def _digest(folder: Path, part: tuple[str, int], size: int, digest: str) -> str:
    path, at = part
    hasher = new_hasher(digest)
    with open_to_read(folder / path) as (fd, known):
        if known.st_size != size:
            raise refused()
        end = min(at + _CHUNK, size)
        while at < end:
            data = read_exactly(fd, at, min(_PIECE, end - at))
            if data is None:
                raise refused()
            hasher.update(data)
            at += len(data)
    return hasher.digest().hex()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _files(folder: Path, limits: LoadLimits) -> Iterator[tuple[str, int]]:
    """Relative path and size of every file, sorted."""
    found: list[tuple[str, int]] = []
    pending = [""]
    with system_errors("can't list", folder):
        while pending:
            below = pending.pop()
            for entry in _entries(folder / below):
                path = f"{below}{entry.name}"
                known = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(known.st_mode):
                    pending.append(f"{path}/")
                elif stat.S_ISREG(known.st_mode):
                    found.append((path, known.st_size))
                else:
                    raise FormatError(f"{path} in {folder} is no file and no folder")
    if len(found) > limits.max_files:
        raise FormatError(
            f"{folder} has {len(found)} files, more than "
            f"LoadLimits.max_files={limits.max_files}"
        )
    if sum(size for _, size in found) > limits.max_data_bytes:
        raise FormatError(f"{folder} is larger than LoadLimits.max_data_bytes")
    yield from sorted(found)
