"""Digests of data, chunk by chunk, so that a part can be checked without the rest."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Protocol

from safejax._file_errors import FormatError

try:
    import blake3
except ImportError:
    blake3 = None  # type: ignore[assignment]

DIGEST_BYTES: Final = 32
MIN_CHUNK: Final = 1 << 16
MAX_CHUNK: Final = 1 << 26
_MOST_CHUNKS: Final = 1 << 19  # 32 MiB of header


class Hasher(Protocol):
    """The part of hashlib's interface that is used."""

    def update(self, data: Any, /) -> object:
        """Adds bytes."""

    def digest(self) -> bytes:
        """The digest of all that was added."""
        ...


def new_hasher(algorithm: str) -> Hasher:
    """An empty digest.

    Raises:
        FormatError: The algorithm's package is not installed.
    """
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "blake3" and blake3 is not None:
        hasher: Hasher = blake3.blake3()
        return hasher
    raise FormatError(
        f"no digest {algorithm!r} here",
        hint="install with `python -m pip install blake3`",
    )


def chunk_bytes_for(data_bytes: int) -> int:
    """How long the chunks of so much data are to be.

    Small enough that two threads share a small file, large enough that the digests of
    a large one stay far below the cap of a header.
    """
    if data_bytes <= 1 << 20:
        return 1 << 18
    chunk = 1 << 20
    while chunk < MAX_CHUNK and data_bytes > chunk * _MOST_CHUNKS:
        chunk *= 2
    return chunk


def count_chunks(data_bytes: int, chunk_bytes: int) -> int:
    """How many chunks there are; the last may be shorter."""
    return -(-data_bytes // chunk_bytes)


def digest_chunks(data: bytes | memoryview, chunk_bytes: int, algorithm: str) -> bytes:
    """The digests of data that is in memory, one after the other."""
    view, found = memoryview(data).cast("B"), []
    for start in range(0, view.nbytes, chunk_bytes):
        hasher = new_hasher(algorithm)
        hasher.update(view[start : start + chunk_bytes])
        found.append(hasher.digest())
    return b"".join(found)
