"""The folder of a compile cache: who may write there, and which files are entries.

Entries are told from other files by their names alone, and are never opened through a
link. What is wrong with a file is a reason, in one word, for the statistics.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from safejax._file_errors import StorageError
from safejax._files import open_to_read, read_exactly, system_errors

SUFFIX: Final = ".sjx"
QUARANTINE: Final = "quarantine"
PINNED: Final = 0o400
UNPINNED: Final = 0o600

_NAME: Final = re.compile(rf"([0-9a-f]{{64}}){re.escape(SUFFIX)}")
_OTHERS_WRITE: Final = 0o022
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnfitError(Exception):
    """An entry must not be used; the one argument is the reason."""

    @property
    def reason(self) -> str:
        """Why, in one word."""
        return str(self.args[0])


class Found(NamedTuple):
    """One entry in the folder, not opened."""

    key: str
    size: int
    used: float
    pinned: bool


class Place:
    """An open folder.

    Args:
        path: The folder, with no link in it but for those above it that were resolved.
        identity: Device and inode, so that another folder in its place is noticed.
    """

    def __init__(self, path: Path, identity: tuple[int, int]) -> None:
        self.path = path
        self._identity = identity

    def file(self, key: str) -> Path:
        """Where the entry of that name stands."""
        return self.path / f"{key}{SUFFIX}"

    def check(self) -> None:
        """Refuses a folder that has changed hands, or was replaced.

        Raises:
            UnfitError: ``"directory"``.
        """
        try:
            known = os.lstat(self.path)
        except OSError:
            raise UnfitError("directory") from None
        if (known.st_dev, known.st_ino) != self._identity or _fault(known):
            raise UnfitError("directory")

    def read(self, key: str, most: int) -> bytes | None:
        """The bytes of an entry; nothing is known of them. ``None``: there is none.

        Raises:
            UnfitError: It is not a file that only this user can have written.
        """
        self.check()
        try:
            with open_to_read(self.file(key)) as (fd, known):
                return _content(fd, known, most)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return None
            raise UnfitError(_KINDS.get(error.errno or 0, "storage")) from None
        except OSError:
            raise UnfitError("storage") from None

    def entries(self) -> Iterator[Found]:
        """All entries, in no order."""
        with os.scandir(self.path) as files:
            for file in files:
                name = _NAME.fullmatch(file.name)
                if name is None:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    known = file.stat(follow_symlinks=False)
                    pinned = stat.S_IMODE(known.st_mode) == PINNED
                    yield Found(name[1], known.st_size, known.st_mtime, pinned)

    def has(self, key: str) -> bool:
        """Whether something stands where the entry would."""
        return os.path.lexists(self.file(key))

    def has_used(self, key: str) -> None:
        """Notes that an entry was used now. Failing to is no harm."""
        with contextlib.suppress(OSError):
            os.utime(self.file(key), follow_symlinks=False)

    def pin(self, key: str, *, pinned: bool = True) -> bool:
        """Keeps an entry from being removed for room; False where there is none."""
        try:
            with open_to_read(self.file(key)) as (fd, _):
                os.fchmod(fd, PINNED if pinned else UNPINNED)
        except OSError:
            return False
        return True


# What the system says of an entry that is no plain file.
_KINDS: Final = {
    errno.ELOOP: "link",
    errno.EISDIR: "kind",
    errno.EINVAL: "kind",
    errno.ENXIO: "kind",
}


def _content(fd: int, known: os.stat_result, most: int) -> bytes:
    if known.st_uid not in (os.geteuid(), 0):
        raise UnfitError("owner")
    if known.st_mode & _OTHERS_WRITE:
        raise UnfitError("permissions")
    if known.st_size > most:
        raise UnfitError("size")
    found = read_exactly(fd, 0, known.st_size)
    if found is None:
        raise UnfitError("format")
    return found


def open_place(directory: str | os.PathLike[str], *, create: bool) -> Place:
    """The folder, once it is known that nobody else can write there.

    Args:
        directory: Its path; the last part may not be a link.
        create: Whether to make it, with mode 0700, if it is not there.

    Raises:
        StorageError: It is a link or no folder, it or one above it is another user's,
            or others can write there.
    """
    given = Path(directory)
    with system_errors("can't use", given):
        # Only what stands above it is resolved: a link in its own place is refused.
        parent = given.absolute().parent
        if create:
            parent.mkdir(parents=True, exist_ok=True)
        path = parent.resolve(strict=True) / given.absolute().name
        if create:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        fd = os.open(path, _FOLDER)
        try:
            known = os.fstat(fd)
        finally:
            os.close(fd)
        fault = _fault(known)
        for folder in path.parents:
            fault = fault or _fault_above(folder)
    if fault:
        raise StorageError(
            f"can't use {given}: {fault}",
            details={"errno": errno.EPERM, "path": str(given)},
            hint="a compile cache needs a folder that only its user can write to: "
            "chmod 700, in a folder of that user",
        )
    return Place(path, (known.st_dev, known.st_ino))


def _fault(known: os.stat_result) -> str:
    """Why a folder may not hold the cache, or an empty string."""
    if not stat.S_ISDIR(known.st_mode):
        return "it is no folder"
    if known.st_uid not in (os.geteuid(), 0):
        return "it belongs to another user"
    if known.st_mode & _OTHERS_WRITE:
        return f"others can write there: mode {stat.S_IMODE(known.st_mode):04o}"
    return ""


def _fault_above(folder: Path) -> str:
    """Why who is not this user could put another folder in its place.

    A group may write above it: what it can do is take the cache away.
    """
    known = folder.stat()
    if known.st_uid not in (os.geteuid(), 0):
        return f"{folder} belongs to another user"
    if known.st_mode & stat.S_IWOTH and not known.st_mode & stat.S_ISVTX:
        return f"everyone can write to {folder}"
    return ""
