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
        static: The static value, to compare with; never to print (T8).
    """

    path: str
    shape: tuple[Any, ...] | None
    kind: str
    static: Any = None


def rows(
    key: Signature, parameters: Sequence[str], static_argnums: Sequence[int]
) -> list[Row]:
    """A signature as rows for messages."""
    arguments = key.arguments
    treedefs = list(arguments.dynamic_arg_treedefs)
    keywords = list(arguments.dynamic_arg_names)
    statics = list(arguments.static_args)
    static_keywords = list(arguments.static_arg_names)
    positional = len(treedefs) - len(keywords)
    total = positional + len(statics) - len(static_keywords)
    fixed = {n % total for n in static_argnums} if total else set()
    names = [
        parameters[i] if i < len(parameters) else f"args[{i}]" for i in range(total)
    ]
    avals = iter(key.avals)
    found: list[Row] = []
    dynamic = [n for i, n in enumerate(names) if i not in fixed]
    for name, treedef in zip([*dynamic, *keywords], treedefs, strict=False):
        leaves = [next(avals) for _ in range(treedef.num_leaves)]
        found += _named_leaves(name, treedef, leaves)
    static = [n for i, n in enumerate(names) if i in fixed]
    found += [
        Row(name, None, type(value).__name__, value)
        for name, value in zip([*static, *static_keywords], statics, strict=False)
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
