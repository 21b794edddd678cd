"""The programs of one function that are being made, and who waits for them."""

from __future__ import annotations

from safejax import _jax
from safejax.compile._deadline import Deadline
from safejax.compile._process import process


class Flights:
    """Shared by all ledgers of a function, as JAX shares its programs.

    Two wrappers with different limits would else meet in JAX, where the second waits
    for the first, deaf to its own deadline. Its callers hold the lock of the process.
    """

    def __init__(self) -> None:
        self._makers: dict[_jax.Signature, int] = {}
        self._waiting: dict[_jax.Signature, list[Deadline]] = {}

    def __contains__(self, key: _jax.Signature) -> bool:
        return key in self._makers

    def is_anothers(self, key: _jax.Signature, thread: int) -> bool:
        """Whether another thread makes this program."""
        return self._makers.get(key, thread) != thread

    def begin(self, key: _jax.Signature, thread: int) -> None:
        """This thread makes the program."""
        self._makers[key] = thread

    def end(self, key: _jax.Signature) -> None:
        """Nobody makes it any more; those who wait look again."""
        self._makers.pop(key, None)
        process.changed.notify_all()

    def wait(self, key: _jax.Signature, deadline: Deadline) -> bool:
        """Waits until something has changed; false where the time is up."""
        waiting = self._waiting.setdefault(key, [])
        waiting.append(deadline)
        try:
            return process.changed.wait(deadline.remaining()) or not deadline.passed()
        finally:
            waiting.remove(deadline)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    def wanted_until(self, key: _jax.Signature) -> float | None:
        """Until when others wait for this program, or ``None``."""
        ends = [d.ends for d in self._waiting.get(key, ()) if d.ends is not None]
        return max(ends, default=None)

    def clear(self) -> None:
        """In a forked child: no other thread makes anything."""
        self._makers.clear()
        self._waiting.clear()
