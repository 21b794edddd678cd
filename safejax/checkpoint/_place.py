"""Verified bytes become the leaves of the tree: in place where JAX can use them so.

JAX takes over memory that is aligned; nothing else holds it by then, and the views are
read-only.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np

from safejax._file_errors import FormatError
from safejax._jax import all_from_host
from safejax.checkpoint._dtypes import DTYPES, from_bytes, is_packed
from safejax.checkpoint._leaves import Leaf, from_numpy, is_scalar, key_impl
from safejax.checkpoint._memory import Memory, Segment

_SMALL: Final = 4096
_BATCH: Final = 512  # an index of their bytes takes 16 MiB at most
_HUGE: Final = 2 << 20

# What JAX narrows unless jax_enable_x64 is set.
_WIDE: Final = ("float64", "int64", "uint64", "complex128")

# What a leaf is to become: "jax", "numpy", "generic" (NumPy's scalars) or "python", and
# for JAX where to place it.
Target = tuple[str, Any]
_PYTHON: Final = ("python", None)
_NUMPY: Final = ("numpy", None)
_JAX: Final = ("jax", None)


def own_target(leaf: Leaf) -> Target:
    """What a leaf becomes without ``like``: what it was when it was saved."""
    if is_scalar(leaf.kind):
        return _PYTHON
    return _NUMPY if leaf.kind == "numpy" else _JAX


def check_widths(leaves: Mapping[str, Leaf], targets: Mapping[str, Target]) -> None:
    """Refuses dtypes that JAX would narrow without a word.

    Raises:
        FormatError: ``jax_enable_x64`` is off, and a leaf needs it (``SJ506``).
    """
    wide = {leaf for leaf in set(leaves.values()) if leaf.dtype in _WIDE}
    for name, (kind, _) in targets.items() if wide else ():
        leaf = leaves[name]
        if kind != "jax" or leaf not in wide:
            continue
        canonical = jax.dtypes.canonicalize_dtype(DTYPES[leaf.dtype])
        if canonical != DTYPES[leaf.dtype]:
            raise FormatError(
                f"{name} is {leaf.describe()}, which JAX would narrow to "
                f"{canonical.name}",
                code="SJ506",
                details={"path": name, "dtype": leaf.dtype},
                hint="set jax_enable_x64, or pass a NumPy array for it in like=",
            )


def place(
    memory: Memory, leaves: Mapping[str, Leaf], targets: Mapping[str, Target]
) -> dict[str, Any]:
    """Makes the leaves.

    Args:
        memory: Their verified bytes. Nobody else may hold them.
        leaves: What each is.
        targets: What each is to become.
    """
    made: dict[str, Any] = {}
    free: list[str] = []
    bound: list[str] = []
    for name in memory.home:
        kind, where = targets[name]
        if kind != "jax":
            made[name] = _on_host(memory.stored(name), leaves[name], kind)
        else:
            (free if where is None else bound).append(name)
    here = _views(memory, leaves, free)
    made.update(zip(here, all_from_host(list(here.values())), strict=True))
    there = _views(memory, leaves, bound)
    places = {name: targets[name][1] for name in there}
    made.update(jax.device_put(there, places) if there else {})
    impls = {leaf for leaf in set(leaves.values()) if key_impl(leaf.kind)}
    for name in memory.home if impls else ():
        if leaves[name] in impls:
            made[name] = as_keys(made[name], leaves[name], targets[name])
    return made


def _on_host(stored: np.ndarray[Any, Any], leaf: Leaf, kind: str) -> Any:
    view = from_bytes(stored, leaf.dtype, leaf.shape)
    if kind == "python":
        return from_numpy(view, leaf.kind)
    if kind == "generic":
        return view[()]
    # Small leaves share memory with others: theirs must be out of reach.
    return view if stored.size >= _HUGE else view.copy()


def _views(
    memory: Memory, leaves: Mapping[str, Leaf], names: Sequence[str]
) -> dict[str, np.ndarray[Any, Any]]:
    """The leaves, where they were read to. Nobody can write to them any more."""
    alike: dict[tuple[Segment, Leaf], list[str]] = collections.defaultdict(list)
    for name in names:
        alike[memory.home[name], leaves[name]].append(name)
    views: dict[str, np.ndarray[Any, Any]] = {}
    for (home, leaf), some in alike.items():
        if len(some) > 1 and 0 < leaf.stored < _SMALL and not is_packed(leaf.dtype):
            views.update(_gathered(memory, home, leaf, some))
            continue
        for name in some:
            view = from_bytes(memory.stored(name), leaf.dtype, leaf.shape)
            view.flags.writeable = False
            views[name] = view
    return views


def _gathered(
    memory: Memory, home: Segment, leaf: Leaf, names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Small leaves of one dtype and shape, side by side: one view for many."""
    for i in range(0, len(names), _BATCH):
        batch = names[i : i + _BATCH]
        starts = np.array([memory.tensors[name].start for name in batch]) - home.start
        rows = home.array[np.add.outer(starts, np.arange(leaf.stored))]
        values = from_bytes(rows.reshape(-1), leaf.dtype, (len(batch), *leaf.shape))
        values.flags.writeable = False
        yield from ((name, values[j, ...]) for j, name in enumerate(batch))


def place_array(array: np.ndarray[Any, Any], leaf: Leaf, target: Target) -> Any:
    """Makes one leaf of an array that nobody else holds."""
    kind, where = target
    if kind == "python":
        return from_numpy(array, leaf.kind)
    if kind == "generic":
        return array[()]
    if kind == "numpy":
        return array
    array.flags.writeable = False
    return as_keys(jax.device_put(array, where), leaf, target)


def as_keys(value: Any, leaf: Leaf, target: Target) -> Any:
    """Random keys of their data, where the leaf is some."""
    impl = key_impl(leaf.kind)
    if not impl or target[0] != "jax":
        return value
    try:
        return jax.random.wrap_key_data(value, impl=impl)
    except (ValueError, TypeError):
        raise FormatError(
            f"no random keys of the algorithm {impl!r} here, or not with this data"
        ) from None
