"""Limits as data: frozen, keyword-only, the unit in every name."""

from __future__ import annotations

import dataclasses
from typing import Literal

_ON_LIMIT = ("raise", "evict")


def _check_count(owner: str, name: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{owner}({name}=...) must be an integer, got {type(value).__name__}"
        )
    if value < least:
        raise ValueError(f"{owner}({name}=...) must be at least {least}, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one ``safe_jit`` function may cost.

    Attributes:
        max_compiles: How many live XLA programs the function may own, counted
            exactly, whatever caused them: a shape, a dtype, a weak type, a committed
            input, a static value, a sharding or a change of configuration.
        warn_compiles: At how many live programs a warning is logged, once.
        on_limit: ``"raise"`` refuses the new program; ``"evict"`` drops the least
            recently used one and frees its memory.
        max_static_bytes: How large one static argument of a function with a contract
            may be, in bytes. JAX keeps static values alive (JAX issue 16226).

    Raises:
        TypeError: A limit is not an integer.
        ValueError: A limit is out of range, or ``on_limit`` is an unknown word.

    Example:
        >>> import safejax
        >>> safejax.Limits(max_compiles=8).on_limit
        'raise'
    """

    max_compiles: int = 32
    warn_compiles: int = 8
    on_limit: Literal["raise", "evict"] = "raise"
    max_static_bytes: int = 65_536

    def __post_init__(self) -> None:
        _check_count("Limits", "max_compiles", self.max_compiles, least=1)
        _check_count("Limits", "warn_compiles", self.warn_compiles, least=1)
        _check_count("Limits", "max_static_bytes", self.max_static_bytes, least=1)
        if self.on_limit not in _ON_LIMIT:
            raise ValueError(
                f"Limits(on_limit=...) must be one of {_ON_LIMIT}, "
                f"got {self.on_limit!r}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProcessLimits:
    """What all ``safe_jit`` functions of the process may cost together.

    Attributes:
        max_compiles: How many live XLA programs they may own together.

    Raises:
        TypeError: A limit is not an integer.
        ValueError: A limit is out of range.

    Example:
        >>> import safejax
        >>> safejax.ProcessLimits(max_compiles=100).max_compiles
        100
    """

    max_compiles: int = 4096

    def __post_init__(self) -> None:
        _check_count("ProcessLimits", "max_compiles", self.max_compiles, least=1)
