"""Looking compiled programs up and keeping them: what JAX's compilations ask.

Nothing here raises into a compilation but the refusal that ``"strict"`` asks for: a
cache that can't be read or written makes a program slower, not impossible.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from typing_extensions import override

from safejax import _jax
from safejax._file_errors import FormatError, SignatureError, SigningKeyError
from safejax.cache import _room
from safejax.cache._entry import Entry, key_of, pack, shown, unpack
from safejax.cache._place import Place, UnfitError
from safejax.cache._tally import Tally
from safejax.compile._events import emit
from safejax.compile._trial import Verdict
from safejax.keys import KeyRing

_log = logging.getLogger("safejax.compile")

Verification = Literal["on", "strict"]
TryToLoad = Callable[[Any, bytes, float | None], Verdict]

# Reasons that say that somebody was at the files; the others have innocent causes.
_SUSPECT = frozenset(
    {
        "signature", "format", "mismatch", "owner", "permissions", "link", "kind",
        "size", "directory",
    }
)  # fmt: skip
# An attacker who can write there can cause them without end.
_MOST_LOGGED = 50
_MOST_REMEMBERED = 100_000
# How far the clocks of two machines that share a folder may be apart.
_AHEAD_S = 3600.0


class Settings(NamedTuple):
    """What a cache keeps to.

    Attributes:
        max_bytes: How much the folder may hold.
        strict: Whether an entry that does not verify ends the call.
        max_age_s: How old an entry may be, or ``None``.
    """

    max_bytes: int
    strict: bool
    max_age_s: float | None


class Store(_jax.ProgramStore):
    """The cache of this process.

    Args:
        place: Its folder.
        ring: Signs and verifies.
        settings: What it keeps to.
        try_to_load: Finds out elsewhere whether an executable can be loaded.
        now: The time of the day, in seconds.
    """

    def __init__(
        self,
        place: Place,
        ring: KeyRing,
        settings: Settings,
        try_to_load: TryToLoad,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.place = place
        self.tally: Tally = Tally()
        self.used: dict[str, None] = {}
        self._ring = ring
        self._settings = settings
        self._try_to_load = try_to_load
        self._now = now
        self._can_sign = _can_sign(ring)

    # --- reading ------------------------------------------------------------------

    @override
    def find(self, task: _jax.StoredTask, patience_s: float | None) -> Any:
        """The loaded program, or ``None`` where it must be compiled.

        Raises:
            SignatureError: An entry does not verify, and the cache is strict.
        """
        start = time.perf_counter()
        facts = self._facts(task)
        if facts is None:
            return None
        found = self._verified(facts, task.name)
        executable = None
        if found is not None:
            executable = self._loaded(task, *found, patience_s)
        if found is None or executable is None:
            self.tally.add("misses")
            return None
        entry, data = found
        seconds = time.perf_counter() - start
        saved_s = entry.compile_ms / 1e3 - seconds
        key = entry.key
        self.place.has_used(key)
        self._remember(key)
        self.tally.hit(saved_s)
        details = {"bytes": len(data), "saved_s": saved_s}
        emit("cached", entry.name, phase="load", seconds=seconds, details=details)
        return executable

    def _facts(self, task: _jax.StoredTask) -> dict[str, str] | None:
        reason = task.uncached_because
        facts = None if reason else task.facts
        if facts is None:
            self.tally.skip(reason or "key")
            return None
        return facts._asdict()

    def _verified(self, facts: dict[str, str], name: str) -> tuple[Entry, bytes] | None:
        key = key_of(facts)
        try:
            data = self.place.read(key, self._settings.max_bytes)
            return None if data is None else self._judged(data, facts)
        except SignatureError:
            self._reject(key, name, "signature")
        except FormatError:
            self._reject(key, name, "format")
        except UnfitError as error:
            self._reject(key, name, error.reason)
        return None

    def _judged(self, data: bytes, facts: dict[str, str]) -> tuple[Entry, bytes]:
        entry, executable = unpack(data, self._ring)
        if entry.facts != facts:
            raise UnfitError("mismatch")
        age_s = self._now() - entry.created / 1e3
        most = self._settings.max_age_s
        if age_s < -_AHEAD_S or (most is not None and age_s > most):
            raise UnfitError("age")
        return entry, executable

    def _loaded(
        self, task: _jax.StoredTask, entry: Entry, data: bytes, patience_s: float | None
    ) -> Any:
        if not entry.tried and not self._is_tried(task, entry, data, patience_s):
            return None
        try:
            return task.load(data)
        except (RuntimeError, ValueError, TypeError):  # what XLA refuses with
            self._reject(entry.key, entry.name, "refused")
            return None

    def _is_tried(
        self, task: _jax.StoredTask, entry: Entry, data: bytes, patience_s: float | None
    ) -> bool:
        verdict = self._try_to_load(task, data, patience_s)
        if verdict == "untried":
            self.tally.skip("untried")
        elif verdict != "loads":
            self._reject(entry.key, entry.name, verdict)
        elif self._can_sign:
            self._write(dataclasses.replace(entry, tried=True), data)
        return verdict == "loads"

    def _reject(self, key: str, name: str, reason: str) -> None:
        strict = self._settings.strict and reason in _SUSPECT
        count = self.tally.reject(reason)
        if not strict and reason != "directory":
            _room.set_aside(self.place, key, reason)
        name = shown(name)
        if count <= _MOST_LOGGED:
            _log.warning("compile cache: an entry of %s was rejected: %s", name, reason)
        code = SignatureError.default_code if reason in _SUSPECT else None
        emit("rejected", name, code=code, details={"reason": reason})
        if strict:
            raise SignatureError(
                f"an entry of the compile cache for {name} is not genuine",
                details={"module": name, "entry": key},
                hint="find out who can write to the cache; `safejax cache verify` "
                "lists such entries, `safejax cache prune` removes them",
            )

    # --- keeping ------------------------------------------------------------------

    @override
    def keep(self, task: _jax.StoredTask, executable: Any, seconds: float) -> None:
        """Keeps a program that was compiled; counts it where it can't."""
        facts = None if task.uncached_because else task.facts
        if facts is None:
            return  # counted when it was looked up
        if not self._can_sign:
            self.tally.skip("read-only")
            return
        try:
            data, tried = task.serialized(executable)
        except (RuntimeError, ValueError, TypeError):  # not every backend can
            self.tally.skip("key")
            return
        entry = Entry(
            facts=facts._asdict(),
            name=shown(task.name),
            created=int(self._now() * 1e3),
            compile_ms=int(seconds * 1e3),
            tried=tried,
        )
        # Another process may have made it meanwhile. What was loaded is worth more.
        if tried or not self.place.has(entry.key):
            self._write(entry, data)

    def _write(self, entry: Entry, data: bytes) -> None:
        try:
            evicted = _room.write(
                self.place,
                entry.key,
                pack(entry, data, self._ring),
                self._settings.max_bytes,
            )
        except UnfitError as error:
            self.tally.skip(error.reason)
        except OSError:
            self.tally.skip("storage")
        else:
            self.tally.add("stores")
            self.tally.add("evicted", evicted)
            self._remember(entry.key)

    def _remember(self, key: str) -> None:
        if len(self.used) < _MOST_REMEMBERED:
            self.used[key] = None


def _can_sign(ring: KeyRing) -> bool:
    try:
        return bool(ring.primary)
    except SigningKeyError:
        return False
