"""Verified bytes become the leaves of the tree: in place where JAX can use them so.

``jax.device_put`` takes over memory that is aligned; nothing else holds it by then, and
the views are read-only. It costs 30 µs a leaf, though: many small leaves of one shape
go through a compiled identity, 64 at a time, which takes 6 µs each.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np

from safejax._file_errors import FormatError
from safejax.checkpoint._dtypes import DTYPES, from_bytes, is_packed
from safejax.checkpoint._leaves import Leaf, from_numpy, is_scalar, key_impl
from safejax.checkpoint._memory import Memory, Segment

_GROUP: Final = 64
_BATCH: Final = 8 * _GROUP  # an index of their bytes takes 16 MiB at most
_SMALL: Final = 4096
_HUGE: Final = 2 << 20

# What JAX narrows unless jax_enable_x64 is set.
_WIDE: Final = ("float64", "int64", "uint64", "complex128")

_identity: Callable[..., tuple[Any, ...]] = jax.jit(lambda *leaves: leaves)

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
    single: list[str] = []
    alike: dict[tuple[Segment, Leaf], list[str]] = collections.defaultdict(list)
    for name, home in memory.home.items():
        kind, where = targets[name]
        if kind != "jax":
            made[name] = _on_host(memory.stored(name), leaves[name], kind)
        elif where is None:
            alike[home, leaves[name]].append(name)
        else:
            single.append(name)
    for (home, leaf), names in alike.items():
        small = 0 < leaf.stored < _SMALL and not is_packed(leaf.dtype)
        count = len(names) - len(names) % _GROUP if small else 0
        made.update(_put_alike(memory, home, leaf, names[:count]))
        single.extend(names[count:])
    made.update(_put(single, memory, leaves, targets))
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


def _put_alike(
    memory: Memory, home: Segment, leaf: Leaf, names: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """Small leaves of one dtype and shape: their bytes are collected first."""
    for i in range(0, len(names), _BATCH):
        batch = names[i : i + _BATCH]
        starts = np.array([memory.tensors[name].start for name in batch]) - home.start
        rows = home.array[np.add.outer(starts, np.arange(leaf.stored))]
        values = from_bytes(rows.reshape(-1), leaf.dtype, (len(batch), *leaf.shape))
        views = [values[j, ...] for j in range(len(batch))]
        for j in range(0, len(batch), _GROUP):
            put = _identity(*views[j : j + _GROUP])
            yield from zip(batch[j : j + _GROUP], put, strict=True)


def _put(
    names: Sequence[str],
    memory: Memory,
    leaves: Mapping[str, Leaf],
    targets: Mapping[str, Target],
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    free = [name for name in names if targets[name][1] is None]
    bound = [name for name in names if targets[name][1] is not None]
    for group, places in ((free, None), (bound, [targets[name][1] for name in bound])):
        views = []
        for name in group:
            leaf = leaves[name]
            view = from_bytes(memory.stored(name), leaf.dtype, leaf.shape)
            view.flags.writeable = False
            views.append(view)
        made.update(zip(group, jax.device_put(views, places), strict=True))
    return made


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
