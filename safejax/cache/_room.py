"""Room in the folder: what is written, what is removed, what is set aside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from safejax._files import remove_leftovers, replacing, write_from
from safejax.cache._place import (
    PINNED,
    QUARANTINE,
    UNPINNED,
    Place,
    UnfitError,
)

# So many rejected files are kept to be looked at; an attacker can't fill the disk.
MOST_QUARANTINED: Final = 16
_LOCK_S: Final = 2.0
_POLL_S: Final = 0.005
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def _locked(place: Place) -> Iterator[None]:
    """Holds off other writers. The system ends the lock of a process that dies.

    Raises:
        UnfitError: ``"busy"``: another process holds it, perhaps stopped for good.
    """
    fd = os.open(place.path, _FOLDER)
    try:
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UnfitError("busy") from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)


def write(place: Place, key: str, data: bytes, max_bytes: int) -> int:
    """Puts an entry in its place, after making room; how many others were removed.

    Raises:
        UnfitError: ``"full"``: what is pinned leaves no room; ``"busy"``;
            ``"directory"``.
        OSError: The system refused.
    """
    place.check()
    if len(data) > max_bytes:
        raise UnfitError("full")
    # The lock is given back after the file has its place.
    with (
        contextlib.ExitStack() as held,
        replacing(place.file(key), overwrite=True, mode=UNPINNED) as fd,
    ):
        write_from(fd, 0, [data])
        # Flushed before the others are held off, who may wait for their turn.
        os.fsync(fd)
        held.enter_context(_locked(place))
        old = next((found for found in place.entries() if found.key == key), None)
        if old is not None and old.pinned:
            os.fchmod(fd, PINNED)
        replaced = old.size if old is not None else 0
        return _shrink(place, max_bytes - len(data) + replaced, keep=key)


def shrink(place: Place, max_bytes: int) -> int:
    """Removes what was used longest ago until the rest fits; how many entries.

    Raises:
        UnfitError: ``"full"``: what is pinned does not fit; ``"busy"``.
        OSError: The system refused.
    """
    with _locked(place):
        return _shrink(place, max_bytes)


def _shrink(place: Place, max_bytes: int, keep: str = "") -> int:
    found = sorted(place.entries(), key=lambda entry: entry.used)
    movable = [entry for entry in found if not entry.pinned and entry.key != keep]
    total = sum(entry.size for entry in found)
    if total - sum(entry.size for entry in movable) > max_bytes:
        raise UnfitError("full")
    if total + _quarantined_bytes(place) > max_bytes:
        _drop(place, 0)
    removed = 0
    while total > max_bytes:
        entry = movable[removed]
        with contextlib.suppress(FileNotFoundError):
            place.file(entry.key).unlink()
        total -= entry.size
        removed += 1
    return removed


# --- what is set aside ------------------------------------------------------------


def set_aside(place: Place, key: str, reason: str) -> None:
    """Moves a rejected entry out of the way, so that nothing looks there again.

    Where it can't be moved it is removed; where that fails it stays, and is rejected
    again. A link is moved itself, not followed.
    """
    source = place.file(key)
    with contextlib.suppress(OSError):
        folder = _quarantine(place)
        try:
            name = f"{key}.{reason}.{secrets.token_hex(4)}"
            os.rename(source, name, dst_dir_fd=folder)
        finally:
            os.close(folder)
        _drop(place, MOST_QUARANTINED)
        return
    with contextlib.suppress(OSError):
        source.unlink()


def _quarantine(place: Place) -> int:
    """A descriptor of the folder for rejected files, which is no link."""
    path = place.path / QUARANTINE
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return os.open(path, _FOLDER)


def _quarantined(place: Place) -> list[tuple[float, str, int]]:
    """Age, path and size of the rejected files, oldest first."""
    path = place.path / QUARANTINE
    found = []
    with contextlib.suppress(OSError):
        if path.is_symlink():
            return []
        with os.scandir(path) as files:
            for file in files:
                known = file.stat(follow_symlinks=False)
                size = known.st_size if stat.S_ISREG(known.st_mode) else 0
                found.append((known.st_ctime, file.path, size))
    return sorted(found)


def _quarantined_bytes(place: Place) -> int:
    return sum(size for _, _, size in _quarantined(place))


def _drop(place: Place, most: int) -> int:
    """Removes the oldest rejected files but for ``most``; how many."""
    removed = 0
    found = _quarantined(place)
    for _, path, _ in found[: max(0, len(found) - most)]:
        with contextlib.suppress(OSError):
            Path(path).unlink()
            removed += 1
    return removed


def clean(place: Place) -> int:
    """Removes what killed writers left and what was rejected; how many files."""
    return remove_leftovers(place.path) + _drop(place, 0)
