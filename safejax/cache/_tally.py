"""What a compile cache has done, counted."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CacheStats:
    """What a compile cache has done for this process, and what it holds.

    Attributes:
        hits: Programs that were loaded instead of compiled.
        misses: Programs that were compiled.
        stores: Entries that were written.
        evicted: Entries that were removed to make room.
        rejects: Entries that were not used, by reason: ``"signature"``, ``"format"``,
            ``"mismatch"`` (genuine, but for another program, version or machine),
            ``"age"``, ``"owner"``, ``"permissions"``, ``"link"``, ``"kind"`` (no
            regular file), ``"size"``, ``"storage"``, ``"directory"`` (it was
            replaced, or changed hands), ``"refused"`` (by XLA), ``"crashes"``.
        skipped: Programs that were not looked up or not written, by reason:
            ``"callback"`` (its code is bound to this process), ``"processes"``,
            ``"key"`` (JAX makes none), ``"untried"`` (no worker could try to load it
            in time), ``"read-only"`` (the ring can't sign), ``"full"``, ``"busy"``,
            ``"storage"``, ``"directory"``.
        seconds_saved: What the loaded programs once took to compile, less what it
            took to find and load them, in seconds.
        entries: How many entries the folder holds now, other processes' too.
        bytes: How long they are together.
        pinned: How many are pinned.

    Example:
        >>> import tempfile, safejax
        >>> folder, ring = tempfile.mkdtemp(), safejax.KeyRing.generate()
        >>> with safejax.compile_cache(folder, key=ring) as cache:
        ...     cache.stats().hits
        0
    """

    hits: int
    misses: int
    stores: int
    evicted: int
    rejects: Mapping[str, int] = dataclasses.field(hash=False)
    skipped: Mapping[str, int] = dataclasses.field(hash=False)
    seconds_saved: float
    entries: int
    bytes: int
    pinned: int


class Tally:
    """Counters that any thread may add to. All reasons are words of ours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.rejects: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.seconds_saved: float = 0.0

    def add(self, name: str, count: int = 1) -> None:
        """Counts hits, misses, stores or evictions."""
        with self._lock:
            self.counts[name] += count

    def hit(self, saved_s: float) -> None:
        """Counts one program that was loaded."""
        with self._lock:
            self.counts["hits"] += 1
            self.seconds_saved += max(0.0, saved_s)

    def reject(self, reason: str) -> int:
        """Counts one entry that was not used; how many there were."""
        with self._lock:
            self.rejects[reason] += 1
            return self.rejects.total()

    def skip(self, reason: str) -> None:
        """Counts one program that the cache did not serve or keep."""
        with self._lock:
            self.skipped[reason] += 1

    def forget_threads(self) -> None:
        """In a forked child: whoever held the lock is not here."""
        self._lock = threading.Lock()


CacheStats.__module__ = "safejax"
