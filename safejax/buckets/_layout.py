"""Where the named dimensions are in a call, and which sizes they have there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safejax import _jax
from safejax.buckets._padding import padded
from safejax.buckets._sizes import Buckets, Sizes
from safejax.contract._check import children
from safejax.contract._contract import Contract, leaves_of, malformed
from safejax.contract._dims import Expr
from safejax.contract._dtypes import kind_of
from safejax.contract._spec import Spec
from safejax.contract._tokens import ABSENT

# What needs no look into it to be known as one leaf.
_ARRAYS = (_jax.ArrayImpl, np.ndarray)
_BY_NAME_ONLY = 1 << 30
# Structures, and combinations of sizes, that are remembered.
_MAX_LAYOUTS = 64
_MAX_PLANS = 4096

_iinfo: Callable[[Any], Any] = jnp.iinfo

Call = tuple[tuple[Any, ...], dict[str, Any]]
Keys = tuple[Any, ...]


class Carried(NamedTuple):
    """An axis whose size follows from a bucketed name."""

    axis: int
    expr: Expr
    name: str


class Leaf(NamedTuple):
    """One array of a call: its spec, its bucketed axes, what they are filled with."""

    spec: Spec
    carried: tuple[Carried, ...]
    pad: float


class Place(NamedTuple):
    """A parameter with bucketed axes: where a call has it, and what is in it."""

    name: str
    position: int
    tree: Any
    pad: float


class Plan(NamedTuple):
    """What becomes of calls with one combination of sizes.

    Attributes:
        real: The sizes of the call.
        bucket: Those it is padded to.
        targets: For each leaf the axes that grow, with their new sizes.
        vector: The real sizes as an array, for the mask.
        grows: Whether anything is padded at all.
    """

    real: Sizes
    bucket: Sizes
    targets: tuple[tuple[tuple[int, int], ...], ...]
    vector: Any
    grows: bool


class Layout:
    """The bucketed leaves of calls that are structured alike."""

    def __init__(self, buckets: Buckets, leaves: tuple[Leaf | None, ...]) -> None:
        self._buckets = buckets
        self.leaves = leaves
        self._sources = [self._source(name) for name in buckets.names]
        self._plans: dict[Sizes, Plan] = {}

    def _source(self, name: str) -> tuple[int, int, Expr | None]:
        for index, leaf in enumerate(self.leaves):
            for axis, expr, carried in leaf.carried if leaf else ():
                if carried == name:
                    return index, axis, None if expr.is_name else expr
        return -1, 0, None

    def sizes_in(self, leaves: list[Any]) -> Sizes:
        """The sizes of the bucketed names in a call that the contract has let in."""
        sizes = []
        for slot, (index, axis, expr) in enumerate(self._sources):
            if index < 0:  # only in a parameter that was left out
                sizes.append(self._buckets.sizes[slot][0])
                continue
            size = leaves[index].shape[axis]
            solved = None if expr is None else expr.solve(size, {})
            sizes.append(size if solved is None else solved[1])
        return tuple(sizes)

    def plan(self, real: Sizes) -> Plan:
        """What becomes of a call with these sizes."""
        plan = self._plans.get(real)
        if plan is None:
            plan = self.plan_to(real, self._buckets.holding(real))
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[real] = plan
        return plan

    def plan_to(self, real: Sizes, bucket: Sizes) -> Plan:
        """The same for a bucket that need not be the smallest one."""
        before = dict(zip(self._buckets.names, real, strict=True))
        after = dict(zip(self._buckets.names, bucket, strict=True))
        targets = tuple(
            tuple(
                (axis, expr.run(after))
                for axis, expr, _ in (leaf.carried if leaf else ())
                if expr.run(after) != expr.run(before)
            )
            for leaf in self.leaves
        )
        return Plan(real, bucket, targets, vector_of(real), grows=real != bucket)


def vector_of(sizes: Sizes) -> Any:
    """Sizes as the array that a mask is made of."""
    vector = np.array(sizes, np.int32)
    vector.flags.writeable = False
    return vector


class Layouts:
    """Takes the bucketed leaves out of calls, and puts others in their place."""

    def __init__(self, buckets: Buckets, places: tuple[Place, ...]) -> None:
        self.buckets = buckets
        self.places = places
        self._known: dict[Keys, Layout] = {}
        self._fitting: dict[Any, Plan] = {}

    def fitting(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan | None:
        """The plan of a call that needs no padding, if one like it came before.

        For calls whose bucketed parameters are arrays; the others are looked into.
        """
        shapes: list[Any] = []
        for name, index, _, _ in self.places:
            value: Any = args[index] if index < len(args) else kwargs.get(name)
            if value.__class__ not in _ARRAYS:
                return None
            shapes.append(value.shape)
        return self._fitting.get(tuple(shapes))

    def taken_out(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[list[Any], Keys]:
        """The leaves of the bucketed parameters, and how they are structured."""
        leaves: list[Any] = []
        keys: list[Any] = []
        for name, index, _, _ in self.places:
            value = args[index] if index < len(args) else kwargs.get(name, ABSENT)
            if value.__class__ in _ARRAYS:
                leaves.append(value)
                keys.append(None)
            elif value is ABSENT:
                keys.append(ABSENT)
            else:
                flat, structure = jax.tree.flatten(value)
                leaves += flat
                keys.append(structure)
        return leaves, tuple(keys)

    def put_back(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: list[Any],
        keys: Keys,
    ) -> Call:
        """The call with other leaves in the bucketed parameters."""
        values, named, at = list(args), dict(kwargs), 0
        for (name, index, _, _), key in zip(self.places, keys, strict=True):
            if key is ABSENT:
                continue
            count = 1 if key is None else key.num_leaves
            part = leaves[at : at + count]
            at += count
            value = part[0] if key is None else jax.tree.unflatten(key, part)
            if index < len(values):
                values[index] = value
            else:
                named[name] = value
        return tuple(values), named

    def changed(self, call: Call, change: Callable[[Any, Leaf], Any]) -> Call:
        """The call with each of its bucketed arrays replaced."""
        args, kwargs = call
        leaves, keys = self.taken_out(args, kwargs)
        meant = self.of(keys).leaves
        changed = [
            change(leaf, wanted) if wanted is not None and wanted.carried else leaf
            for leaf, wanted in zip(leaves, meant, strict=True)
        ]
        return self.put_back(args, kwargs, changed, keys)

    def grown(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Plan, tuple[Any, ...], dict[str, Any]]:
        """A call padded to its bucket."""
        leaves, keys = self.taken_out(args, kwargs)
        layout = self.of(keys)
        plan = layout.plan(layout.sizes_in(leaves))
        if not plan.grows and not any(keys):  # each of them one array
            if len(self._fitting) >= _MAX_PLANS:
                self._fitting.clear()
            self._fitting[tuple(leaf.shape for leaf in leaves)] = plan
        if plan.grows:
            leaves = [
                padded(leaf, target, meant.pad) if target and meant else leaf
                for leaf, target, meant in zip(
                    leaves, plan.targets, layout.leaves, strict=True
                )
            ]
            args, kwargs = self.put_back(args, kwargs, leaves, keys)
        return plan, args, kwargs

    def of(self, keys: Keys) -> Layout:
        """The layout of calls with this structure."""
        layout = self._known.get(keys)
        if layout is None:
            leaves: list[Leaf | None] = []
            for place, key in zip(self.places, keys, strict=True):
                if key is not ABSENT:
                    leaves += _leaves(place, key, self.buckets.names)
            layout = Layout(self.buckets, tuple(leaves))
            if len(self._known) >= _MAX_LAYOUTS:
                self._known.clear()
            self._known[keys] = layout
        return layout


def _leaves(place: Place, structure: Any, names: tuple[str, ...]) -> list[Leaf | None]:
    if structure is None:
        return [_leaf(place, place.tree, names)]
    # Numbers stand for the leaves, so that prefixes of the contract can be spread.
    numbers = jax.tree.unflatten(structure, range(structure.num_leaves))
    found: list[Leaf | None] = [None] * structure.num_leaves

    def spread(tree: Any, below: Any) -> None:
        if isinstance(tree, Spec):
            for number in jax.tree.leaves(below):
                found[number] = _leaf(place, tree, names)
        elif tree is not None:
            values = children(below)
            for key, child in children(tree).items():
                spread(child, values[key])

    spread(place.tree, numbers)
    return found


def _leaf(place: Place, spec: Any, names: tuple[str, ...]) -> Leaf | None:
    if not isinstance(spec, Spec):
        return None
    return Leaf(spec, tuple(carried_by(spec, names)), place.pad)


def carried_by(spec: Spec, names: tuple[str, ...]) -> list[Carried]:
    """The axes of a spec whose size follows from one of these names."""
    axes, found = spec.axes or (), []
    for at, axis in enumerate(axes):
        if isinstance(axis, Expr) and not axis.names.isdisjoint(names):
            after = spec.variadic is not None and at >= spec.variadic
            found.append(
                Carried(at - len(axes) if after else at, axis, min(axis.names))
            )
    return found


def read_places(
    contract: Contract, buckets: Buckets, pad_value: float | Mapping[str, float]
) -> tuple[Place, ...]:
    """The parameters with bucketed axes.

    Raises:
        ContractError: ``SJ102``: an axis, a dtype or a parameter that can't be padded,
            or a value that the padding can't have.
    """
    pads = pad_value if isinstance(pad_value, Mapping) else {}
    found = []
    for index, parameter in enumerate(contract.signature.parameters.values()):
        name = parameter.name
        tree = None if name in contract.statics else contract.trees.get(name)
        specs = [spec for _, spec in leaves_of(tree) if spec is not None]
        specs = [spec for spec in specs if carried_by(spec, buckets.names)]
        if not specs:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise malformed(
                contract.function,
                f"{parameter} can't be padded",
                "give the padded parameters names",
            )
        pad: Any = pads.get(name, 0) if pads or pads is pad_value else pad_value
        for spec in specs:
            _check_spec(contract.function, name, spec, buckets.names, pad)
        by_name = parameter.kind is parameter.KEYWORD_ONLY
        found.append(Place(name, _BY_NAME_ONLY if by_name else index, tree, pad))
    unknown = sorted(pads.keys() - {place.name for place in found})
    if unknown:
        raise malformed(
            contract.function, f"pad_value names {unknown[0]!r}, which is not padded"
        )
    return tuple(found)


def _check_spec(
    function: str, name: str, spec: Spec, names: tuple[str, ...], pad: Any
) -> None:
    for _, expr, _ in carried_by(spec, names):
        if len(expr.names) > 1 or not _is_line(expr):
            raise malformed(
                function,
                f"{name} has the axis {expr}, which can't be padded",
                "an axis of a padded array is a name, or follows from one name "
                "as in 2*b or b+1",
            )
    for dtype in spec.dtypes or ():
        if kind_of(dtype) not in ("bool", "int", "float", "complex"):
            raise malformed(function, f"{name}: arrays of {dtype} can't be padded")
    if not _suits(pad, spec):
        raise malformed(
            function,
            f"pad_value does not suit {name}, which is {spec.describe()}",
            "give one for each parameter: pad_value={...: ...}",
        )


def _is_line(expr: Expr) -> bool:
    (name,) = expr.names
    values = [expr.run({name: size}) for size in (3, 4, 5)]
    rises = values[0] < values[1] and values[2] - values[1] == values[1] - values[0]
    return rises and expr.solve(values[0], {}) == (name, 3)


def _suits(pad: Any, spec: Spec) -> bool:
    if not isinstance(pad, (bool, int, float, complex)):
        return False
    if pad == 0:
        return True
    return bool(spec.dtypes) and all(_fits(pad, dtype) for dtype in spec.dtypes or ())


def _fits(pad: Any, dtype: Any) -> bool:
    kind = kind_of(dtype)
    if kind == "complex" or (kind == "float" and not isinstance(pad, complex)):
        return True
    if isinstance(pad, complex) or pad != pad // 1:
        return False
    low, high = (0, 1) if kind == "bool" else _range(dtype)
    return bool(low <= pad <= high)


def _range(dtype: Any) -> tuple[int, int]:
    info: Any = _iinfo(dtype)
    return int(info.min), int(info.max)
