"""Files that others may have put there: opened once, read with a cap, replaced whole.

A path is opened without following a link in its last part, and only a regular file is
accepted; from then on there is one descriptor, never the path again. A file is written
beside its place and renamed into it, so that a crash leaves the old or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from safejax._file_errors import StorageError

# A FIFO would block open() for ever without O_NONBLOCK.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TEMPORARY: Final = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.sj-tmp")
_BUFFERS: Final = 512  # IOV_MAX is 1024 on Linux, 16 at the least
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
_HINTS: Final = {
    errno.ENOSPC: "free some space; what stood there before still does",
    errno.EDQUOT: "free some of your quota; what stood there before still does",
    errno.EEXIST: "pass overwrite=True to replace it",
    errno.ELOOP: "give the path of the file itself: links are not followed",
}


def storage_error(doing: str, path: Path, error: OSError) -> StorageError:
    """The error to raise for one of the system's."""
    why = os.strerror(error.errno) if error.errno else str(error) or "failed"
    return StorageError(
        f"{doing} {path}: {why}",
        details={"errno": error.errno, "path": str(path)},
        hint=_HINTS.get(error.errno or 0, ""),
    )


@contextlib.contextmanager
def system_errors(doing: str, path: Path) -> Iterator[None]:
    """Turns the system's errors inside the block into ours."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(doing, path, error) from error


@contextlib.contextmanager
def open_to_read(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """The descriptor of a regular file that is no link, and what is known of it.

    Raises:
        StorageError: There is none, or it may not be read.
    """
    with system_errors("can't read", path):
        fd = os.open(path, _READ)
    try:
        with system_errors("can't read", path):
            known = os.fstat(fd)
        if not stat.S_ISREG(known.st_mode):
            kind = errno.EISDIR if stat.S_ISDIR(known.st_mode) else errno.EINVAL
            raise StorageError(
                f"can't read {path}: not a regular file",
                details={"errno": kind, "path": str(path)},
            )
        yield fd, known
    finally:
        os.close(fd)


def read_into(fd: int, offset: int, buffers: Sequence[memoryview]) -> bool:
    """Fills the buffers from the file; False where it ends before."""
    pending = [buffer for buffer in buffers if buffer.nbytes]
    while pending:
        count = os.preadv(fd, pending[:_BUFFERS], offset)
        if count == 0:
            return False
        offset += count
        _advance(pending, count)
    return True


def read_exactly(fd: int, offset: int, length: int) -> bytes | None:
    """So many bytes, or None where the file ends before."""
    found = os.pread(fd, length, offset)
    if len(found) == length:
        return found
    rest = bytearray(length - len(found))  # a network file system may give less
    whole = read_into(fd, offset + len(found), [memoryview(rest)])
    return found + bytes(rest) if whole else None


def read_small(path: Path, most: int) -> tuple[bytes, os.stat_result]:
    """All of a small file.

    Raises:
        StorageError: It can't be read, or is longer than ``most`` bytes.
    """
    with open_to_read(path) as (fd, known), system_errors("can't read", path):
        if known.st_size > most:
            raise OSError(errno.EFBIG, "")
        found = read_exactly(fd, 0, known.st_size)
        if found is None:
            raise OSError(errno.EIO, "")
        return found, known


def write_from(fd: int, offset: int, buffers: Sequence[memoryview | bytes]) -> None:
    """Writes the buffers one after the other, all of them.

    Raises:
        OSError: The system refused.
    """
    pending = [memoryview(buffer) for buffer in buffers if len(buffer)]
    while pending:
        count = os.pwritev(fd, pending[:_BUFFERS], offset)
        if count <= 0:
            raise OSError(errno.EIO, "nothing was written")
        offset += count
        _advance(pending, count)


def _advance(pending: list[memoryview], count: int) -> None:
    done = 0
    while done < len(pending) and count >= pending[done].nbytes:
        count -= pending[done].nbytes
        done += 1
    del pending[:done]
    if count:
        pending[0] = pending[0][count:]


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuses a place that a new file may not take, before any work is done.

    Raises:
        StorageError: It is a folder, a link or a device, or a file that may stay.
    """
    with system_errors("can't write", path):
        try:
            known = path.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISDIR(known.st_mode):
            raise OSError(errno.EISDIR, "")
        if stat.S_ISLNK(known.st_mode):
            raise OSError(errno.ELOOP, "")
        if not stat.S_ISREG(known.st_mode):
            raise OSError(errno.EINVAL, "")
        if not overwrite:
            raise OSError(errno.EEXIST, "")


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool, mode: int = 0o600) -> Iterator[int]:
    """A descriptor to write; the file takes its place when the block ends well.

    Args:
        path: Where the file is to stand.
        overwrite: Whether a file may stand there already.
        mode: The permissions of the new file.

    Raises:
        StorageError: The system refused. The old file still stands.
    """
    check_free(path, overwrite=overwrite)
    with system_errors("can't write", path):
        folder = os.open(path.parent, _FOLDER)
        try:
            name, fd = _create(folder, path.name, mode)
            try:
                yield fd
                os.fsync(fd)
                _publish(folder, name, path.name, overwrite=overwrite)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                raise
            finally:
                os.close(fd)
            os.fsync(folder)
        finally:
            os.close(folder)


def _create(folder: int, final: str, mode: int) -> tuple[str, int]:
    """A new file, locked for as long as it is open: see :func:`remove_leftovers`."""
    while True:
        name = f".{final}.{secrets.token_hex(8)}.sj-tmp"
        fd = os.open(name, _CREATE, mode, dir_fd=folder)
        with contextlib.suppress(OSError):  # not every network file system has locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return name, fd
        os.close(fd)  # another save took it for a leftover before it was locked


def _publish(folder: int, temporary: str, name: str, *, overwrite: bool) -> None:
    if not overwrite:
        # A hard link refuses what rename would replace: nobody else's file is lost.
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            os.unlink(temporary, dir_fd=folder)
            return
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def write_small(path: Path, data: bytes, *, overwrite: bool, mode: int = 0o600) -> None:
    """Writes a whole file that survives a crash.

    Raises:
        StorageError: The system refused.
    """
    with replacing(path, overwrite=overwrite, mode=mode) as fd:
        write_from(fd, 0, [data])


def remove_leftovers(folder: Path, name: str | None = None) -> int:
    """Removes what saves that were killed left behind; how many files.

    A save holds a lock on the file that it writes, and the system takes the lock away
    when its process ends, on this host or another: who gets the lock has found a
    leftover.

    Args:
        folder: Where to look.
        name: The file whose leftovers to remove; everyone's if absent.
    """
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found is not None and name in (None, found["name"]):
                with contextlib.suppress(OSError):
                    removed += _remove_if_abandoned(Path(entry.path))
    return removed


def _remove_if_abandoned(path: Path) -> bool:
    fd = os.open(path, _READ)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(fd)
    return True
