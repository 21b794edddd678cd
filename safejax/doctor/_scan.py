"""Looking through folders: bounded, no link followed, no file loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from safejax._file_errors import SigningKeyError, StorageError
from safejax._files import open_to_read
from safejax._secret import Secret, read_lines
from safejax.doctor._sniff import what_runs_code

_MAX_KEY_FILE: Final = 64 << 10


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScanLimits:
    """How far to look: what a folder holds is not all ours."""

    max_files: int = 100_000
    max_depth: int = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A file worth a word.

    Attributes:
        path: The file.
        runs_code: What in it runs code when it is loaded; empty for a key file.
        mode: Its permissions.
    """

    path: str
    runs_code: str
    mode: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What was found below some paths.

    Attributes:
        files: How many files were looked at.
        unreadable: How many could not be opened.
        complete: Whether everything was looked at.
        seen: What is worth a word.
    """

    files: int = 0
    unreadable: int = 0
    complete: bool = True
    seen: tuple[Seen, ...] = ()


def scan(paths: Sequence[Path], limits: ScanLimits | None = None) -> Scan:
    """Looks at files, and at all files below folders."""
    limits = limits or ScanLimits()
    seen: list[Seen] = []
    files = unreadable = 0
    complete = True
    for path in _below(paths, limits.max_depth):
        if path is None or files >= limits.max_files:
            complete = False
            if path is None:
                continue
            break
        files += 1
        try:
            found = _looked_at(path)
        except (StorageError, OSError):
            unreadable += 1
        else:
            seen += [found] if found is not None else []
    return Scan(files=files, unreadable=unreadable, complete=complete, seen=tuple(seen))


def _below(paths: Sequence[Path], max_depth: int) -> Iterator[Path | None]:
    """Regular files; ``None`` for each folder that is too deep."""
    for top in paths:
        if not top.is_dir():
            yield top
            continue
        for folder, inner, names in os.walk(top):
            if len(Path(folder).relative_to(top).parts) >= max_depth:
                yield from (None for _ in inner)
                inner.clear()
            inner.sort()
            for name in sorted(names):
                path = Path(folder) / name
                # Links, sockets and devices are not opened at all.
                if path.is_file() and not path.is_symlink():
                    yield path


def _looked_at(path: Path) -> Seen | None:
    with open_to_read(path) as (fd, known), open(fd, "rb", closefd=False) as file:
        mode = known.st_mode & 0o7777
        runs_code = what_runs_code(file, known.st_size, path.name)
        if runs_code:
            return Seen(str(path), runs_code, mode)
        if known.st_size > _MAX_KEY_FILE:
            return None
        file.seek(0)
        has_key = _is_key_file(Secret(file.read(_MAX_KEY_FILE)), path.name)
        return Seen(str(path), "", mode) if has_key else None


def _is_key_file(text: Secret, name: str) -> bool:
    try:
        lines = list(read_lines(text, name))
    except SigningKeyError:
        return False
    # A hexadecimal number alone may be any digest.
    return any(line.secret and (line.id or "key" in name.lower()) for line in lines)
