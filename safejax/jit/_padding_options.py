"""What ``safe_jit`` was asked for in the way of buckets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from safejax.buckets._mask import without_mask
from safejax.jit._plain import name_of
from safejax.jit._settings import Settings

_REFUSED = {
    "donate_argnums": "what is padded is a copy, and what is not would be consumed",
    "donate_argnames": "what is padded is a copy, and what is not would be consumed",
    "in_shardings": "a caller's sizes need not be divisible",
    "out_shardings": "what is cut comes back on one device",
    "device": "put the arguments there",
    "backend": "put the arguments there",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Padding:
    """The options that come with buckets.

    Attributes:
        buckets: Sizes by the name of a dimension, as given.
        pad_value: What the padding is filled with, for all parameters or by name.
        mask: The parameter that is told which rows are real.
    """

    buckets: Mapping[str, Iterable[int]]
    pad_value: Any
    mask: str | None

    def seen_by_callers(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """The function without the parameter that is not theirs to give."""
        if self.mask is None:
            return fun
        return without_mask(fun, self.mask, name_of(fun))

    def check_options(self, settings: Settings, options: Mapping[str, Any]) -> None:
        """Refuses what could not keep its meaning.

        Raises:
            ValueError: Such an option was given.
        """
        for name, why in _REFUSED.items():
            if options.get(name) not in (None, (), [], ""):
                raise ValueError(
                    f"safe_jit({name}=...) can't be used with buckets: {why}"
                )
        if settings.on_new_signature == "background":
            raise ValueError(
                "safe_jit(on_new_signature='background') can't be used with buckets: "
                "there are few programs, make them with precompile()"
            )


def read_padding(
    buckets: Mapping[str, Iterable[int]] | None, pad_value: Any, mask: str | None
) -> Padding | None:
    """The options of buckets, or ``None`` where there are none.

    Raises:
        ValueError: Others were given without ``buckets=``.
    """
    if buckets is not None:
        return Padding(buckets=buckets, pad_value=pad_value, mask=mask)
    if mask is not None or not (isinstance(pad_value, int) and pad_value == 0):
        word = "mask" if mask is not None else "pad_value"
        raise ValueError(f"safe_jit({word}=...) needs buckets=...")
    return None
