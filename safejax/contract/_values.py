"""What the elements of an array must satisfy, and the program that makes them.

NumPy inputs are checked on the host in one pass over the data; JAX arrays by one small
compiled reduction for all of them together; ``on_violation="clip"`` becomes part of the
user's program and never waits for the device.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safejax import _jax
from safejax.contract._check import Fault, Item
from safejax.contract._contract import is_leaf
from safejax.contract._dtypes import kind_of
from safejax.contract._spec import Spec

# Elements looked at together: 64 Ki floats stay in the cache between the two looks.
_BLOCK = 65_536
# The dtypes that NumPy compares with a bound as JAX does.
_PLAIN = frozenset(map(np.dtype, ("f4", "i4", "u4")))
_iinfo: Callable[[Any], Any] = jnp.iinfo
_NUMBERS = ("bool", "int", "float", "complex")
_SCALARS = (bool, int, float, complex)
_VALUES = (np.ndarray, np.generic, jax.Array, *_SCALARS)


class Rules(NamedTuple):
    """The value rules of a spec, hashable: the static part of the reduction."""

    minimum: float | None
    maximum: float | None
    finite: bool
    one_of: tuple[Any, ...] | None

    def text(self) -> str:
        """The rules in words; they are the program's own, so they may be shown."""
        parts = ["finite"] if self.finite else []
        parts += [f">= {self.minimum}"] if self.minimum is not None else []
        parts += [f"<= {self.maximum}"] if self.maximum is not None else []
        parts += [f"one of {len(self.one_of)} values"] if self.one_of else []
        return " and ".join(parts)


@functools.lru_cache(maxsize=1024)
def rules_of(spec: Spec) -> Rules:
    """The rules of one spec."""
    return Rules(spec.minimum, spec.maximum, spec.finite, spec.one_of)


def hold(leaves: Sequence[tuple[Spec, Any]], *, on_host: bool) -> bool:
    """Whether all leaves satisfy the rules of their specs.

    Args:
        leaves: The leaves with their specs. Tracers hold: their values come later.
        on_host: Look at JAX arrays from the host too. Used for signatures that were
            never admitted, so that refused calls can't make programs (T1).
    """
    on_device: list[tuple[Rules, Any]] = []
    for spec, leaf in leaves:
        if _surely_holds(spec, leaf) or not _is_ruled(spec, leaf):
            continue
        if isinstance(leaf, jax.Array) and not on_host:
            on_device.append((_exact(rules_of(spec), leaf.dtype), leaf))
        elif host_count(np.asarray(leaf), rules_of(spec)):
            return False
    if not on_device:
        return True
    rules, arrays = zip(*on_device, strict=True)
    if not _jax.at_top_level():
        # An outer trace would turn the answer into a part of its own program.
        return not any(map(_host_count, map(np.asarray, arrays), rules))
    return bool(_all_hold(arrays, rules))


class Settled(NamedTuple):
    """What a short check of a NumPy array needs to know."""

    dtype: Any
    most_elements: int
    low: float
    high: float


def settled_by(tree: Any) -> Settled | None:
    """How a few operations can tell that a small NumPy array keeps its rules.

    What they do not settle is for :func:`hold`, which comes to the same answer through
    eight calls. ``None`` where the rules are not simply two bounds of a plain dtype.
    """
    if not isinstance(tree, Spec) or tree.dtypes is None or len(tree.dtypes) != 1:
        return None
    dtype = np.dtype(tree.dtypes[0]) if tree.dtypes[0] in _PLAIN else None
    rules = rules_of(tree)
    if dtype is None or rules.one_of or tree.on_violation != "raise":
        return None
    low, high = _bounds(rules, dtype)[:2]
    # Between two finite bounds every element is finite; NaN satisfies no comparison.
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return Settled(dtype, _BLOCK, low, high)


def _surely_holds(spec: Spec, leaf: Any) -> bool:
    """Whether a small array is plainly sound; what this can't settle is not refused.

    Two microseconds on the host instead of twenty for a reduction on the device, which
    on CPU is the same memory.
    """
    kind = leaf.__class__
    if kind is not np.ndarray and not (kind is _jax.ArrayImpl and _all_on_cpu()):
        return False
    if leaf.dtype not in _PLAIN or spec.one_of is not None:
        return False
    flat = np.asarray(leaf).reshape(-1)
    if not 0 < flat.size <= _BLOCK:
        return False
    if spec.minimum is None and spec.maximum is None:
        # The sum of squares is finite only if every element is.
        if flat.dtype.kind != "f":
            return True
        with np.errstate(over="ignore", invalid="ignore"):
            return math.isfinite(flat.dot(flat))
    return _extremes_hold(flat, _bounds(rules_of(spec), flat.dtype))


