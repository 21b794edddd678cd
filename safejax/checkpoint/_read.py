"""Data read and checked at once, by several threads; each byte is read once."""

from __future__ import annotations

import bisect
import concurrent.futures
import hmac
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from safejax._files import read_into, storage_error
from safejax.checkpoint._memory import Segment
from safejax.signing._digests import DIGEST_BYTES, count_chunks, new_hasher
from safejax.signing._header import Header
from safejax.signing._seal import refused

# Hashed while it is still in the cache: reading 4 MiB first takes a third longer.
_PIECE: Final = 1 << 20
_MAX_THREADS: Final = 8
# Two threads that write to one fresh huge page at once both get and clear one, and one
# is thrown away: a gigabyte took an eighth longer when they took turns by chunk.
_STRIP: Final = 8 << 20
# To wake another core takes up to half a millisecond. SHA-256 of a MiB takes 0.7 ms
# where the processor has instructions for it, and 3 ms where not.
_ALONE_S: Final = 1.5e-3

Progress = Callable[[int, int], object]


def thread_count(seconds: float) -> int:
    """How many threads to use for what one would do in so many seconds."""
    if seconds < _ALONE_S:
        return 1
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


class Reader:
    """Reads the chunks of one open file into memory, and checks each.

    Args:
        path: For errors only: the file is never opened again.
        fd: The open file.
        data_at: Where its data begins.
        header: The verified header.
        segments: Where the data is to go. Chunks that none of them touches are not
            read; bytes of other chunks beside the segments are, and are forgotten.
        progress: Called with the bytes read and to be read.
        everything: Whether to check also the chunks that no segment touches.
    """

    def __init__(
        self,
        path: Path,
        fd: int,
        data_at: int,
        header: Header,
        segments: Sequence[Segment],
        progress: Progress | None = None,
        *,
        everything: bool = False,
    ) -> None:
        self._path, self._fd, self._data_at, self._header = path, fd, data_at, header
        self._size = header.data_bytes
        self._segments = sorted(segments, key=lambda segment: segment.start)
        self._starts = [segment.start for segment in self._segments]
        count = count_chunks(self._size, header.chunk_bytes)
        self._chunks = range(count) if everything else self._needed()
        self._total = sum(
            min(header.chunk_bytes, self._size - i * header.chunk_bytes)
            for i in self._chunks
        )
        self._has_gaps = self._total != sum(s.end - s.start for s in segments)
        self._stop = False
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0

    def read(self) -> None:
        """Reads and checks everything.

        Raises:
            SignatureError: A chunk is not what was signed, or the file has become
                shorter.
            StorageError: The system refused.
        """
        first, rest = self._chunks[:1], self._chunks[1:]
        start = time.perf_counter()
        self._work(iter([first]))
        alone_s = len(rest) * (time.perf_counter() - start)
        threads = min(thread_count(alone_s), len(rest))
        if threads <= 1:
            self._work(iter([rest]))
            return
        fair = len(rest) // (4 * threads)
        step = max(1, min(fair, _STRIP // self._header.chunk_bytes))
        strips = iter([rest[i : i + step] for i in range(0, len(rest), step)])
        with concurrent.futures.ThreadPoolExecutor(threads - 1) as pool:
            others = [pool.submit(self._work, strips) for _ in range(threads - 1)]
            self._work(strips)
            for other in others:
                other.result()

    def _needed(self) -> Sequence[int]:
        size = self._header.chunk_bytes
        if not self._segments:
            return range(0)
        found: dict[int, None] = {}
        for segment in self._segments:
            first, last = segment.start // size, (segment.end - 1) // size
            found.update(dict.fromkeys(range(first, last + 1)))
        return list(found)

    def _work(self, strips: Iterator[Sequence[int]]) -> None:
        """Reads strips of chunks, as long as there are any; several threads may."""
        scratch = memoryview(bytearray(_PIECE if self._has_gaps else 0))
        try:
            for index in itertools.chain.from_iterable(strips):
                if self._stop:
                    return
                self._read_chunk(index, scratch)
        except OSError as error:
            self._stop = True
            raise storage_error("can't read", self._path, error) from error
        except BaseException:
            self._stop = True
            raise

    def _read_chunk(self, index: int, scratch: memoryview) -> None:
        size = self._header.chunk_bytes
        start, end = index * size, min((index + 1) * size, self._size)
        hasher = new_hasher(self._header.digest)
        at = start
        while at < end:
            to = min(at + _PIECE, end)
            pieces = self._pieces(at, to, scratch)
            if not read_into(self._fd, self._data_at + at, pieces):
                raise refused()
            for piece in pieces:
                hasher.update(piece)
            at = to
        digest = self._header.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        if not hmac.compare_digest(hasher.digest(), digest):
            raise refused()
        self._report(end - start)

    def _pieces(self, start: int, end: int, scratch: memoryview) -> list[memoryview]:
        """The memory for a part of the data, in order."""
        found: list[memoryview] = []
        i = max(0, bisect.bisect_right(self._starts, start) - 1)
        at = start
        while at < end:
            while i < len(self._segments) and self._segments[i].end <= at:
                i += 1
            segment = self._segments[i] if i < len(self._segments) else None
            if segment is not None and segment.start <= at:
                to = min(end, segment.end)
                found.append(segment.view[at - segment.start : to - segment.start])
            else:
                to = min(end, segment.start) if segment is not None else end
                found.append(scratch[at - start : to - start])
            at = to
        return found

    def _report(self, count: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += count
                self._progress(self._done, self._total)
