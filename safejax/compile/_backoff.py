"""Signatures whose compilation failed, and when each may be tried again."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

_LONGEST_S = 300.0


@dataclasses.dataclass(slots=True)
class _Failure:
    delay_s: float
    until_s: float
    why: str


class Backoff:
    """Refuses a signature that failed for a while; twice as long each time.

    Bounded: the least recently used of ``max_keys`` is forgotten. Each failure costs
    its caller a compilation of the rates, so pushing one out is dearer than waiting.
    """

    def __init__(
        self,
        first_s: float = 1.0,
        *,
        longest_s: float = _LONGEST_S,
        max_keys: int = 256,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_s = first_s
        self._longest_s = max(first_s, longest_s)
        self._max_keys = max_keys
        self._now = now
        # Reentrant: a signal handler may compile, too.
        self._lock = threading.RLock()
        self._failures: OrderedDict[Hashable, _Failure] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def failed(self, key: Hashable, why: str = "") -> float:
        """Notes a failure; returns the seconds for which the key is now refused."""
        with self._lock:
            before = self._failures.pop(key, None)
            delay_s = self._first_s
            if before is not None:
                delay_s = min(self._longest_s, 2 * before.delay_s)
            self._failures[key] = _Failure(delay_s, self._now() + delay_s, why)
            while len(self._failures) > self._max_keys:
                self._failures.popitem(last=False)
            return delay_s

    def retry_after_s(self, key: Hashable) -> float | None:
        """Seconds until the key may be tried again; ``None`` if it may be now."""
        if not self._failures:
            return None
        with self._lock:
            failure = self._failures.get(key)
            if failure is None:
                return None
            self._failures.move_to_end(key)
            now = self._now()
            if now >= failure.until_s:
                return None
            # Rounded up: whoever waits exactly this long may try.
            return failure.until_s - now + math.ulp(failure.until_s)

    def why(self, key: Hashable) -> str:
        """What the last failure of the key was, in words; empty if nothing is known."""
        failure = self._failures.get(key)
        return "" if failure is None else failure.why

    def succeeded(self, key: Hashable) -> None:
        """Forgets the failures of the key."""
        if self._failures:
            with self._lock:
                self._failures.pop(key, None)

    def clear(self) -> None:
        """Forgets all failures."""
        with self._lock:
            self._failures.clear()
