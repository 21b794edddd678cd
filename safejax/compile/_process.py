"""What all ``safe_jit`` functions of the process own together."""

from __future__ import annotations

import dataclasses
import os
import threading
import weakref
from collections import Counter
from typing import Any, Protocol

from safejax import _jax
from safejax.compile._events import emit
from safejax.compile._rates import RateBook
from safejax.limits import CompileRate, ProcessLimits


@dataclasses.dataclass(slots=True)
class Owned:
    """One program: whose it is, and the backend that can tell whether it lives."""

    ledger_id: int
    client: Any
    tenant: str | None = None


class Account(Protocol):
    """What the process asks of each ledger."""

    def forget_threads(self) -> None:
        """In a forked child: what other threads had under way is not here."""


class Process:
    """The programs of all ledgers, under one lock: every entry costs microseconds."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.limits = ProcessLimits()
        self.rates = RateBook()
        self.programs: dict[int, Owned] = {}
        self.reserved = 0
        # The same by tenant: racing threads must not exceed a tenant's cap either.
        self.reserved_by: Counter[str] = Counter()
        self.frozen = False
        self.accounts: weakref.WeakSet[Account] = weakref.WeakSet()

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

    def hold(self) -> None:
        """Takes the lock: the one that is in force when it is called."""
        self.changed.acquire()

    def let_go(self) -> None:
        """Gives the lock back."""
        self.changed.release()

    def forget_threads(self) -> None:
        """In a forked child: no other thread lives, to compile or to hold the lock."""
        self.changed = threading.Condition(threading.RLock())
        self.reserved = 0
        self.reserved_by.clear()
        for account in list(self.accounts):
            account.forget_threads()


process = Process()
if hasattr(os, "register_at_fork"):
    # Held across the fork, so that the child finds every ledger in one piece.
    os.register_at_fork(
        before=process.hold,
        after_in_parent=process.let_go,
        after_in_child=process.forget_threads,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProcessStats:
    """What all ``safe_jit`` functions of the process own together.

    Attributes:
        max_compiles: The budget of the process.
        live: How many compiled programs are alive.
        tenants: How many tenants are told apart.
        frozen: Whether :func:`freeze` is in force.

    Example:
        >>> import safejax
        >>> safejax.process_stats().live <= safejax.process_stats().max_compiles
        True
    """

    max_compiles: int
    live: int
    tenants: int
    frozen: bool


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
        if _rates_of(before) != _rates_of(limits):
            process.rates = RateBook(*_rates_of(limits))
    return before


def _rates_of(
    limits: ProcessLimits,
) -> tuple[CompileRate | None, CompileRate | None, int]:
    return limits.rate, limits.tenant_rate, limits.max_tenants


def freeze() -> None:
    """From now on no ``safe_jit`` function of the process compiles a new program.

    Known signatures are served as before. Warm up, freeze, serve.

    Example:
        >>> import safejax
        >>> safejax.freeze()
        >>> safejax.process_stats().frozen
        True
        >>> safejax.unsafe_unfreeze()
    """
    with process.changed:
        process.frozen = True
    emit("frozen", "")


def unsafe_unfreeze() -> None:
    """Undoes :func:`freeze`: new programs are compiled again, within the limits.

    Example:
        >>> import safejax
        >>> safejax.unsafe_unfreeze()
    """
    with process.changed:
        process.frozen = False


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
            max_compiles=process.limits.max_compiles,
            live=len(process.programs),
            tenants=process.rates.tenants(),
            frozen=process.frozen,
        )


# The name users know them by, in messages and pickles.
ProcessStats.__module__ = "safejax"
set_process_limits.__module__ = "safejax"
process_stats.__module__ = "safejax"
freeze.__module__ = "safejax"
unsafe_unfreeze.__module__ = "safejax"
