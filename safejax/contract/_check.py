"""One call against one contract: all the ways in which it breaks it.

Shapes, dtypes and structure only; what the elements hold is ``_values``' business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from safejax import _jax
from safejax.contract._contract import Contract, Path
from safejax.contract._dims import Constraint, DimError, Expr
from safejax.contract._spec import ANONYMOUS, Spec

_SCALARS = (bool, int, float, complex)
# What is known to be a leaf without asking JAX.
_WITH_AVAL: Any = (_jax.ArrayImpl, jax.Array, jax.Ref)
_LEAVES = (_jax.ArrayImpl, np.ndarray, *_SCALARS)


class Item(NamedTuple):
    """One leaf of a call and the spec it is held against."""

    parameter: str
    path: Path
    spec: Spec
    leaf: Any


class Kind(NamedTuple):
    """What JAX would make of a leaf, and what the caller called it."""

    shape: tuple[int, ...]
    dtype: Any
    weak_type: bool
    source: str


class Fault(NamedTuple):
    """One violation, not yet in words. It holds no array: errors outlive calls."""

    parameter: str
    path: Path
    spec: Spec | None
    rule: str
    got: Any

    @classmethod
    def of(cls, item: Item, rule: str, got: Any) -> Fault:
        """A violation by one leaf."""
        return cls(item.parameter, item.path, item.spec, rule, got)


@dataclasses.dataclass(slots=True)
class Sizes:
    """The sizes that names have in one call, and the leaf and axis that bound each."""

    values: dict[str, int] = dataclasses.field(default_factory=dict)
    origins: dict[str, tuple[str, Path, int]] = dataclasses.field(default_factory=dict)
    groups: dict[str, tuple[tuple[int, ...], str, Path]] = dataclasses.field(
        default_factory=dict
    )


@dataclasses.dataclass(slots=True)
class Checked:
    """The outcome of one check.

    Attributes:
        items: Every leaf that a spec applies to.
        faults: All violations.
        casts: The leaves to convert first, with the dtype they need.
        sizes: What the names stand for.
    """

    items: list[Item]
    faults: list[Fault]
    casts: list[tuple[Item, Any]]
    sizes: Sizes


def check(contract: Contract, arguments: Mapping[str, Any]) -> Checked:
    """Holds the arguments of one call against a contract.

    Args:
        contract: The contract.
        arguments: The values of the parameters that were given, by name.

    Returns:
        All violations, in the order of the parameters; none is left out because
        another came first.
    """
    checked = matched(contract, arguments)
    shaped = []
    for item in checked.items:
        kind = kind_of(item.leaf)
        if kind is None:
            checked.faults.append(Fault.of(item, "type", type(item.leaf).__name__))
            continue
        _check_kind(contract, item, kind, checked)
        shaped.append((item, kind.shape))
    _check_shapes(shaped, checked)
    _check_constraints(contract, checked)
    return checked


def matched(contract: Contract, arguments: Mapping[str, Any]) -> Checked:
    """Pairs leaves with specs and compares the structure, nothing more."""
    checked = Checked([], [], [], Sizes())
    for name in contract.signature.parameters:
        if (
            name in contract.trees
            and name in arguments
            and name not in contract.statics
        ):
            _match(contract.trees[name], name, (), arguments[name], checked)
    return checked


# --- structure --------------------------------------------------------------------


def _match(tree: Any, name: str, path: Path, value: Any, checked: Checked) -> None:
    if tree is None:
        return
    if isinstance(tree, Spec):
        _match_leaf(tree, name, path, value, checked)
        return
    expected, got = children(tree), children(value)
    if type(tree) is not type(value) or expected.keys() != got.keys():
        kinds = (type(tree), list(expected), type(value), list(got))
        checked.faults.append(Fault(name, path, None, "structure", kinds))
    for key, child in expected.items():
        if key in got and type(tree) is type(value):
            _match(child, name, (*path, key), got[key], checked)


def _match_leaf(
    spec: Spec, name: str, path: Path, value: Any, checked: Checked
) -> None:
    if value.__class__ in _LEAVES or jax.tree_util.all_leaves([value]):
        checked.items.append(Item(name, path, spec, value))
        return
    if value is None:
        checked.faults.append(Fault(name, path, spec, "type", "None"))
        return
    for below, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        checked.items.append(Item(name, (*path, *below), spec, leaf))


def children(node: Any) -> dict[Any, Any]:
    """The children of a pytree node by key; a leaf has none."""
    try:
        pairs = jax.tree_util.tree_flatten_with_path(
            node, is_leaf=lambda n: n is not node
        )
    except ValueError:  # keys that can't be sorted; JAX takes no such dict
        return {jax.tree_util.DictKey(key): child for key, child in node.items()}
    return {path[0]: child for path, child in pairs[0] if path}


# --- dtype, weak type, sharding ---------------------------------------------------


def kind_of(leaf: Any) -> Kind | None:  # noqa: PLR0911  one kind after another
    """What a leaf is, or ``None`` where JAX takes no such thing as an array."""
    if type(leaf) is np.ndarray:
        return Kind(leaf.shape, leaf.dtype, weak_type=False, source="NumPy")
    # What only says that it is an array is none: JAX would trace it, then fail.
    if leaf.__class__ is type(leaf) and isinstance(leaf, _WITH_AVAL):
        aval = leaf.aval
        return Kind(aval.shape, aval.dtype, getattr(aval, "weak_type", False), "JAX")
    if isinstance(leaf, np.ma.MaskedArray):
        return None  # T5: JAX would use the masked elements, where it does not refuse
    if isinstance(leaf, (np.ndarray, np.generic)):
        return Kind(leaf.shape, leaf.dtype, weak_type=False, source="NumPy")
    if isinstance(leaf, _SCALARS):
        return _scalar_kind(leaf)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return Kind(leaf.shape, leaf.dtype, bool(leaf.weak_type), "JAX")
    return None


def _scalar_kind(leaf: complex) -> Kind:
    # Subclasses such as IntEnum count as what they are derived from, as in JAX.
    plain = next(kind for kind in _SCALARS if isinstance(leaf, kind))
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(plain))
    return Kind((), dtype, not isinstance(leaf, bool), "Python")


def _check_kind(contract: Contract, item: Item, kind: Kind, checked: Checked) -> None:
    spec = item.spec
    if spec.dtypes is not None and not spec.admits_dtype(kind.dtype):
        wish = spec.on_dtype or contract.on_dtype
        if wish == "cast" and can_cast(kind, spec.dtypes[0], item.leaf):
            checked.casts.append((item, spec.dtypes[0]))
        else:
            checked.faults.append(Fault.of(item, "dtype", kind))
    elif kind.source == "Python" and not _fits(item.leaf, kind.dtype):
        checked.faults.append(
            Fault.of(item, "value", (f"to fit {kind.dtype}", "a Python int beyond it"))
        )
    if spec.weak_type is not None and spec.weak_type != kind.weak_type:
        checked.faults.append(Fault.of(item, "weak_type", kind))
    if spec.sharding is not None and kind.source != "Python":
        sharding = getattr(item.leaf, "sharding", None)
        if sharding is None or not _same_sharding(spec.sharding, sharding, kind):
            checked.faults.append(Fault.of(item, "sharding", sharding))


def _fits(leaf: Any, dtype: Any) -> bool:
    if not isinstance(leaf, int) or isinstance(leaf, bool):
        return True
    info = np.iinfo(dtype)
    return int(info.min) <= leaf <= int(info.max)


def can_cast(kind: Kind, dtype: Any, leaf: Any) -> bool:
    """Whether ``on_dtype="cast"`` may convert this leaf without losing its meaning."""
    if not (isinstance(kind.dtype, np.dtype) and isinstance(dtype, np.dtype)):
        return False
    try:
        allowed = np.can_cast(kind.dtype, dtype, "same_kind") or jax.numpy.issubdtype(
            dtype, jax.numpy.floating
        )
        if not allowed or jax.numpy.issubdtype(kind.dtype, np.complexfloating):
            return kind.dtype == dtype
    except TypeError:
        return False
    if dtype.kind not in "iu":
        return kind.source != "Python" or _is_finite_in(leaf, dtype)
    return np.can_cast(kind.dtype, dtype, "safe") or _in_range(leaf, dtype)


def _is_finite_in(leaf: complex, dtype: Any) -> bool:
    # Python integers have no largest one.
    try:
        np.asarray(leaf).astype(dtype)
    except OverflowError:
        return False
    return True


def _in_range(leaf: Any, dtype: Any) -> bool:
    # T4: an integer that does not fit would wrap around silently.
    if isinstance(leaf, (_jax.Tracer, jax.ShapeDtypeStruct)):
        return False  # nobody knows
    host = np.asarray(leaf)
    info = np.iinfo(dtype)
    return not host.size or (
        int(host.min()) >= int(info.min) and int(host.max()) <= int(info.max)
    )


def _same_sharding(expected: Any, got: Any, kind: Kind) -> bool:
    try:
        return bool(got == expected or got.is_equivalent_to(expected, len(kind.shape)))
    except (AttributeError, TypeError, ValueError):
        return False


# --- shapes -----------------------------------------------------------------------


def _check_shapes(
    shaped: Sequence[tuple[Item, tuple[int, ...]]], checked: Checked
) -> None:
    sizes, later, bad = checked.sizes, [], set()
    for index, (item, shape) in enumerate(shaped):
        axes = _aligned(item, shape, sizes)
        if axes is None:
            bad.add(index)
            continue
        for axis, position, size in axes:
            if axis is ANONYMOUS:
                continue
            if isinstance(axis, int):
                if axis != size:
                    bad.add(index)
            elif axis.is_name and axis.is_name not in sizes.values:
                sizes.values[axis.is_name] = size
                sizes.origins[axis.is_name] = (item.parameter, item.path, position)
            else:
                later.append((index, axis, position, size))
    _check_expressions(shaped, later, sizes, bad)
    for index in sorted(bad):
        checked.faults.append(Fault.of(shaped[index][0], "shape", shaped[index][1]))


def _aligned(
    item: Item, shape: tuple[int, ...], sizes: Sizes
) -> Iterator[tuple[Any, int, int]] | None:
    """Pairs the axes of a spec with the sizes of a leaf; ``None``: other rank."""
    spec = item.spec
    if spec.axes is None:
        return iter(())
    if spec.variadic is None:
        if len(shape) != len(spec.axes):
            return None
        return zip(spec.axes, range(len(shape)), shape, strict=True)
    extra = len(shape) - len(spec.axes)
    if extra < 0:
        return None
    at = spec.variadic
    if spec.variadic_name is not None:
        group = shape[at : at + extra]
        first = (group, item.parameter, item.path)
        if sizes.groups.setdefault(spec.variadic_name, first)[0] != group:
            return None
    fixed = [*range(at), *range(at + extra, len(shape))]
    return iter([(a, i, shape[i]) for a, i in zip(spec.axes, fixed, strict=True)])


def _check_expressions(
    shaped: Sequence[tuple[Item, tuple[int, ...]]],
    later: list[tuple[int, Any, int, int]],
    sizes: Sizes,
    bad: set[int],
) -> None:
    progress = True
    while later and progress:
        progress, waiting = False, []
        for index, axis, position, size in later:
            if axis.names <= sizes.values.keys():
                if _size_in(axis, sizes.values) != size:
                    bad.add(index)
                progress = True
                continue
            solved = axis.solve(size, sizes.values)
            if solved is None:
                waiting.append((index, axis, position, size))
                continue
            name, value = solved
            sizes.values[name] = value
            item = shaped[index][0]
            sizes.origins[name] = (item.parameter, item.path, position)
            progress = True
        later = waiting
    # What no integer solves is a mismatch of that leaf.
    bad.update(index for index, *_ in later)


def _size_in(axis: Expr, values: Mapping[str, int]) -> int | None:
    try:
        return axis.evaluate(values)
    except DimError:  # a division by a size that is zero
        return None


def _check_constraints(contract: Contract, checked: Checked) -> None:
    values, origins = checked.sizes.values, checked.sizes.origins
    for constraint in contract.constraints:
        if constraint.names <= values.keys() and not _holds(constraint, values):
            parameter, path, _ = origins[min(constraint.names)]
            checked.faults.append(Fault(parameter, path, None, "dimension", constraint))


def _holds(constraint: Constraint, values: Mapping[str, int]) -> bool:
    try:
        return constraint.holds(values)
    except DimError:
        return False