@functools.lru_cache(maxsize=1024)
def _bounds(rules: Rules, dtype: Any) -> Rules:
    """As :func:`_exact`; without ``one_of``, whose members may be equal and differ."""
    return _exact(rules, dtype)


@functools.cache
def _all_on_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.process_count() == 1


def faults(items: Sequence[Item]) -> list[Fault]:
    """The value violations among the leaves of one call, counted on the host."""
    found = []
    for item in items:
        if not _is_ruled(item.spec, item.leaf):
            continue
        rules = rules_of(item.spec)
        bad = host_count(np.asarray(item.leaf), rules)
        if bad:
            got = (
                f"{bad} of {np.size(item.leaf)} that {'is' if bad == 1 else 'are'} not"
            )
            found.append(Fault.of(item, "value", (rules.text(), got)))
    return found


def _is_ruled(spec: Spec, leaf: Any) -> bool:
    return (
        spec.has_value_rules
        and spec.on_violation == "raise"
        and not isinstance(leaf, (_jax.Tracer, jax.ShapeDtypeStruct))
        and isinstance(leaf, _VALUES)
        and (isinstance(leaf, _SCALARS) or _is_number(leaf.dtype))
    )


def _is_number(dtype: Any) -> bool:
    # NumPy's own dtypes at once; asking JAX takes microseconds.
    return getattr(dtype, "kind", "V") in "biufc" or kind_of(dtype) in _NUMBERS


def host_count(array: Any, rules: Rules) -> int:
    """How many elements of a NumPy array break the rules; 0 after a single pass.

    Where JAX would narrow the dtype, the narrowed elements count as well: 1e300 is
    finite for the caller and infinite for the program (T4, T5).
    """
    dtype = array.dtype
    bad = _host_count(array, _exact(rules, dtype))
    if bad or dtype.itemsize < 8 or _jax.x64_enabled():
        return bad
    narrow = jax.dtypes.canonicalize_dtype(dtype)
    if narrow == dtype:
        return bad
    with np.errstate(over="ignore", invalid="ignore"):
        return _host_count(array.astype(narrow), _exact(rules, narrow))


def _host_count(array: Any, rules: Rules) -> int:
    flat = array.reshape(-1)
    with np.errstate(invalid="ignore"):  # a NaN is no reason to warn here
        return sum(
            _block_count(flat[start : start + _BLOCK], rules)
            for start in range(0, flat.size, _BLOCK)
        )


def _block_count(block: Any, rules: Rules) -> int:
    if (
        rules.one_of is None
        and block.dtype.kind != "c"
        and _extremes_hold(block, rules)
    ):
        return 0
    return int(np.count_nonzero(_bad(np, block, rules)))


def _extremes_hold(block: Any, rules: Rules) -> bool:
    # NaN propagates through both, and satisfies no comparison.
    low, high = block.min(), block.max()
    if rules.finite and not (math.isfinite(low) and math.isfinite(high)):
        return False
    above = rules.minimum is None or bool(low >= rules.minimum)
    below = rules.maximum is None or bool(high <= rules.maximum)
    return above and below


def _bad(xp: Any, x: Any, rules: Rules) -> Any:
    good = xp.isfinite(x) if rules.finite else xp.ones(x.shape, bool)
    if rules.minimum is not None:
        good &= x >= rules.minimum
    if rules.maximum is not None:
        good &= x <= rules.maximum
    if rules.one_of is not None:
        good &= _is_one_of(xp, x, rules.one_of)
    return ~good


def _is_one_of(xp: Any, x: Any, members: tuple[Any, ...]) -> Any:
    if x.dtype.kind in "biufc":
        return xp.isin(x, xp.asarray(members, x.dtype))
    # NumPy does not sort the dtypes that JAX adds to it.
    equal = (x == xp.asarray(member, x.dtype) for member in members)
    return functools.reduce(operator.or_, equal, xp.zeros(x.shape, bool))


