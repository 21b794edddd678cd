"""The parameter through which a function hears which rows are real."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from safejax.buckets._layout import Layouts


def without_mask(
    fun: Callable[..., Any], mask: str, function: str
) -> Callable[..., Any]:
    """The function as its callers see it: the mask is not theirs to give.

    Raises:
        TypeError: It has no such parameter, or none that can be left out.
    """
    signature = inspect.signature(fun)
    parameters = list(signature.parameters.values())
    parameter = signature.parameters.get(mask)
    if parameter is None:
        raise TypeError(f"safe_jit(mask={mask!r}): {function}() has no such parameter")
    by_place = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    is_last = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and (
        by_place[-1] is parameter
    )
    if parameter.kind is not parameter.KEYWORD_ONLY and not is_last:
        raise TypeError(
            f"safe_jit(mask={mask!r}): make it keyword-only in {function}(), "
            "as in def f(x, *, mask)"
        )

    def unmasked(*args: Any, **kwargs: Any) -> Any:
        return fun(*args, **kwargs)

    functools.update_wrapper(unmasked, fun)
    rest = [p for p in parameters if p is not parameter]
    unmasked.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    notes = {n: a for n, a in unmasked.__annotations__.items() if n != mask}
    unmasked.__annotations__ = notes
    return unmasked


def with_mask(
    fun: Callable[..., Any],
    layouts: Layouts,
    mask: str,
    inner: Callable[[Any], Any],
) -> Callable[..., Any]:
    """The function given the real sizes in place of the mask, which it makes of them.

    Args:
        fun: The function.
        layouts: Where the bucketed arguments are.
        mask: The name of the parameter.
        inner: What stands between the mask and the function.
    """

    def masked(*args: Any, **kwargs: Any) -> Any:
        real = kwargs.pop(mask)
        leaves, keys = layouts.taken_out(args, kwargs)
        grown = layouts.of(keys).sizes_in(leaves)
        masks = {
            name: jnp.arange(size) < real[slot]
            for slot, (name, size) in enumerate(
                zip(layouts.buckets.names, grown, strict=True)
            )
        }

        def told(*args: Any, **kwargs: Any) -> Any:
            return fun(*args, **{**kwargs, mask: masks})

        return inner(told)(*args, **kwargs)

    return functools.update_wrapper(masked, fun)
