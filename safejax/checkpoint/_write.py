"""Data hashed and written at once, by several threads."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from safejax._files import replacing, write_from
from safejax.checkpoint._read import Progress, thread_count
from safejax.checkpoint._snapshot import Snapshot
from safejax.keys import KeyRing
from safejax.signing._digests import count_chunks, new_hasher
from safejax.signing._header import Header
from safejax.signing._seal import Draft

_AHEAD: Final = 8  # chunks in flight per thread: bounds the memory that is held
_WRITEBACK: Final = 32 << 20

Chunk = list[memoryview]


def write_checkpoint(
    path: Path,
    snapshot: Snapshot,
    ring: KeyRing,
    *,
    overwrite: bool,
    progress: Progress | None,
) -> str:
    """Writes what was taken apart, durably, or leaves what stood there; the MAC.

    Raises:
        StorageError: The system refused.
    """
    draft = Draft(snapshot.header, ring)
    with replacing(path, overwrite=overwrite, mode=0o644) as fd:
        digests = write_data(
            fd, draft.data_at, snapshot.header, snapshot.pieces(), progress
        )
        write_from(fd, 0, [draft.sign(digests)])
    return draft.mac


def write_data(
    fd: int,
    data_at: int,
    header: Header,
    pieces: Iterable[memoryview],
    progress: Progress | None = None,
) -> bytes:
    """Writes the data; the digests of its chunks.

    Args:
        fd: The file.
        data_at: Where the data begins in it.
        header: The header that will stand before it.
        pieces: The data, piece by piece, in order. Taken as they can be written.
        progress: Called with the bytes written and to be written.

    Raises:
        OSError: The system refused.
    """
    total, size = header.data_bytes, header.chunk_bytes
    digests: list[bytes] = []

    def write(place: int, chunk: Chunk) -> bytes:
        return _write_chunk(fd, data_at + place * size, chunk, header.digest)

    def done(digest: bytes) -> None:
        digests.append(digest)
        written = min(len(digests) * size, total)
        _write_back(fd, data_at, written, size)
        if progress is not None:
            progress(written, total)

    chunks = enumerate(_chunks(pieces, size))
    start = time.perf_counter()
    for place, chunk in itertools.islice(chunks, 1):
        done(write(place, chunk))
    left = count_chunks(total, size) - 1
    threads = thread_count(left * (time.perf_counter() - start))
    if threads > 1:
        _share(threads, write, chunks, done)
    for place, chunk in chunks:
        done(write(place, chunk))
    return b"".join(digests)


def _share(
    threads: int,
    write: Callable[[int, Chunk], bytes],
    chunks: Iterable[tuple[int, Chunk]],
    done: Callable[[bytes], None],
) -> None:
    """Has several threads write; what is written is done in order."""
    pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for place, chunk in chunks:
                pending.append(pool.submit(write, place, chunk))
                if len(pending) >= _AHEAD * threads:
                    done(pending.popleft().result())
            while pending:
                done(pending.popleft().result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_chunk(fd: int, at: int, chunk: Chunk, algorithm: str) -> bytes:
    hasher = new_hasher(algorithm)
    for piece in chunk:
        hasher.update(piece)
    write_from(fd, at, chunk)
    return hasher.digest()


def _write_back(fd: int, data_at: int, done: int, size: int) -> None:
    """Has the system write to the disk already now, so that fsync finds little to do.

    The pages stay in memory where they are dirty; the call only starts the writing.
    """
    if done % _WRITEBACK < size and done >= _WRITEBACK:
        start = data_at + done - done % size - _WRITEBACK
        with contextlib.suppress(OSError, AttributeError):
            os.posix_fadvise(fd, start, _WRITEBACK, os.POSIX_FADV_DONTNEED)


def _chunks(pieces: Iterable[memoryview], size: int) -> Iterator[Chunk]:
    chunk: Chunk = []
    room = size
    for whole in pieces:
        piece = whole
        while piece.nbytes >= room:
            chunk.append(piece[:room])
            piece = piece[room:]
            yield chunk
            chunk, room = [], size
        if piece.nbytes:
            chunk.append(piece)
            room -= piece.nbytes
    if chunk:
        yield chunk
