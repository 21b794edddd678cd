"""``signed_save``: a tree into one signed file, or a folder with many of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from safejax._files import check_free, remove_leftovers
from safejax.checkpoint._directory import prune
from safejax.checkpoint._pending import PendingSave, raise_unreported
from safejax.checkpoint._read import Progress
from safejax.checkpoint._save_shards import save_shards
from safejax.checkpoint._snapshot import Snapshot, take_snapshot
from safejax.checkpoint._write import write_checkpoint
from safejax.keys import KeyRing, check_ring
from safejax.limits import check_count
from safejax.signing._origin import Origin, new_origin


def signed_save(  # noqa: PLR0913  each is a fact about the file
    path: str | os.PathLike[str],
    tree: Any,
    *,
    key: KeyRing,
    step: int | None = None,
    context: str = "",
    run_id: str = "",
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = True,
    keep: int | None = None,
    sharded: bool | None = None,
    timeout_s: float = 600.0,
    progress: Progress | None = None,
) -> None:
    """Saves a tree of arrays as one signed file, whole or not at all.

    The file is a safetensors file. It is written beside its place, flushed to the disk
    and renamed: a crash at any instant leaves the old file or the new one.

    Where several processes run (``jax.distributed``), all must call it, and ``path``
    becomes a folder: each process writes and signs what it holds, and the first one
    commits a signed list of all.

    Args:
        path: Where the file is to stand. Its folder must exist.
        tree: Any pytree of arrays, Python scalars and typed random keys, with str or
            int keys. An array must not be changed in place meanwhile: the file would
            not verify.
        key: Its primary key signs.
        step: The training step, which :func:`signed_load` can ask for.
        context: Which model this is: loading needs the same text.
        run_id: Which run this is, which loading can ask for.
        metadata: Plain data that is signed with it.
        overwrite: Whether a checkpoint at ``path`` may be replaced.
        keep: How many checkpoints of this context to leave in the folder of ``path``,
            the newest by step; older ones that verify are removed. None for all.
        sharded: Whether to make a folder; if None, where there are several processes.
        timeout_s: How long to wait for the other processes.
        progress: Called with the bytes written and to be written.

    Raises:
        FormatError: A leaf or a key can't be saved (``SJ507``).
        SigningKeyError: The ring can't sign.
        StorageError: The system refused, or another process failed; what stood at
            ``path`` still does.

    Example:
        >>> import tempfile, jax.numpy as jnp, safejax
        >>> path = tempfile.mkdtemp() + "/model.ckpt"
        >>> ring = safejax.KeyRing.generate()
        >>> safejax.signed_save(path, {"w": jnp.ones(3)}, key=ring, context="docs")
        >>> safejax.signed_load(path, key=ring, context="docs")
        {'w': Array([1., 1., 1.], dtype=float32)}
    """
    check_ring("signed_save", key)
    raise_unreported()
    place = Path(path)
    origin = new_origin(context, step, run_id, dict(metadata or {}))
    _check_keep(keep)
    if jax.process_count() > 1 if sharded is None else sharded:
        _ = key.primary
        save_shards(
            place,
            tree,
            origin,
            key,
            overwrite=overwrite,
            timeout_s=timeout_s,
            progress=progress,
        )
        if keep is not None and jax.process_index() == 0:
            prune(place, origin, key, keep)
        return
    snapshot = _prepare(place, tree, origin, key, overwrite=overwrite)
    _finish(place, snapshot, origin, key, overwrite, keep, progress)


def signed_save_async(  # noqa: PLR0913  as above
    path: str | os.PathLike[str],
    tree: Any,
    *,
    key: KeyRing,
    step: int | None = None,
    context: str = "",
    run_id: str = "",
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = True,
    keep: int | None = None,
    progress: Progress | None = None,
) -> PendingSave:
    """Like :func:`signed_save`, but goes on behind the program.

    The tree is taken as it is now: arrays may be donated and NumPy arrays changed once
    this has returned. For one process.

    Args:
        path: As for :func:`signed_save`, like everything else.
        tree: What to save.
        key: Its primary key signs.
        step: The training step.
        context: Which model this is.
        run_id: Which run this is.
        metadata: Plain data that is signed with it.
        overwrite: Whether a checkpoint at ``path`` may be replaced.
        keep: How many checkpoints to leave in the folder.
        progress: Called, in another thread, with the bytes written and to be written.

    Returns:
        The save, whose ``result()`` waits for it and raises its error. An error that is
        not asked for is raised by the next save.

    Raises:
        FormatError: A leaf or a key can't be saved (``SJ507``).
        SigningKeyError: The ring can't sign.
        StorageError: The place can't be written to.

    Example:
        >>> import tempfile, jax.numpy as jnp, safejax
        >>> path = tempfile.mkdtemp() + "/model.ckpt"
        >>> ring = safejax.KeyRing.generate()
        >>> safejax.signed_save_async(path, jnp.ones(3), key=ring).result()
        >>> safejax.signed_load(path, key=ring)
        Array([1., 1., 1.], dtype=float32)
    """
    check_ring("signed_save_async", key)
    raise_unreported()
    place = Path(path)
    origin = new_origin(context, step, run_id, dict(metadata or {}))
    _check_keep(keep)
    snapshot = _prepare(place, tree, origin, key, overwrite=overwrite)
    snapshot.detach()
    work = functools.partial(
        _finish, place, snapshot, origin, key, overwrite, keep, progress
    )
    return PendingSave(work, name=place.name)


def _check_keep(keep: int | None) -> None:
    if keep is not None:
        check_count("signed_save", "keep", keep, least=1)


def _prepare(
    place: Path, tree: Any, origin: Origin, key: KeyRing, *, overwrite: bool
) -> Snapshot:
    """Refuses what can be refused before anything is written."""
    check_free(place, overwrite=overwrite)
    _ = key.primary
    return take_snapshot(tree, origin, key.digest)


def _finish(
    place: Path,
    snapshot: Snapshot,
    origin: Origin,
    key: KeyRing,
    overwrite: bool,  # noqa: FBT001  by position for a partial
    keep: int | None,
    progress: Progress | None,
) -> None:
    remove_leftovers(place.parent, place.name)
    write_checkpoint(place, snapshot, key, overwrite=overwrite, progress=progress)
    if keep is not None:
        prune(place, origin, key, keep)


signed_save.__module__ = signed_save_async.__module__ = "safejax"