@functools.lru_cache(maxsize=1024)
def _exact(rules: Rules, dtype: Any) -> Rules:
    """The rules with bounds that the dtype holds, so that none is rounded later.

    NumPy and JAX convert a Python number differently where it does not fit; the host
    and the device have to agree.
    """
    kind = kind_of(dtype)
    one_of = rules.one_of
    if one_of is not None:
        one_of = tuple(m for m in map(_to(dtype, kind), one_of) if m is not None)
    low, high = rules.minimum, rules.maximum
    if kind == "float":
        low = None if low is None else _rounded(low, dtype)
        high = None if high is None else _rounded(high, dtype)
    elif kind in ("int", "bool"):
        least, most = _range(dtype)
        low, one_of = _int_bound(low, math.ceil, least, most, one_of)
        high, one_of = _int_bound(high, math.floor, least, most, one_of)
    return Rules(low, high, rules.finite, one_of)


def _int_bound(
    bound: float | None,
    towards: Callable[[float], int],
    least: int,
    most: int,
    one_of: tuple[Any, ...] | None,
) -> tuple[int | None, tuple[Any, ...] | None]:
    """A bound for integers: the nearest one that the dtype has, or no value at all."""
    if bound is None:
        return None, one_of
    upwards = towards is math.ceil
    if math.isinf(bound) or not least <= towards(bound) <= most:
        excludes_all = (bound > most) if upwards else (bound < least)
        return None, () if excludes_all else one_of
    return towards(bound), one_of


def _range(dtype: Any) -> tuple[int, int]:
    if kind_of(dtype) == "bool":
        return 0, 1
    info = _iinfo(dtype)
    return int(info.min), int(info.max)


def _rounded(value: float, dtype: Any) -> float:
    with np.errstate(over="ignore"):
        return float(np.asarray(_float(value)).astype(dtype))


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _to(dtype: Any, kind: str | None) -> Callable[[Any], Any]:
    """Converts a member of ``one_of`` to the dtype; ``None`` where it has no such."""

    def convert(member: Any) -> Any:
        if kind == "complex" and isinstance(member, (int, float, complex)):
            return member
        if not isinstance(member, (int, float)):
            return None
        if kind == "float":
            return _rounded(member, dtype)
        least, most = _range(dtype)
        fits = least <= member <= most and member == int(member)
        return int(member) if fits else None

    return convert


@functools.partial(jax.jit, static_argnums=1)
def _all_hold(arrays: tuple[Any, ...], rules: tuple[Rules, ...]) -> Any:
    bad = [_bad(jnp, x, r).any() for x, r in zip(arrays, rules, strict=True)]
    return ~functools.reduce(jnp.logical_or, bad)


def clipped(tree: Any, value: Any) -> Any:
    """The value with the ``"clip"`` leaves of a contract tree made to hold.

    Traced into the user's program: NaN becomes the lower bound (or 0), infinities and
    what lies outside become the nearest bound.
    """

    def apply(spec: Spec | None, subtree: Any) -> Any:
        if spec is None or spec.on_violation != "clip" or not spec.has_value_rules:
            return subtree
        return jax.tree.map(functools.partial(_clip, spec), subtree)

    return jax.tree.map(apply, tree, value, is_leaf=is_leaf)


def _clip(spec: Spec, x: Any) -> Any:
    x = jnp.asarray(x)
    kind = kind_of(x.dtype)
    if kind not in _NUMBERS:
        return x
    rules = _exact(rules_of(spec), x.dtype)
    low, high = rules.minimum, rules.maximum
    if kind in ("float", "complex"):
        x = jnp.nan_to_num(x, nan=0 if low is None else low, posinf=high, neginf=low)
    if low is None and high is None:
        return x
    return jnp.clip(
        x,
        None if low is None else jnp.asarray(low, x.dtype),
        None if high is None else jnp.asarray(high, x.dtype),
    )


def cast(
    arguments: Mapping[str, Any], casts: Sequence[tuple[Item, Any]]
) -> dict[str, Any]:
    """The arguments with the leaves converted that ``on_dtype="cast"`` allows."""
    wanted = {(item.parameter, item.path): dtype for item, dtype in casts}
    changed = {item.parameter for item, _ in casts}

    def convert(name: str, path: Any, leaf: Any) -> Any:
        dtype = wanted.get((name, path))
        if dtype is None:
            return leaf
        if isinstance(leaf, _jax.Tracer):
            return leaf.astype(dtype)
        # On the host: JAX would make a program of its own for every shape (T1).
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(leaf).astype(dtype)

    return {
        name: jax.tree_util.tree_map_with_path(functools.partial(convert, name), value)
        if name in changed
        else value
        for name, value in arguments.items()
    }
