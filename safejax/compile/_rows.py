"""A signature in words: one row a leaf, for messages and advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from safejax._jax import Signature


class Row(NamedTuple):
    """One leaf of a signature in words: where it is, and what.

    Attributes:
        path: Where, as in ``params['w']``.
        shape: The shape, or ``None`` for a static argument.
        kind: The dtype, or the type of a static value.
        static: The hash of a static value, to compare with.
    """

    path: str
    shape: tuple[Any, ...] | None
    kind: str
    static: int = 0


class Outline(NamedTuple):
    """A signature without its static values, which histories must not keep alive.

    Attributes:
        treedefs: The structure of every argument that is not static.
        keywords: The names of those passed by keyword, which come last.
        statics: Type and hash of every static value.
        static_keywords: The names of those passed by keyword, which come last.
        avals: Shape, dtype and weak type of every array leaf.
    """

    treedefs: tuple[Any, ...]
    keywords: tuple[str, ...]
    statics: tuple[tuple[str, int], ...]
    static_keywords: tuple[str, ...]
    avals: tuple[Any, ...]


def outline(key: Signature) -> Outline:
    """What may be remembered of a signature."""
    arguments = key.arguments
    return Outline(
        key.treedefs,
        tuple(arguments.dynamic_arg_names),
        tuple((type(v).__name__, hash(v)) for v in arguments.static_args),
        tuple(arguments.static_arg_names),
        key.avals,
    )


def rows(
    seen: Outline, parameters: Sequence[str], static_argnums: Sequence[int]
) -> list[Row]:
    """A signature as rows for messages."""
    positional = len(seen.treedefs) - len(seen.keywords)
    total = positional + len(seen.statics) - len(seen.static_keywords)
    fixed = {n if n >= 0 else n + total for n in static_argnums} & set(range(total))
    names = [
        parameters[i] if i < len(parameters) else f"args[{i}]" for i in range(total)
    ]
    avals = iter(seen.avals)
    found: list[Row] = []
    dynamic = [n for i, n in enumerate(names) if i not in fixed]
    for name, treedef in zip([*dynamic, *seen.keywords], seen.treedefs, strict=False):
        leaves = [next(avals) for _ in range(treedef.num_leaves)]
        found += _named_leaves(name, treedef, leaves)
    static = [n for i, n in enumerate(names) if i in fixed]
    found += [
        Row(name, None, kind, hashed)
        for name, (kind, hashed) in zip(
            [*static, *seen.static_keywords], seen.statics, strict=False
        )
    ]
    return found


def _named_leaves(name: str, treedef: Any, avals: list[Any]) -> list[Row]:
    try:
        tree = jax.tree.unflatten(treedef, range(len(avals)))
        paths = [p for p, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    except Exception:  # noqa: BLE001  a custom node may refuse what is not its own
        paths = [(jax.tree_util.SequenceKey(i),) for i in range(len(avals))]
    return [
        Row(name + jax.tree_util.keystr(path), *_shape_and_kind(aval))
        for path, aval in zip(paths, avals, strict=False)
    ]


def _shape_and_kind(aval: Any) -> tuple[tuple[Any, ...] | None, str]:
    weak = " (weak type)" if getattr(aval, "weak_type", False) else ""
    return getattr(aval, "shape", None), f"{getattr(aval, 'dtype', aval)}{weak}"
