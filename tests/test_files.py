"""Files: opened without following links, read with a cap, replaced whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

import pytest

from safejax import _files
from safejax._file_errors import StorageError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "missing", "socket"])
def test_only_a_regular_file_is_opened(tmp_path: Path, kind: str):
    path = tmp_path / "x"
    if kind == "link":
        (tmp_path / "real").write_bytes(b"x")
        path.symlink_to(tmp_path / "real")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, 0o600 | 0o140000)

    with pytest.raises(StorageError) as caught, _files.open_to_read(path):
        pass
    assert caught.value.errno
    assert isinstance(caught.value, OSError)


def test_small_file_has_a_cap(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")

    assert _files.read_small(path, 5)[0] == b"12345"
    with pytest.raises(StorageError):
        _files.read_small(path, 4)


def test_short_reads_and_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read, write = os.preadv, os.pwritev
    monkeypatch.setattr(
        os, "preadv", lambda fd, b, at: read(fd, [memoryview(b[0])[:3]], at)
    )
    monkeypatch.setattr(
        os, "pwritev", lambda fd, b, at: write(fd, [memoryview(b[0])[:3]], at)
    )
    path = tmp_path / "x"
    with _files.replacing(path, overwrite=False) as fd:
        _files.write_from(fd, 0, [b"hello ", b"", b"world"])
    with _files.open_to_read(path) as (fd, _):
        buffers = [memoryview(bytearray(4)), memoryview(bytearray(7))]
        assert _files.read_into(fd, 0, buffers)
        assert not _files.read_into(fd, 5, [memoryview(bytearray(7))])

    assert b"".join(buffers) == path.read_bytes() == b"hello world"


def test_new_file_replaces_the_old_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    stack = contextlib.ExitStack()
    fd = stack.enter_context(_files.replacing(path, overwrite=True))
    _files.write_from(fd, 0, [b"new"])
    stack.push(lambda *_: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        stack.close()

    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"x"}
    _files.write_small(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"


def test_file_is_not_replaced_where_that_is_not_wanted(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(StorageError) as caught:
        _files.write_small(path, b"new", overwrite=False)

    assert caught.value.errno == errno.EEXIST
    assert path.read_bytes() == b"old"


def test_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path):
    path = tmp_path / "x"
    stack = contextlib.ExitStack()
    fd = stack.enter_context(_files.replacing(path, overwrite=False))
    _files.write_from(fd, 0, [b"new"])
    path.write_bytes(b"other")
    with pytest.raises(StorageError) as caught:
        stack.close()

    assert caught.value.errno == errno.EEXIST
    assert path.read_bytes() == b"other"
    assert names(tmp_path) == {"x"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, "")

    monkeypatch.setattr(os, "link", refuse)
    _files.write_small(tmp_path / "x", b"new", overwrite=False)

    assert (tmp_path / "x").read_bytes() == b"new"
    assert names(tmp_path) == {"x"}


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_place_that_is_no_file_is_refused(tmp_path: Path, kind: str):
    path = tmp_path / "x"
    if kind == "link":
        (tmp_path / "real").write_bytes(b"precious")
        path.symlink_to(tmp_path / "real")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)

    with pytest.raises(StorageError):
        _files.write_small(path, b"new", overwrite=True)
    if kind == "link":
        assert (tmp_path / "real").read_bytes() == b"precious"


def test_leftovers_are_removed_and_files_being_written_are_not(tmp_path: Path):
    left = tmp_path / ".x.0123456789abcdef.sj-tmp"
    other = tmp_path / ".y.0123456789abcdef.sj-tmp"
    mine = tmp_path / ".x.notours"
    for path in (left, other, mine):
        path.write_bytes(b"")
    with _files.replacing(tmp_path / "x", overwrite=True) as fd:
        assert _files.remove_leftovers(tmp_path, "x") == 1
        _files.write_from(fd, 0, [b"whole"])

    assert names(tmp_path) == {"x", other.name, mine.name}
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert _files.remove_leftovers(tmp_path) == 1


def test_temporary_file_taken_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A cleaner may come between the opening and the locking."""
    lock, turns = fcntl.flock, []

    def race(fd: int, how: int) -> None:
        if how == fcntl.LOCK_EX and not turns:
            turns.append(1)
            _files.remove_leftovers(tmp_path)
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", race)
    _files.write_small(tmp_path / "x", b"whole", overwrite=True)

    assert turns
    assert names(tmp_path) == {"x"}


def test_new_files_are_private(tmp_path: Path):
    _files.write_small(tmp_path / "x", b"", overwrite=True)

    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
