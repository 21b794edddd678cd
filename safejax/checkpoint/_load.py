"""``signed_load``: a signed file, verified, into a tree."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safejax._files import open_to_read
from safejax.checkpoint._like import Like, compare, read_like, select
from safejax.checkpoint._load_shards import load_shards
from safejax.checkpoint._manifest import PURPOSE, Content, read_content
from safejax.checkpoint._memory import plan
from safejax.checkpoint._place import Target, check_widths, own_target, place
from safejax.checkpoint._read import Progress, Reader
from safejax.checkpoint._root import is_folder_checkpoint, read_root
from safejax.checkpoint._tree import build
from safejax.keys import KeyRing, check_ring
from safejax.limits import LoadLimits
from safejax.signing._data import DEFAULTS, load_data
from safejax.signing._data import PURPOSE as DATA
from safejax.signing._origin import Wanted
from safejax.signing._seal import purpose_of, read_unverified, verify_header


def load_file(
    path: Path,
    ring: KeyRing,
    wanted: Wanted,
    *,
    like: Any,
    chosen: str | Sequence[str] | None,
    limits: LoadLimits | None,
    progress: Progress | None,
    data_too: bool,
) -> Any:
    """Loads one file; see :func:`signed_load`."""
    within = limits or LoadLimits()
    template = read_like(like) if like is not None else None
    if is_folder_checkpoint(path):
        root = read_root(path, ring, within)
        content = root.content
        wanted.check(content.origin)
        targets = _targets(content, template, chosen)
        made = load_shards(path, root, ring, targets, within, progress)
        return _tree(content, template, made)
    with open_to_read(path) as (fd, known):
        raw = read_unverified(fd, known, within)
        if data_too and purpose_of(raw) == DATA:  # its signature is then checked for it
            return load_data(path, ring, wanted, limits or DEFAULTS)
        signed = verify_header(raw, known.st_size, ring, PURPOSE, within)
        content = read_content(signed.header, within)
        wanted.check(content.origin)
        targets = _targets(content, template, chosen)
        tensors = {n: t for n, t in signed.header.tensors.items() if n in targets}
        memory = plan(tensors)
        Reader(
            path, fd, signed.data_at, signed.header, memory.segments, progress
        ).read()
    made = place(memory, content.leaves, targets)
    return _tree(content, template, made)


def _targets(
    content: Content, template: Like | None, chosen: str | Sequence[str] | None
) -> dict[str, Target]:
    """What each leaf that is asked for becomes."""
    names = None if chosen is None else select(content.names, chosen)
    if template is not None:
        targets = compare(template, content.leaves, names)
    else:
        wanted = content.leaves if names is None else names
        own = {leaf: own_target(leaf) for leaf in set(content.leaves.values())}
        targets = {name: own[content.leaves[name]] for name in wanted}
    check_widths(content.leaves, targets)
    return targets


def _tree(content: Content, template: Like | None, made: Mapping[str, Any]) -> Any:
    """The tree; without ``like``, None stands where a leaf was not asked for."""
    if template is not None:
        return template.rebuild(made)
    return build(content.structure, iter([made.get(name) for name in content.names]))


def signed_load(  # noqa: PLR0913  each is a question about the file
    path: str | os.PathLike[str],
    *,
    key: KeyRing,
    like: Any = None,
    context: str = "",
    min_step: int | None = None,
    max_age_s: float | None = None,
    expect_run_id: str | None = None,
    select: str | Sequence[str] | None = None,
    kind: Literal["checkpoint", "data"] | None = None,
    limits: LoadLimits | None = None,
    progress: Progress | None = None,
) -> Any:
    """Loads what :func:`signed_save` or :func:`signed_dump` has saved, once verified.

    Nothing is parsed before the signature has been checked, and no array is made of
    bytes that were not.

    Args:
        path: The file, or the folder of a checkpoint of many processes.
        key: The keys that may have signed it. The digest is the ring's, not the file's.
        like: A tree of arrays or ``jax.ShapeDtypeStruct`` whose classes, dtypes, shapes
            and shardings the result has. Without it one gets dicts, lists and tuples.
        context: The text that the file must have been saved with.
        min_step: The least step it may be of.
        max_age_s: How old it may be, in seconds.
        expect_run_id: The run it must be of.
        select: One pattern or several, such as ``"encoder/**"``: only these leaves are
            read and verified. The others stay as in ``like``, or are None.
        kind: Which of the two it must be. None takes either, and a checkpoint where
            ``like`` or ``select`` is given.
        limits: How large the file may be.
        progress: Called with the bytes read and to be read.

    Returns:
        The tree, or the data.

    Raises:
        SignatureError: The file was changed, or not signed by a key of the ring.
        RollbackError: It is genuine, but not the one asked for.
        FormatError: It is no signed file, or not one that the limits or the ring
            admit; or its tree is not that of ``like``, with every difference.
        StorageError: It can't be read.

    Example:
        >>> import tempfile, jax.numpy as jnp, safejax
        >>> path = tempfile.mkdtemp() + "/model.ckpt"
        >>> ring = safejax.KeyRing.generate()
        >>> safejax.signed_save(path, {"w": jnp.ones(3)}, key=ring, step=900)
        >>> try:
        ...     safejax.signed_load(path, key=ring, min_step=1000)
        ... except safejax.RollbackError as error:
        ...     error.details["got"]
        900
    """
    check_ring("signed_load", key)
    wanted = Wanted(
        context=context,
        min_step=min_step,
        max_age_s=max_age_s,
        expect_run_id=expect_run_id,
    )
    if kind not in (None, "checkpoint", "data"):
        raise ValueError("signed_load(kind=...) must be 'checkpoint' or 'data'")
    place = Path(path)
    if kind == "data":
        return load_data(place, key, wanted, limits or DEFAULTS)
    return load_file(
        place,
        key,
        wanted,
        like=like,
        chosen=select,
        limits=limits,
        progress=progress,
        data_too=kind is None and like is None and select is None,
    )


signed_load.__module__ = "safejax"
