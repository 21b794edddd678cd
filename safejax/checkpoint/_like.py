"""A tree in memory against a tree in a file: every difference, named by its path."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np

from safejax._file_errors import FormatError
from safejax.checkpoint._leaves import Leaf, is_scalar, key_impl, leaf_of
from safejax.checkpoint._place import Target
from safejax.checkpoint._tree import Flat, flatten

_SHOWN: Final = 20
_WILD: Final = {"**/": "(?:[^/]*/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclasses.dataclass(frozen=True, slots=True)
class Like:
    """A tree to be filled.

    Attributes:
        flat: Its leaves and their names.
        treedef: Its classes.
    """

    flat: Flat
    treedef: Any

    def rebuild(self, made: Mapping[str, Any]) -> Any:
        """The tree with these leaves; the others stay what they are in ``like``."""
        names, given = self.flat.names, self.flat.leaves
        leaves = [made.get(name, old) for name, old in zip(names, given, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)


def read_like(tree: Any) -> Like:
    """Takes ``like`` apart.

    Raises:
        FormatError: It has a leaf that no file can have (``SJ507``).
    """
    return Like(flatten(tree), jax.tree.structure(tree))


def compare(
    like: Like, leaves: Mapping[str, Leaf], chosen: Collection[str] | None
) -> dict[str, Target]:
    """What each leaf of the file is to become.

    Args:
        like: The tree to be filled.
        leaves: What is in the file.
        chosen: The leaves to load, or None for all.

    Raises:
        FormatError: The trees differ; lists every difference (``SJ506``).
    """
    wanted = dict(zip(like.flat.names, like.flat.leaves, strict=True))
    if chosen is not None:
        wanted = {name: leaf for name, leaf in wanted.items() if name in chosen}
    differences: list[tuple[str, str]] = []
    targets: dict[str, Target] = {}
    for name, value in wanted.items():
        if name not in leaves:
            differences.append((name, "missing in the file"))
            continue
        fault = _fault(leaf_of(value, name), leaves[name])
        if fault:
            differences.append((name, fault))
        targets[name] = _target(value)
    present = leaves.keys() if chosen is None else set(chosen)
    extra = sorted(present - wanted.keys())
    differences += [(name, "in the file, but not in like") for name in extra]
    if differences:
        raise _differ(differences)
    return targets


def _fault(like: Leaf, found: Leaf) -> str:
    same = (like.dtype, key_impl(like.kind)) == (found.dtype, key_impl(found.kind))
    if not same and not _scalar_fits(like, found):
        return f"dtype: like has {like.describe()}, the file {found.describe()}"
    if like.shape != found.shape:
        return f"shape: like has {like.describe()}, the file {found.describe()}"
    return ""


def _scalar_fits(like: Leaf, found: Leaf) -> bool:
    """Whether a Python scalar takes what an array of the same kind holds."""
    kinds = {"bool": "b", "int": "iu", "float": "f", "complex": "c"}
    if not is_scalar(like.kind) or key_impl(found.kind):
        return False
    return np.dtype(found.dtype).kind in kinds[like.kind]


def _target(value: Any) -> Target:
    if isinstance(value, np.generic):
        return "generic", None
    if isinstance(value, np.ndarray):
        return "numpy", None
    if isinstance(value, jax.ShapeDtypeStruct):
        return "jax", value.sharding
    if isinstance(value, jax.Array):
        return "jax", value.sharding if value.committed else None
    return "python", None


def _differ(differences: Sequence[tuple[str, str]]) -> FormatError:
    def text() -> str:
        count = len(differences)
        lines = [f"  {name}  {what}" for name, what in differences[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"  and {count - _SHOWN} more, in details['differences']")
        words = "1 difference" if count == 1 else f"{count} differences"
        return "\n".join(
            [f"the tree of the file is not that of like=: {words}", *lines]
        )

    return FormatError(
        text,
        code="SJ506",
        details=lambda: {
            "differences": [{"path": name, "what": what} for name, what in differences]
        },
        hint="load without like= to see the tree of the file",
    )


def select(names: Collection[str], patterns: str | Sequence[str]) -> list[str]:
    """The names that a pattern matches.

    ``*`` is one key or a part of one, ``**`` any number of keys, also none.

    Raises:
        FormatError: No name matches (``SJ506``).
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    whole = re.compile("|".join(map(_regex, given)) or "(?!)")
    found = [name for name in names if whole.fullmatch(name)]
    if not found:
        raise FormatError(
            f"nothing in the file matches select={given!r}",
            code="SJ506",
            hint="`safejax inspect` lists the names",
        )
    return found


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(_WILD.get(part) or re.escape(part) for part in parts)
