"""Whether a call would still fit into the memory of the process or of its devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from safejax import _jax
from safejax.errors import ProgramRejectedError

_MOST_KEYS = 4096
_STATM = Path("/proc/self/statm")


class Book:
    """How much memory each program of a function needs for a call, in bytes."""

    def __init__(self) -> None:
        self._by_key: dict[Any, int] = {}
        self.most = 0

    def record(self, key: Any, new_bytes: int) -> None:
        """Notes what XLA says of a program."""
        if len(self._by_key) >= _MOST_KEYS:
            self._by_key.clear()  # ``most`` stands in for what is unknown
        self._by_key[key] = max(new_bytes, self._by_key.get(key, 0))
        self.most = max(self.most, new_bytes)

    def of(self, key: Any) -> int:
        """What the program of a key needs; where that is unknown, the most of any."""
        return self._by_key.get(key, self.most)


def used_bytes() -> int:
    """Memory in use: of the fullest device that tells, else resident in the process."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        stats = [device.memory_stats() or {} for device in devices]
        known = [int(s["bytes_in_use"]) for s in stats if "bytes_in_use" in s]
        if known:
            return max(known)
    return _resident_bytes()


def _resident_bytes() -> int:
    # Opened anew: after a fork an open one would still show the parent.
    pages = int(_STATM.read_bytes().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Room:
    """Refuses calls of one function for which too little memory is left.

    Raises:
        ValueError: The system does not tell how much memory is in use.
    """

    def __init__(
        self,
        function: str,
        limit: int,
        book: Book,
        statics: tuple[tuple[int, ...], tuple[str, ...]],
    ) -> None:
        if not _STATM.exists():
            # Fails closed: a limit that nothing measures is none.
            raise ValueError(
                "Limits(max_process_memory_bytes=...) needs /proc, as Linux has it"
            )
        self._function = function
        self._limit = limit
        self._book = book
        self._statics = statics

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same callable, which looks at the memory first."""

        def within(*args: Any, **kwargs: Any) -> Any:
            if _jax.at_top_level():
                self.check(args, kwargs)
            return call(*args, **kwargs)

        return within

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises where the call would not fit.

        Raises:
            ProgramRejectedError: ``SJ410``. Nothing has run, no buffer is consumed.
        """
        used = used_bytes()
        if used + self._book.most <= self._limit:
            return
        needed = self._book.of(_jax.signature(args, kwargs, *self._statics))
        if used + needed <= self._limit:
            return
        raise ProgramRejectedError(
            f"{self._function}() refused a call: {used:,} bytes are in use and it "
            f"needs {needed:,} (max_process_memory_bytes={self._limit:,})",
            code="SJ410",
            details={
                "function": self._function,
                "limit": self._limit,
                "used": used,
                "needed": needed,
            },
            hint="drop arrays that are not needed any more; small calls are served",
        )
