"""The arguments that a program is exported for, as ``jax.export`` takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import jax
from jax import export

from safejax import _jax
from safejax.contract._axes import ANONYMOUS
from safejax.contract._dims import Constraint, Expr
from safejax.contract._spec import Spec, spec_from_struct

_SIGN: Final = re.compile("(<=|>=|==|<|>)")


def to_structs(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replaces specs, and structs with names for dimensions, by symbolic ones.

    All names are of one scope: ``b`` is the same in every argument.

    Raises:
        ValueError: A spec leaves open what a program must know.
    """

    def is_leaf(node: Any) -> bool:
        return isinstance(node, Spec | jax.ShapeDtypeStruct)

    tree = (args, dict(kwargs))
    read = jax.tree.map(_read, tree, is_leaf=is_leaf)
    leaves = jax.tree.leaves(read, is_leaf=is_leaf)
    specs = [leaf for leaf in leaves if isinstance(leaf, Spec)]
    scope = export.SymbolicScope(
        _for_jax(c for spec in specs for c in spec.constraints)
    )

    def write(leaf: Any) -> Any:
        return _struct(leaf, scope) if isinstance(leaf, Spec) else leaf

    found: tuple[tuple[Any, ...], dict[str, Any]]
    found = jax.tree.map(write, read, is_leaf=is_leaf)
    return found


def _read(leaf: Any) -> Any:
    named = isinstance(leaf, jax.ShapeDtypeStruct) and any(
        isinstance(axis, str) for axis in leaf.shape
    )
    if not named:
        return leaf
    return spec_from_struct(leaf, constraints_of=_jax.explicit_constraints)


def _struct(spec: Spec, scope: Any) -> jax.ShapeDtypeStruct:
    axes, dtypes = spec.axes, spec.dtypes
    if (
        axes is None
        or spec.variadic is not None
        or dtypes is None
        or len(dtypes) != 1
        or any(axis is ANONYMOUS for axis in axes)
    ):
        raise ValueError(
            f"signed_export() can't use {spec.describe()}: a program is exported for "
            "one dtype, and each axis needs a size or a name"
        )
    text = ",".join(a.text if isinstance(a, Expr) else str(a) for a in axes)
    shape = export.symbolic_shape(text, scope=scope)
    return jax.ShapeDtypeStruct(shape, dtypes[0], sharding=spec.sharding)  # type: ignore[no-untyped-call]


def _for_jax(constraints: Iterable[Constraint]) -> list[str]:
    """One comparison each, in the words that JAX knows."""
    found: dict[str, None] = {}
    for constraint in constraints:
        parts = _SIGN.split(constraint.text)
        for left, sign, right in zip(
            parts[::2], parts[1::2], parts[2::2], strict=False
        ):
            if sign in ("<", ">"):
                least, most = (left, right) if sign == "<" else (right, left)
                found[f"{most} >= {least} + 1"] = None
            else:
                found[f"{left} {sign} {right}"] = None
    return list(found)
