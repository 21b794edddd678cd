"""Which axes of an answer follow from the bucketed names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import export

from safejax.buckets._layout import Call, Layouts
from safejax.buckets._sizes import Sizes
from safejax.contract._dims import DimError, Expr, parse_expr
from safejax.errors import SafeJaxError

# For each array of an answer: its axes whose size follows, and what from.
Axes = tuple[tuple[tuple[int, Expr], ...], ...]
Trace = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class UnclearError(Exception):
    """The sizes of an answer follow no rule that could be found."""


def env_of(sizes: Sequence[Any]) -> dict[str, Any]:
    """Sizes by symbol: the names of users may be words of JAX's own grammar."""
    return {f"s{i}": size for i, size in enumerate(sizes)}


def output_axes(
    trace: Trace,
    layouts: Layouts,
    call: Call,
    tries: Sequence[Sizes],
) -> Axes:
    """Traces the function with symbolic sizes; where it can't be, with several.

    Args:
        trace: Says what the function would answer, as ``jax.eval_shape`` does.
        layouts: Where the bucketed arguments are.
        call: Arguments of one call, arrays or their specs.
        tries: Sizes that the contract admits: first some, then for each name the same
            with another size for this name.

    Raises:
        UnclearError: Neither says what the sizes of the answer follow from.
    """
    symbols = export.symbolic_shape(", ".join(env_of(tries[0])))
    try:
        shapes = _shapes(trace, layouts, call, symbols)
        return tuple(map(_symbolic_axes, shapes))
    except SafeJaxError:
        raise
    except Exception:  # noqa: BLE001  the function may fail on sizes it does not know
        return _compared(trace, layouts, call, tries)


def _symbolic_axes(shape: Sequence[Any]) -> tuple[tuple[int, Expr], ...]:
    return tuple(
        (axis, parse_expr(str(size)))
        for axis, size in enumerate(shape)
        if export.is_symbolic_dim(size)
    )


def _shapes(
    trace: Trace, layouts: Layouts, call: Call, sizes: Sequence[Any]
) -> list[tuple[Any, ...]]:
    env = dict(zip(layouts.buckets.names, sizes, strict=True))
    args, kwargs = layouts.changed(call, lambda leaf, meant: _resized(leaf, meant, env))
    return [tuple(leaf.shape) for leaf in jax.tree.leaves(trace(args, kwargs))]


def _resized(leaf: Any, meant: Any, env: dict[str, Any]) -> Any:
    shape = list(leaf.shape)
    for axis, expr, _ in meant.carried:
        shape[axis] = expr.run(env)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)  # type: ignore[no-untyped-call]


def _compared(
    trace: Trace, layouts: Layouts, call: Call, tries: Sequence[Sizes]
) -> Axes:
    first, *others = [_shapes(trace, layouts, call, sizes) for sizes in tries]
    if any(list(map(len, shapes)) != list(map(len, first)) for shapes in others):
        raise UnclearError
    axes: list[tuple[tuple[int, Expr], ...]] = []
    for leaf, shape in enumerate(first):
        carried = []
        for axis, size in enumerate(shape):
            steps = [shapes[leaf][axis] - size for shapes in others]
            if any(steps):
                carried.append((axis, _line(size, steps, tries)))
        axes.append(tuple(carried))
    return tuple(axes)


def _line(size: int, steps: Sequence[int], tries: Sequence[Sizes]) -> Expr:
    moved = [name for name, step in enumerate(steps) if step]
    if len(moved) > 1:
        raise UnclearError
    (name,) = moved
    slope, rest = divmod(steps[name], tries[name + 1][name] - tries[0][name])
    if rest:
        raise UnclearError
    try:
        return parse_expr(f"{slope}*s{name}+{size - slope * tries[0][name]}")
    except DimError as error:
        raise UnclearError from error
