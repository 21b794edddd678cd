"""What all ``safe_jit`` functions of the process own together."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

from safejax import _jax
from safejax.limits import ProcessLimits


@dataclasses.dataclass(slots=True)
class Owned:
    """One program: whose it is, and the backend that can tell whether it lives."""

    ledger_id: int
    client: Any


class Process:
    """The programs of all ledgers, under one lock: every entry costs microseconds."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.limits = ProcessLimits()
        self.programs: dict[int, Owned] = {}
        self.reserved = 0

    def forget(self, program_id: int) -> None:
        """Drops a program whose address now belongs to another one."""
        if program_id in self.programs:
            with self.changed:
                self.programs.pop(program_id, None)

    def prune(self) -> None:
        """Forgets the programs that are no longer alive. Call under the lock."""
        clients = list(
            {id(p.client): p.client for p in self.programs.values()}.values()
        )
        live = _jax.live_program_ids(clients)
        for program_id in self.programs.keys() - live:
            del self.programs[program_id]


process = Process()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProcessStats:
    """What all ``safe_jit`` functions of the process own together.

    Attributes:
        max_compiles: The budget of the process.
        live: How many compiled programs are alive.

    Example:
        >>> import safejax
        >>> safejax.process_stats().live <= safejax.process_stats().max_compiles
        True
    """

    max_compiles: int
    live: int


def set_process_limits(limits: ProcessLimits) -> ProcessLimits:
    """Sets what all ``safe_jit`` functions of the process may own together.

    Args:
        limits: The new limits. Programs that are already live stay.

    Returns:
        The limits that were in force before.

    Raises:
        TypeError: ``limits`` is not a :class:`ProcessLimits`.

    Example:
        >>> import safejax
        >>> before = safejax.set_process_limits(safejax.ProcessLimits(max_compiles=512))
        >>> safejax.set_process_limits(before).max_compiles
        512
    """
    if not isinstance(limits, ProcessLimits):
        raise TypeError(
            f"set_process_limits() takes safejax.ProcessLimits, "
            f"got {type(limits).__name__}"
        )
    with process.changed:
        before, process.limits = process.limits, limits
    return before


def process_stats() -> ProcessStats:
    """Counts the programs that all ``safe_jit`` functions own together.

    Example:
        >>> import safejax
        >>> safejax.process_stats().max_compiles
        4096
    """
    with process.changed:
        process.prune()
        return ProcessStats(
            max_compiles=process.limits.max_compiles, live=len(process.programs)
        )


# The name users know them by, in messages and pickles.
ProcessStats.__module__ = "safejax"
set_process_limits.__module__ = "safejax"
process_stats.__module__ = "safejax"
