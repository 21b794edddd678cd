"""Trees as data: what a file keeps of their structure, and trees made of it again.

A container is kept as a dict, a list or a tuple, whatever its class was; ``like`` gives
the classes back. Each leaf has a name made of the keys that lead to it, as in
``encoder/layers/0/w``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import jax
import numpy as np

from safejax._file_errors import FormatError

ROOT: Final = "."  # the name of a tree that is one leaf
_RESERVED: Final = "__metadata__"  # safetensors' own
_LEAVES: Final = (
    jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct, bool, int, float, complex
)  # fmt: skip
_DEPTH_IN_MEMORY: Final = 400  # Python's own limit on recursion is 1000


@dataclasses.dataclass(slots=True)
class Flat:
    """A tree taken apart.

    Attributes:
        structure: Plain data: 0 is a leaf, None is None, and a container is a dict with
            one entry, whose key says which: dict, ints (a dict with integer keys), list
            or tuple.
        names: The name of each leaf, in the order of ``jax.tree.leaves``.
        leaves: The leaves.
    """

    structure: Any
    names: list[str]
    leaves: list[Any]


def flatten(tree: Any) -> Flat:
    """Takes a tree apart.

    Raises:
        FormatError: A leaf or a key is of a kind that can't be saved (``SJ507``).
    """
    flat = Flat(None, [], [])
    flat.structure = _describe(tree, "", flat, 0)
    if len(set(flat.names)) != len(flat.names):
        raise FormatError("two leaves of the tree have the same path", code="SJ507")
    try:
        "".join(flat.names).encode()
    except UnicodeEncodeError:
        raise FormatError(
            "can't save the tree: a key of it is no Unicode text", code="SJ507"
        ) from None
    return flat


def _describe(node: Any, prefix: str, flat: Flat, depth: int) -> Any:
    if isinstance(node, _LEAVES):
        name = prefix[:-1] if prefix else ROOT
        flat.names.append(f"~2{name}" if name == _RESERVED else name)
        flat.leaves.append(node)
        return 0
    if node is None:
        return None
    if depth > _DEPTH_IN_MEMORY:
        raise FormatError("the tree is nested too deep", code="SJ507")
    kind, keys, children = _open(node, prefix)
    if kind == "dict":
        return {
            "dict": {
                key: _describe(child, f"{prefix}{_escape(key)}/", flat, depth + 1)
                for key, child in zip(keys, children, strict=True)
            }
        }
    below = [
        _describe(child, f"{prefix}{key}/", flat, depth + 1)
        for key, child in zip(keys, children, strict=True)
    ]
    if kind == "ints":
        return {"ints": [list(pair) for pair in zip(keys, below, strict=True)]}
    return {kind: below}


def _escape(key: str) -> str:
    if "~" in key or "/" in key:
        return key.replace("~", "~0").replace("/", "~1")
    return key


def _open(node: Any, prefix: str) -> tuple[str, Sequence[Any], Sequence[Any]]:
    """The kind of a container, the keys and the children, in JAX's order."""
    kind = type(node)
    if kind is list or kind is tuple:
        return kind.__name__, range(len(node)), node
    if kind is dict:
        what = _key_kind(list(node), prefix)
        keys = sorted(node)
        return what, keys, [node[key] for key in keys]
    pairs, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node
    )
    if len(pairs) == 1 and not pairs[0][0]:
        raise FormatError(
            f"can't save {prefix[:-1] or ROOT}: {kind.__module__}.{kind.__qualname__} "
            "is no array, scalar or container",
            code="SJ507",
            details={"path": prefix[:-1] or ROOT},
            hint="save arrays only, as with eqx.filter(tree, eqx.is_array)",
        )
    keys = [_key(path[0]) for path, _ in pairs]
    children = [child for _, child in pairs]
    if any(key is None for key in keys):
        return "tuple", range(len(children)), children
    return _key_kind(keys, prefix), keys, children


def _key(entry: Any) -> Any:
    """The key of an entry of JAX's paths; None where it has only a position."""
    if isinstance(entry, jax.tree_util.GetAttrKey):
        return entry.name
    return entry.key if isinstance(entry, jax.tree_util.DictKey) else None


def _key_kind(keys: Sequence[Any], prefix: str) -> str:
    if all(isinstance(key, str) for key in keys):
        return "dict"
    if all(type(key) is int for key in keys):
        return "ints"
    found = ", ".join(sorted({type(key).__name__ for key in keys}))
    raise FormatError(
        f"can't save {prefix[:-1] or ROOT}: its keys must be all str or all int, "
        f"got {found}",
        code="SJ507",
        details={"path": prefix[:-1] or ROOT},
    )


# --- from a file ------------------------------------------------------------------


def names_in(structure: Any, max_depth: int) -> list[str]:
    """The names of a structure's leaves, in order.

    Raises:
        FormatError: It is not a structure, or nested too deep.
    """
    names: list[str] = []
    _walk(structure, "", names, max_depth)
    return names


def _walk(node: Any, prefix: str, names: list[str], depth: int) -> None:
    if _is_leaf(node):
        name = prefix[:-1] if prefix else ROOT
        names.append(f"~2{name}" if name == _RESERVED else name)
    elif node is not None:
        if depth <= 0:
            raise FormatError("the tree is nested deeper than LoadLimits.max_depth")
        kind, pairs = _pairs(node)
        for key, child in pairs:
            part = _escape(key) if kind == "dict" else key
            if prefix and _is_leaf(child):  # most are: no call for them
                names.append(f"{prefix}{part}")
            else:
                _walk(child, f"{prefix}{part}/", names, depth - 1)


def _is_leaf(node: Any) -> bool:
    return type(node) is int and node == 0


def _pairs(node: Any) -> tuple[str, Iterable[tuple[Any, Any]]]:
    if type(node) is dict and len(node) == 1:
        ((kind, below),) = node.items()
        if kind == "dict" and type(below) is dict:
            return kind, below.items()
        if kind in ("list", "tuple") and type(below) is list:
            return kind, enumerate(below)
        if kind == "ints" and type(below) is list:
            whole = all(
                type(pair) is list and len(pair) == 2 and type(pair[0]) is int
                for pair in below
            )
            if whole and len({pair[0] for pair in below}) == len(below):
                return kind, [(key, child) for key, child in below]
    raise FormatError("the structure of the tree is malformed")


def build(structure: Any, leaves: Iterator[Any]) -> Any:
    """The tree of a structure that :func:`names_in` has accepted."""
    if structure == 0:
        return next(leaves)
    if structure is None:
        return None
    kind, pairs = _pairs(structure)
    if kind in ("dict", "ints"):
        return {
            key: next(leaves) if child == 0 else build(child, leaves)
            for key, child in pairs
        }
    below = [next(leaves) if child == 0 else build(child, leaves) for _, child in pairs]
    return below if kind == "list" else tuple(below)
