"""Who may put something into a folder: what its permissions and its parents say."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A folder that programs are loaded from, as it stands.

    Attributes:
        path: As it was given.
        kind: What is there. A ``"url"`` is on another machine.
        mode: Its permissions.
        is_ours: Whether this user or root owns it.
        weak: Which of its parents others may change, so that they could put another
            folder in its place.
    """

    path: str
    kind: str
    mode: int = 0
    is_ours: bool = True
    weak: tuple[str, ...] = ()


def look_at(path: str) -> Folder:
    """The folder at a path, of which nothing is followed or opened."""
    if "://" in path:
        return Folder(path=path, kind="url")
    place = Path(os.path.abspath(path))  # noqa: PTH100  resolve() follows links
    weak = tuple(str(parent) for parent in place.parents if _others_may_change(parent))
    try:
        known = place.lstat()
    except OSError:
        return Folder(path=path, kind="absent", weak=weak)
    kinds = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}
    return Folder(
        path=path,
        kind=kinds.get(stat.S_IFMT(known.st_mode), "other"),
        mode=known.st_mode & 0o7777,
        is_ours=known.st_uid in (0, os.geteuid()),
        weak=weak,
    )


def _others_may_change(parent: Path) -> bool:
    try:
        known = parent.lstat()
    except OSError:
        return False
    if known.st_uid not in (0, os.geteuid()):
        return True
    # In a sticky folder such as /tmp, others may add but not take the place of ours.
    return bool(known.st_mode & stat.S_IWOTH) and not known.st_mode & stat.S_ISVTX
