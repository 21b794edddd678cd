"""The figures of one function."""

from __future__ import annotations

import dataclasses

from safejax.compile._ledger import Ledger


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """What one ``safe_jit`` function has compiled, refused and kept.

    Attributes:
        function: Name of the function.
        max_compiles: Its cap on live programs.
        live: Compiled programs that are alive now.
        compiles: Programs obtained from XLA since the function was made.
        refused: New programs refused at a cap.
        evicted: Signatures dropped to make room.
        violations: Calls refused by the contract.
        program_bytes: Size of the live programs, serialized, in bytes.
        trace_s: Time spent tracing, in seconds.
        compile_s: Time spent in XLA, in seconds.

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
    evicted: int
    violations: int
    program_bytes: int
    trace_s: float
    compile_s: float


def stats_of(ledger: Ledger, *, violations: int = 0) -> Stats:
    """The figures of a ledger under the name of its function."""
    counts = ledger.counts()
    return Stats(
        function=ledger.name,
        max_compiles=ledger.limits.max_compiles,
        live=counts.live,
        compiles=counts.compiles,
        refused=counts.refused,
        evicted=counts.evicted,
        violations=violations,
        program_bytes=counts.program_bytes,
        trace_s=counts.trace_s,
        compile_s=counts.compile_s,
    )


# The name users know them by, in messages and pickles.
Stats.__module__ = "safejax"
