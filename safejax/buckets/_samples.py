"""Made-up arguments: a few real rows, and padding that differs from them.

Real elements come from the middle third of a range, the padding of one trial from the
upper and of another from the lower: whatever looks at the padding, were it only for
its largest element, answers differently. Where rows are compared with a threshold, all
of them must be on one side of it: hence the trials with the smallest and the largest.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from safejax.buckets._layout import Call, Leaf, carried_by
from safejax.contract import _check
from safejax.contract._contract import Contract
from safejax.contract._dtypes import kind_of
from safejax.contract._spec import Spec

_iinfo: Callable[[Any], Any] = jnp.iinfo
_finfo: Callable[[Any], Any] = jnp.finfo
_BY_PLACE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
Part = Literal["lower", "smallest", "middle", "largest", "upper"]
_PARTS: dict[Part, tuple[float, float]] = {
    "lower": (0.0, 1 / 3),
    "smallest": (1 / 3, 0.37),
    "middle": (1 / 3, 2 / 3),
    "largest": (0.63, 2 / 3),
    "upper": (2 / 3, 1.0),
}

# Mixed signs first. Where an answer is not finite, as a logarithm's, positive ones.
RANGES = ((-3.0, 3.0), (0.5, 3.5))


def real_rows(
    leaf: Any,
    meant: Leaf,
    env: dict[str, int],
    span: tuple[float, float],
    part: Part,
    seed: int,
) -> Any:
    """An array of these sizes without padding."""
    shape = list(leaf.shape)
    for axis, expr, _ in meant.carried:
        shape[axis] = expr.run(env)
    rng = np.random.default_rng((seed, *shape))
    return _drawn(rng, tuple(shape), leaf.dtype, meant.spec, span, part)


def with_padding(
    real: Any,
    target: tuple[tuple[int, int], ...],
    meant: Leaf,
    span: tuple[float, float],
    part: Part,
    names: Collection[str],
) -> Any:
    """An array grown as for a call, but other elements in the padding of ``names``.

    The padding of other names is what it is in a call.
    """
    shape = list(real.shape)
    for axis, size in target:
        shape[axis] = size
    rng = np.random.default_rng(len(target))
    grown = _drawn(rng, tuple(shape), real.dtype, meant.spec, span, part)
    for axis, _, name in meant.carried:
        if name not in names:
            at = axis % grown.ndim
            grown[(slice(None),) * at + (slice(real.shape[axis], None),)] = meant.pad
    grown[tuple(map(slice, real.shape))] = real
    return grown


def stand_ins(
    contract: Contract, call: Call, names: tuple[str, ...], span: tuple[float, float]
) -> Call:
    """The call with made-up elements wherever the contract speaks of them.

    What a caller sends must not decide what the trials see. Arrays that the contract
    does not cover stay: they are the program's own. Padded ones are left to
    :func:`real_rows`.
    """
    args, kwargs = call
    signature = contract.signature
    bound = signature.bind(*args, **kwargs).arguments
    items = _check.matched(contract, bound).items
    specs = {(item.parameter, item.path): item.spec for item in items}
    kinds = {p.kind: p.name for p in signature.parameters.values()}
    values = {
        name: value
        if name in contract.statics
        else jax.tree_util.tree_map_with_path(
            lambda path, leaf, name=name: _stand_in(
                leaf, specs.get((name, path)), names, span
            ),
            value,
        )
        for name, value in bound.items()
    }
    listed: list[Any] = []
    for parameter in signature.parameters.values():
        if parameter.kind in _BY_PLACE and len(listed) < len(args):
            listed.append(values[parameter.name])
    listed += values.get(kinds.get(inspect.Parameter.VAR_POSITIONAL, ""), ())
    others = values.get(kinds.get(inspect.Parameter.VAR_KEYWORD, ""), {})
    return tuple(listed), {n: values.get(n, others.get(n)) for n in kwargs}


def _stand_in(
    leaf: Any, spec: Spec | None, names: tuple[str, ...], span: tuple[float, float]
) -> Any:
    is_given = not isinstance(leaf, jax.ShapeDtypeStruct)
    if (is_given and spec is None) or not hasattr(leaf, "dtype"):
        return leaf
    spec = spec or Spec()
    kind = kind_of(leaf.dtype)
    if kind not in ("bool", "int", "float", "complex"):
        return leaf if is_given else _keys(leaf)
    if carried_by(spec, names):
        return leaf
    rng = np.random.default_rng(len(leaf.shape))
    drawn = _drawn(rng, tuple(leaf.shape), leaf.dtype, spec, span, "middle")
    if kind in ("float", "complex") and not spec.has_value_rules and drawn.ndim > 1:
        # As weights are: sums over many of them neither saturate nor overflow.
        drawn = (drawn / np.sqrt(max(1, drawn.shape[-2]))).astype(drawn.dtype)
    return drawn


def _keys(leaf: Any) -> Any:
    key = jax.random.key(0)
    count = int(np.prod(leaf.shape, dtype=int))
    return key if leaf.shape == () else jax.random.split(key, count).reshape(leaf.shape)


def _drawn(
    rng: Any,
    shape: tuple[int, ...],
    dtype: Any,
    spec: Spec,
    span: tuple[float, float],
    part: Part,
) -> Any:
    kind = kind_of(dtype)
    if kind == "bool":
        if part == "middle":
            return rng.integers(0, 2, shape).astype(bool)
        return np.full(shape, part in ("largest", "upper"))
    if spec.one_of is not None:
        members = sorted(spec.one_of)
        if part != "middle":
            members = members[-1:] if part in ("largest", "upper") else members[:1]
        return rng.choice(np.asarray(members), shape).astype(dtype)
    if kind == "int":
        least, most = _int_part(*_int_span(dtype, spec), part)
        return rng.integers(least, most, shape, endpoint=True).astype(dtype)
    low, high = _part(*_float_span(dtype, spec, span), part)
    drawn = rng.uniform(low, high, shape)
    if kind == "complex":
        drawn = drawn + 1j * rng.uniform(low, high, shape)
    return drawn.astype(dtype)


def _part(low: float, high: float, part: Part) -> tuple[float, float]:
    start, end = _PARTS[part]
    return low + start * (high - low), low + end * (high - low)


def _int_part(low: int, high: int, part: Part) -> tuple[int, int]:
    start, end = _part(low, high, part)
    least, most = math.ceil(start), math.floor(end)
    if least <= most:
        return least, most
    if part in ("lower", "upper"):
        return (low, low) if part == "lower" else (high, high)
    return low, high


def _float_span(
    dtype: Any, spec: Spec, span: tuple[float, float]
) -> tuple[float, float]:
    low, high = spec.minimum, spec.maximum
    width = span[1] - span[0]
    if low is None:
        low = span[0] if high is None else high - width
    if high is None:
        high = max(span[1], low + width)
    most = float(_finfo(dtype).max) if kind_of(dtype) == "float" else high
    return max(low, -most), min(high, most)


def _int_span(dtype: Any, spec: Spec) -> tuple[int, int]:
    """Small ones: they may be indices. Thirds: -4 to -1, 0 to 3, 4 to 7."""
    info: Any = _iinfo(dtype)
    low = -4 if spec.minimum is None else int(spec.minimum)
    high = max(7, low + 3) if spec.maximum is None else int(spec.maximum)
    if spec.minimum is None and spec.maximum is not None:
        low = min(low, high - 3)
    return max(low, int(info.min)), min(high, int(info.max))
