"""Limits as data: frozen, keyword-only, the unit in every name."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

_ON_LIMIT = ("raise", "evict")

# Thirty years: no duration is longer, and none overflows when counted in nanoseconds.
_LONGEST_S = 1e9


def check_count(owner: str, name: str, value: object, *, least: int) -> None:
    """Refuses what is not an integer of at least ``least``.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{owner}({name}=...) must be an integer, got {type(value).__name__}"
        )
    if value < least:
        raise ValueError(f"{owner}({name}=...) must be at least {least}, got {value}")


def _check_seconds(owner: str, name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(
            f"{owner}({name}=...) must be a number of seconds, "
            f"got {type(value).__name__}"
        )
    if not (math.isfinite(value) and 0 < value <= _LONGEST_S):
        raise ValueError(
            f"{owner}({name}=...) must be over 0 and at most {_LONGEST_S:.0f} seconds, "
            f"got {value}"
        )


def _check_rate(owner: str, name: str, value: object) -> None:
    if value is not None and not isinstance(value, CompileRate):
        raise TypeError(
            f"{owner}({name}=...) must be a CompileRate or None, "
            f"got {type(value).__name__}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CompileRate:
    """How often new programs may be compiled, and for how long altogether.

    A rate is a bucket that starts full and refills steadily. In any span of ``t``
    seconds at most ``burst + compiles * t / per_s`` compilations start. The seconds
    that compilations took are charged when they end; while more than
    ``compile_seconds`` are owed, none starts.

    Attributes:
        compiles: How many compilations may start per ``per_s`` seconds in the long
            run, or ``None`` to count seconds only.
        per_s: The span that ``compiles`` and ``compile_seconds`` refer to, in seconds.
        burst: How many may start at once after a quiet time; ``compiles`` if ``None``.
        compile_seconds: How many seconds of compiling per ``per_s`` seconds in the
            long run, and at once after a quiet time; ``None`` for no such budget.

    Raises:
        TypeError: A field has the wrong type.
        ValueError: A field is out of range, nothing is limited, or there is a
            ``burst`` without ``compiles``.

    Example:
        >>> import safejax
        >>> rate = safejax.CompileRate(compiles=10, per_s=60.0, burst=4)
        >>> rate.burst, rate.compile_seconds
        (4, None)
    """

    compiles: int | None = None
    per_s: float = 60.0
    burst: int | None = None
    compile_seconds: float | None = None

    def __post_init__(self) -> None:
        _check_seconds("CompileRate", "per_s", self.per_s)
        if self.compiles is not None:
            check_count("CompileRate", "compiles", self.compiles, least=1)
        if self.burst is not None:
            check_count("CompileRate", "burst", self.burst, least=1)
        if self.compile_seconds is not None:
            _check_seconds("CompileRate", "compile_seconds", self.compile_seconds)
        if self.compiles is None and self.compile_seconds is None:
            raise ValueError("CompileRate() needs compiles=... or compile_seconds=...")
        if self.compiles is None and self.burst is not None:
            raise ValueError("CompileRate(burst=...) needs compiles=...")


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
        compile_timeout_s: How many seconds one new program may take, from waiting for
            a worker to the end of its compilation; ``None`` for no deadline.
        compile_memory_bytes: How far one compilation may grow the memory of the
            process it runs in, in bytes; ``None`` for no limit.
        rate: How often the function may compile; ``None`` for no limit of its own.
        retry_backoff_s: How long a signature whose compilation failed is refused, in
            seconds; doubles with each failure in a row, up to 300 s.
        max_orphans: How many compilations that outlived their deadline may go on at
            once, where they can't be killed (``isolation="thread"``).

    Raises:
        TypeError: A limit has the wrong type.
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
    compile_timeout_s: float | None = None
    compile_memory_bytes: int | None = None
    rate: CompileRate | None = None
    retry_backoff_s: float = 1.0
    max_orphans: int = 2

    def __post_init__(self) -> None:
        check_count("Limits", "max_compiles", self.max_compiles, least=1)
        check_count("Limits", "warn_compiles", self.warn_compiles, least=1)
        check_count("Limits", "max_static_bytes", self.max_static_bytes, least=1)
        if self.compile_timeout_s is not None:
            _check_seconds("Limits", "compile_timeout_s", self.compile_timeout_s)
        if self.compile_memory_bytes is not None:
            check_count(
                "Limits", "compile_memory_bytes", self.compile_memory_bytes, least=1
            )
        _check_rate("Limits", "rate", self.rate)
        _check_seconds("Limits", "retry_backoff_s", self.retry_backoff_s)
        check_count("Limits", "max_orphans", self.max_orphans, least=0)
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
        rate: How often they may compile together; ``None`` for no limit.
        tenant_rate: How often each tenant (:func:`safejax.tenant`) may make them
            compile; ``None`` for no limit. Made-up tenants each have a rate of their
            own, so also give ``rate`` where callers choose their names.
        max_compiles_per_tenant: How many live XLA programs one tenant may own in all
            functions together; ``None`` for no limit.
        max_tenants: How many tenants are told apart. Further ones share one rate until
            another tenant has been quiet long enough to be forgotten at no loss.

    Raises:
        TypeError: A limit has the wrong type.
        ValueError: A limit is out of range.

    Example:
        >>> import safejax
        >>> safejax.ProcessLimits(max_compiles=100).max_compiles
        100
    """

    max_compiles: int = 4096
    rate: CompileRate | None = None
    tenant_rate: CompileRate | None = None
    max_compiles_per_tenant: int | None = None
    max_tenants: int = 10_000

    def __post_init__(self) -> None:
        check_count("ProcessLimits", "max_compiles", self.max_compiles, least=1)
        _check_rate("ProcessLimits", "rate", self.rate)
        _check_rate("ProcessLimits", "tenant_rate", self.tenant_rate)
        if self.max_compiles_per_tenant is not None:
            check_count(
                "ProcessLimits",
                "max_compiles_per_tenant",
                self.max_compiles_per_tenant,
                least=1,
            )
        check_count("ProcessLimits", "max_tenants", self.max_tenants, least=1)
