"""Limits as data: frozen, keyword-only, the unit in every name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

_ON_LIMIT = ("raise", "evict")
_BUDGETS = (
    "max_equations",
    "max_constant_bytes",
    "max_output_bytes",
    "max_memory_bytes",
    "max_loop_nesting",
    "max_process_memory_bytes",
)
_SERVING: dict[str, Any] = {
    "compile_timeout_s": 60.0,
    "compile_memory_bytes": 4 * 2**30,
    "max_equations": 50_000,
    "trace_timeout_s": 20.0,
    "max_constant_bytes": 16 * 2**20,
    "max_output_bytes": 256 * 2**20,
    "max_memory_bytes": 4 * 2**30,
    "max_flops": 1e13,
    "max_loop_nesting": 4,
}

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


def check_seconds(owner: str, name: str, value: object) -> None:
    """Refuses what is no number of seconds over zero.

    Raises:
        TypeError: It is not a number.
        ValueError: It is zero, negative, not finite or over thirty years.
    """
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


def _check_flops(owner: str, name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(
            f"{owner}({name}=...) must be a number, got {type(value).__name__}"
        )
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{owner}({name}=...) must be at least 0, got {value}")


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
        check_seconds("CompileRate", "per_s", self.per_s)
        if self.compiles is not None:
            check_count("CompileRate", "compiles", self.compiles, least=1)
        if self.burst is not None:
            check_count("CompileRate", "burst", self.burst, least=1)
        if self.compile_seconds is not None:
            check_seconds("CompileRate", "compile_seconds", self.compile_seconds)
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
        max_equations: How many equations a traced program may have, those of nested
            programs included; enforced while it is traced. ``None`` for no limit.
        trace_timeout_s: How many seconds a trace may take, looked at at each
            primitive; ``None`` for no limit.
        max_constant_bytes: How large the arrays may be, together, that a program
            captures instead of taking them as arguments, in bytes.
        max_output_bytes: How large the results may be together, in bytes.
        max_memory_bytes: How much memory arguments, results and the buffers between
            them may need at the peak, in bytes per device: estimated before
            compilation and compared with what XLA says after it.
        max_flops: How many floating-point operations one call may take, estimated.
        max_loop_nesting: How many loops may stand inside one another.
        max_process_memory_bytes: How large the process may become, in bytes of
            resident memory, or of the device's where it tells: a call whose program
            would not fit into what is left is refused. Costs a look at each call.

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
    max_equations: int | None = 1_000_000
    trace_timeout_s: float | None = None
    max_constant_bytes: int | None = None
    max_output_bytes: int | None = None
    max_memory_bytes: int | None = None
    max_flops: float | None = None
    max_loop_nesting: int | None = None
    max_process_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        check_count("Limits", "max_compiles", self.max_compiles, least=1)
        check_count("Limits", "warn_compiles", self.warn_compiles, least=1)
        check_count("Limits", "max_static_bytes", self.max_static_bytes, least=1)
        if self.compile_timeout_s is not None:
            check_seconds("Limits", "compile_timeout_s", self.compile_timeout_s)
        if self.compile_memory_bytes is not None:
            check_count(
                "Limits", "compile_memory_bytes", self.compile_memory_bytes, least=1
            )
        _check_rate("Limits", "rate", self.rate)
        check_seconds("Limits", "retry_backoff_s", self.retry_backoff_s)
        check_count("Limits", "max_orphans", self.max_orphans, least=0)
        for name in _BUDGETS:
            if getattr(self, name) is not None:
                check_count("Limits", name, getattr(self, name), least=0)
        if self.trace_timeout_s is not None:
            check_seconds("Limits", "trace_timeout_s", self.trace_timeout_s)
        if self.max_flops is not None:
            _check_flops("Limits", "max_flops", self.max_flops)
        if self.on_limit not in _ON_LIMIT:
            raise ValueError(
                f"Limits(on_limit=...) must be one of {_ON_LIMIT}, "
                f"got {self.on_limit!r}"
            )

    @classmethod
    def serving(cls, **changes: Any) -> Limits:
        """Limits for a process that answers requests it does not trust.

        Args:
            **changes: Fields that differ from the preset.

        Example:
            >>> import safejax
            >>> strict = safejax.Limits.serving(max_compiles=8)
            >>> strict.max_compiles, strict.max_loop_nesting
            (8, 4)
        """
        return cls(**{**_SERVING, **changes})


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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoadLimits:
    """How large a signed file may be, and what it contains.

    Attributes:
        max_header_bytes: How long the signed header may be, in bytes. So much is read
            of a file whose signature is not checked yet.
        max_data_bytes: How much data a file may hold, and a checkpoint of many files
            together, in bytes.
        max_leaves: How many arrays and scalars there may be.
        max_depth: How deep containers may be nested.
        max_files: How many files a checkpoint of many processes may have.

    Raises:
        TypeError: A limit is not an integer.
        ValueError: A limit is less than 1.

    Example:
        >>> import safejax
        >>> safejax.LoadLimits(max_data_bytes=2**30).max_leaves
        1000000
    """

    max_header_bytes: int = 100_000_000
    max_data_bytes: int = 2**40
    max_leaves: int = 1_000_000
    max_depth: int = 100
    max_files: int = 10_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_count("LoadLimits", field.name, getattr(self, field.name), least=1)
