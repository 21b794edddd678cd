"""The checkpoints in a folder: which is the newest that verifies, and which may go."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from safejax._file_errors import FormatError, SignatureError, StorageError
from safejax.checkpoint._root import is_folder_checkpoint
from safejax.checkpoint._verify import origin_of, verify_path
from safejax.errors import SafeJaxError
from safejax.keys import KeyRing, check_ring
from safejax.limits import LoadLimits
from safejax.signing._origin import Origin

_DAMAGED = (SignatureError, FormatError, StorageError)


def latest(
    directory: str | os.PathLike[str],
    *,
    key: KeyRing,
    context: str = "",
    pattern: str = "*",
    on_damaged: Literal["warn", "raise"] = "warn",
    limits: LoadLimits | None = None,
) -> Path:
    """The newest checkpoint in a folder that verifies, by step and then by time.

    All of its data is checked. Whoever may delete files in the folder can make an older
    one the newest: give :func:`signed_load` a ``min_step`` where you know one.

    Args:
        directory: Where to look; not in the folders in it.
        key: The keys that may have signed.
        context: Which model's checkpoints to look at.
        pattern: Which names, as in ``"*.ckpt"``. Names with a dot first never count.
        on_damaged: Whether to warn of a file that does not verify and look further, or
            to raise its error.
        limits: How large the files may be.

    Returns:
        The path of the checkpoint.

    Raises:
        StorageError: There is none, or the folder can't be read.
        SignatureError: A file does not verify, with ``on_damaged="raise"``.

    Example:
        >>> import tempfile, jax.numpy as jnp, safejax
        >>> folder, ring = tempfile.mkdtemp(), safejax.KeyRing.generate()
        >>> for step in (9, 10):
        ...     path = f"{folder}/{step}.ckpt"
        ...     safejax.signed_save(path, jnp.ones(3), key=ring, step=step)
        >>> safejax.latest(folder, key=ring).name
        '10.ckpt'
    """
    check_ring("latest", key)
    if on_damaged not in ("warn", "raise"):
        raise ValueError("latest(on_damaged=...) must be 'warn' or 'raise'")
    folder, within = Path(directory), limits or LoadLimits()
    found: list[tuple[int, int, Path]] = []
    for path in _candidates(folder, pattern):
        try:
            origin = origin_of(path, key, within)
        except _DAMAGED as error:
            _report(path, error, on_damaged)
            continue
        if origin.context == context:
            found.append((*_age(origin), path))
    for *_, path in sorted(found, reverse=True):
        try:
            verify_path(path, key, within)
        except _DAMAGED as error:
            _report(path, error, on_damaged)
            continue
        return path
    raise StorageError(
        f"no checkpoint of context {context!r} in {folder} verifies",
        details={"errno": errno.ENOENT, "path": str(folder), "context": context},
    )


def _age(origin: Origin) -> tuple[int, int]:
    return (-1 if origin.step is None else origin.step), origin.created


def _report(path: Path, error: SafeJaxError, on_damaged: str) -> None:
    if on_damaged == "raise":
        error.add_note(f"in {path}")
        raise error
    warnings.warn(f"skipped {path}: {error.message}", RuntimeWarning, stacklevel=3)


def _candidates(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        paths = sorted(folder.glob(pattern))
        if not paths and not folder.is_dir():
            raise NotADirectoryError(20, "")
    except OSError as error:
        raise StorageError(
            f"can't list {folder}", details={"errno": error.errno}
        ) from error
    for path in paths:
        hidden = path.name.startswith(".") or path.is_symlink()
        if not hidden and (path.is_file() or is_folder_checkpoint(path)):
            yield path


def prune(newest: Path, origin: Origin, key: KeyRing, keep: int) -> None:
    """Removes older checkpoints of a context, beside the newest.

    Only what verifies and is of the context is removed: everything else is not ours.
    """
    older: list[tuple[int, int, Path]] = []
    for path in _candidates(newest.parent, "*"):
        if path.name == newest.name:
            continue
        try:
            found = origin_of(path, key, LoadLimits())
        except _DAMAGED:
            continue
        if found.context == origin.context and _age(found) <= _age(origin):
            older.append((*_age(found), path))
    for *_, path in sorted(older, reverse=True)[keep - 1 :]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


latest.__module__ = "safejax"
