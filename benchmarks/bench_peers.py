"""The same check made by others: what each adds to ``jax.jit``, beside what we add.

Two checks on one array: its shape and dtype, and that all its elements are finite.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

import safejax
from benchmarks._harness import Effort, Limit, Row, Times, optional, take_turns

GROUP = "peers"

_COLUMNS = 16
_LIMITS = {
    "shape and dtype": Limit(5.0, at_most=False),
    # Every check of values reads them all, so this one is shown, not limited.
    "finite": None,
}
_Call = Callable[[Any], Any]


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    x = jnp.ones((8, _COLUMNS), jnp.float32)
    return [
        *_compared("shape and dtype", _shape_checks(), x, effort),
        *_compared("finite", _finite_checks(), x, effort),
    ]


def _compared(
    what: str, calls: Mapping[str, _Call | None], x: jax.Array, effort: Effort
) -> list[Row]:
    installed = {name: call for name, call in calls.items() if call is not None}
    _assert_each_refuses(what, installed)
    times = take_turns(installed, (x,), effort)
    rows = [_added(what, times)]
    for name, call in calls.items():
        if name in ("plain", "safejax"):
            continue
        if call is None:
            label = f"{what}: {name}"
            note = "not installed"
            rows.append(Row(group=GROUP, name=label, unit="x ours", note=note))
        else:
            rows.append(_times_ours(what, name, times))
    return rows


def _added(what: str, times: Times) -> Row:
    return Row(
        group=GROUP,
        name=f"{what}: safejax adds",
        unit="µs",
        samples=times.added("safejax", "plain"),
        note=f"to plain's {times.microseconds('plain'):.1f}",
    )


def _times_ours(what: str, name: str, times: Times) -> Row:
    theirs, ours = times.added(name, "plain"), times.added("safejax", "plain")
    # Where noise makes our share vanish, a nanosecond stands for it.
    pairs = zip(theirs, ours, strict=True)
    return Row(
        group=GROUP,
        name=f"{what}: {name}",
        unit="x ours",
        samples=tuple(other / max(mine, 0.001) for other, mine in pairs),
        limit=_LIMITS[what],
        note=f"adds {statistics.median(theirs):.1f} µs",
    )


def _assert_each_refuses(what: str, calls: Mapping[str, _Call]) -> None:
    wrong = {
        "shape and dtype": jnp.ones((8, _COLUMNS + 1), jnp.float32),
        "finite": jnp.full((8, _COLUMNS), jnp.nan),
    }[what]
    for name, call in calls.items():
        if name == "plain":
            continue
        try:
            jax.block_until_ready(call(wrong))
        except Exception:  # noqa: BLE001, S112  every peer has errors of its own
            continue
        raise AssertionError(f"{name} let the wrong array through")


# --- shape and dtype --------------------------------------------------------------


def _shape_checks() -> dict[str, _Call | None]:
    contract = {"x": jax.ShapeDtypeStruct(("b", _COLUMNS), jnp.float32)}
    return {
        "plain": jax.jit(_one),
        "safejax": safejax.safe_jit(_one, contract=contract),
        "chex": _chex_shape(optional("chex")),
        "jaxtyping + beartype": _typed(optional("jaxtyping"), optional("beartype")),
        "equinox": _equinox_shape(optional("equinox")),
        "checkify": _checkify_shape(),
    }


def _one(x: jax.Array) -> jax.Array:
    return x + 1


def _chex_shape(chex: ModuleType | None) -> _Call | None:
    if chex is None:
        return None
    jitted = jax.jit(_one)

    def checked(x: jax.Array) -> jax.Array:
        chex.assert_shape(x, (None, _COLUMNS))
        chex.assert_type(x, jnp.float32)
        return jitted(x)

    return checked


def _typed(jaxtyping: ModuleType | None, beartype: ModuleType | None) -> _Call | None:
    if jaxtyping is None or beartype is None:
        return None
    jitted = jax.jit(_one)

    def checked(x: Any) -> Any:
        return jitted(x)

    checked.__annotations__ = {"x": jaxtyping.Float32[jax.Array, f"b {_COLUMNS}"]}
    decorated: _Call = jaxtyping.jaxtyped(checked, typechecker=beartype.beartype)
    return decorated


def _equinox_shape(equinox: ModuleType | None) -> _Call | None:
    # Equinox checks shapes as everybody can, in the function that is traced.
    return None if equinox is None else equinox.filter_jit(_strict)


def _strict(x: jax.Array) -> jax.Array:
    if x.shape[1:] != (_COLUMNS,) or x.dtype != jnp.float32:
        raise TypeError(f"expected float32[b, {_COLUMNS}], got {x.dtype}{x.shape}")
    return x + 1


def _checkify_shape() -> _Call:
    def fun(x: jax.Array) -> jax.Array:
        checkify.check(jnp.array(x.shape[1] == _COLUMNS), "wrong number of columns")
        checkify.check(jnp.array(x.dtype == jnp.float32), "wrong dtype")
        return x + 1

    return _thrown(fun)


# --- finite -----------------------------------------------------------------------


def _finite_checks() -> dict[str, _Call | None]:
    contract = {"x": safejax.spec(f"f32[b, {_COLUMNS}]", finite=True)}
    return {
        "plain": jax.jit(_one),
        "safejax": safejax.safe_jit(_one, contract=contract),
        "chex": _chex_finite(optional("chex")),
        "equinox error_if": _equinox_finite(optional("equinox")),
        "checkify": _checkify_finite(),
    }


def _chex_finite(chex: ModuleType | None) -> _Call | None:
    if chex is None:
        return None
    jitted = jax.jit(_one)

    def checked(x: jax.Array) -> jax.Array:
        chex.assert_tree_all_finite(x)
        return jitted(x)

    return checked


def _equinox_finite(equinox: ModuleType | None) -> _Call | None:
    if equinox is None:
        return None

    def fun(x: jax.Array) -> jax.Array:
        bad = ~jnp.isfinite(x).all()
        checked: jax.Array = equinox.error_if(x, bad, "not finite")
        return checked + 1

    jitted = equinox.filter_jit(fun)

    # Its error surfaces when somebody waits, ours before the function runs.
    def waited(x: jax.Array) -> Any:
        return jax.block_until_ready(jitted(x))

    return waited


def _checkify_finite() -> _Call:
    def fun(x: jax.Array) -> jax.Array:
        checkify.check(jnp.isfinite(x).all(), "not finite")
        return x + 1

    return _thrown(fun)


def _thrown(fun: _Call) -> _Call:
    checked = jax.jit(checkify.checkify(fun, errors=checkify.user_checks))

    def call(x: jax.Array) -> Any:
        error, result = checked(x)
        error.throw()
        return result

    return call
