"""The figures of one function."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from safejax.compile._ledger import Ledger


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """What one ``safe_jit`` function has compiled, refused and kept.

    Attributes:
        function: Name of the function.
        max_compiles: Its cap on live programs.
        live: Compiled programs that are alive now.
        compiles: Programs obtained from XLA since the function was made.
        refused: New programs that were refused.
        refusals: The same by code, such as ``{"SJ201": 3}``.
        evicted: Signatures dropped to make room.
        kills: Compilations that were killed.
        tenants: Live programs by the tenant they were made for.
        violations: Calls refused by the contract.
        program_bytes: Size of the live programs, serialized, in bytes.
        trace_s: Time spent tracing, in seconds.
        lower_s: Time spent lowering to StableHLO, in seconds.
        queue_s: Time spent waiting for a compile worker, in seconds.
        compile_s: Time spent in XLA, in seconds.
        load_s: Time spent loading what a worker compiled, in seconds.

    Example:
        >>> import safejax
        >>> double = safejax.safe_jit(lambda x: 2 * x)
        >>> _ = double(1.0)
        >>> double.stats().live
        1
    """

    function: str
    max_compiles: int
    live: int
    compiles: int
    refused: int
    refusals: Mapping[str, int] = dataclasses.field(hash=False)
    evicted: int
    kills: int
    tenants: Mapping[str, int] = dataclasses.field(hash=False)
    violations: int
    program_bytes: int
    trace_s: float
    lower_s: float
    queue_s: float
    compile_s: float
    load_s: float


def stats_of(ledger: Ledger, *, violations: int = 0) -> Stats:
    """The figures of a ledger under the name of its function."""
    counts = ledger.counts()
    return Stats(
        function=ledger.name,
        max_compiles=ledger.limits.max_compiles,
        live=counts.live,
        compiles=counts.compiles,
        refused=sum(counts.refusals.values()),
        refusals=counts.refusals,
        evicted=counts.evicted,
        kills=counts.kills,
        tenants=counts.tenants,
        violations=violations,
        program_bytes=counts.program_bytes,
        **{f"{phase}_s": seconds for phase, seconds in counts.seconds.items()},
    )


# The name users know them by, in messages and pickles.
Stats.__module__ = "safejax"
