"""The ledger: which XLA programs each function owns, and whether one more may come.

The count is of *live* programs, whatever caused them. An executable can't be referred
to weakly, so the ledger keeps identities and asks the backend which of them are still
alive: what JAX, the garbage collector or the user has dropped stops counting at once.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import override

from safejax import _jax
from safejax.compile import _explain, _refusals, _rows
from safejax.compile._backoff import Backoff
from safejax.compile._deadline import Deadline
from safejax.compile._events import emit
from safejax.compile._flights import Flights
from safejax.compile._process import Owned, process
from safejax.compile._rates import Bucket, Grant, Refusal
from safejax.compile._room import Book
from safejax.compile._tenant import current_tenant
from safejax.errors import CompileLimitError
from safejax.limits import Limits

_log = logging.getLogger("safejax.compile")

# Signatures remembered for advice: few, so that a flood can't fill memory (T3).
_HISTORY = 256

_NO_THREAD = 0  # has a program under way that no caller waits for
# The phases whose time is counted, in the order in which a program passes them.
PHASES = ("trace", "lower", "queue", "compile", "load")

_ids = itertools.count()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What one ledger has counted so far."""

    live: int
    compiles: int
    refusals: dict[str, int]
    evicted: int
    kills: int
    tenants: dict[str, int]
    seconds: dict[str, float]
    program_bytes: int


class Ledger:
    """The programs of one function under one set of limits."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        *,
        parameters: Sequence[str] = (),
        static_argnums: Sequence[int] = (),
        flights: Flights | None = None,
    ) -> None:
        self._id = next(_ids)
        self.name = name
        self.limits = limits
        self.parameters = tuple(parameters)
        self.static_argnums = tuple(static_argnums)
        self.evict: Callable[[], bool] | None = None
        self._programs: set[int] = set()
        self._known: OrderedDict[_jax.Signature, None] = OrderedDict()
        self._flights = flights or Flights()
        self._reserved = 0
        self._history: deque[_rows.Outline] = deque(maxlen=_HISTORY)
        self._warned = False
        self._backoff = Backoff(limits.retry_backoff_s)
        self._bucket = None if limits.rate is None else Bucket(limits.rate)
        self.frozen = False
        self.needs = Book()
        self._compiles = self._evicted = self._kills = 0
        self._untold = 0
        self._refusals: Counter[str] = Counter()
        self._seconds = dict.fromkeys(PHASES, 0.0)
        process.accounts.add(self)

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled function starts its own account where it is loaded.
        return (
            functools.partial(
                Ledger, parameters=self.parameters, static_argnums=self.static_argnums
            ),
            (self.name, self.limits),
        )

    # --- asking -------------------------------------------------------------------

    def counts(self) -> Counts:
        """The figures for ``stats()``; sizes are those of the live programs."""
        with process.changed:
            process.prune()
            mine = self._mine()
        by_client: dict[int, tuple[Any, set[int]]] = {}
        for program_id, owned in mine.items():
            by_client.setdefault(id(owned.client), (owned.client, set()))[1].add(
                program_id
            )
        sizes = [_jax.program_bytes(*pair) for pair in by_client.values()]
        return Counts(
            live=len(mine),
            compiles=self._compiles,
            refusals=dict(self._refusals),
            evicted=self._evicted,
            kills=self._kills,
            tenants=dict(Counter(o.tenant for o in mine.values() if o.tenant)),
            seconds=dict(self._seconds),
            program_bytes=sum(sum(size.values()) for size in sizes),
        )

    def is_known(self, key: _jax.Signature) -> bool:
        """Whether a call with this key can be served without a new trace."""
        return key in self._known

    def is_in_flight(self, key: _jax.Signature) -> bool:
        """Whether a program for this key is being made."""
        return key in self._flights

    def expected_s(self) -> float:
        """How long a program of this function takes, from those before, in seconds."""
        with process.changed:
            spent = sum(self._seconds.values())
            return max(0.1, spent / self._compiles if self._compiles else 1.0)

    def refuse_if_full(self, key: _jax.Signature) -> None:
        """Refuses a new signature before JAX hears of it.

        Raises:
            CompileLimitError: A cap, a rate, a freeze or a back-off stands against it.
        """
        if key in self._known:
            return
        try:
            with process.changed:
                if key in self._known or key in self._flights:
                    return
                self._check_signature(key)
                self._checked(key).refund()
        except CompileLimitError as error:
            emit("refused", self.name, tenant=current_tenant(), code=error.code)
            raise

    # --- admitting ----------------------------------------------------------------

    def enter(
        self, key: _jax.Signature, deadline: Deadline, *, wait: bool = True
    ) -> Grant | None:
        """Starts a call; the grant for its program if it is the first with this key.

        A second thread with the same key waits here until the first has compiled;
        without ``wait`` it is told at once that it is not the first, and what it
        starts is no thread's in particular: all others wait for it.

        Raises:
            CompileLimitError: A cap, a rate, a freeze or a back-off stands against it.
            CompileTimeoutError: The time is up before the first thread is done.
        """
        me = threading.get_ident() if wait else _NO_THREAD
        with process.changed:
            # The same thread may come back from a callback: waiting would deadlock.
            while key not in self._known and self._flights.is_anothers(key, me):
                if not wait:
                    return None
                if not self._flights.wait(key, deadline):
                    raise _refusals.too_late(self.name, deadline, "queue")
            if key in self._known:
                self._known.move_to_end(key)
                return None
            if not wait and key in self._flights:
                return None
            self._check_signature(key)
            grant = self.reserve(key)
            self._flights.begin(key, me)
            return grant

    def wanted_until(self, key: _jax.Signature | None) -> float | None:
        """Until when other callers wait for this signature, or ``None``."""
        with process.changed:
            return None if key is None else self._flights.wanted_until(key)

    def leave(self, key: _jax.Signature, *, known: bool) -> None:
        """Ends what ``enter`` started and lets the waiting threads go on."""
        with process.changed:
            if known:
                self._remember(key)
            self._flights.end(key)

    def reserve(self, key: _jax.Signature | None) -> Grant:
        """Takes a place for one program, evicting another where that is asked for.

        Raises:
            CompileLimitError: A cap, a rate or a freeze stands against it.
        """
        with process.changed:
            grant = self._checked(key)
            if self.evict is not None:
                # Last: a call that is refused must not cost others their programs.
                try:
                    self._check_room(key)
                except CompileLimitError:
                    grant.refund()
                    raise
            self._reserved += 1
            process.reserved += 1
            tenant = current_tenant()
            if tenant is not None:
                process.reserved_by[tenant] += 1
            return grant

    def release(self) -> None:
        """Gives back a place that :meth:`reserve` took."""
        with process.changed:
            # Not below zero: a forked child starts without its parent's places.
            self._reserved = max(0, self._reserved - 1)
            process.reserved = max(0, process.reserved - 1)
            tenant = current_tenant()
            if tenant is not None:
                process.reserved_by[tenant] -= 1
                if process.reserved_by[tenant] <= 0:
                    del process.reserved_by[tenant]

    def failed(
        self, key: _jax.Signature | None, *, killed: bool, why: str = ""
    ) -> None:
        """Notes that a program was not brought to an end."""
        with process.changed:
            self._kills += killed
        if key is not None:
            self._backoff.failed(key, why)

    def record(self, program: _jax.Program, key: _jax.Signature | None) -> None:
        """Enters a finished program in the place that was reserved for it."""
        with process.changed:
            self.release()
            owned = Owned(self._id, program.client, current_tenant())
            process.programs[program.id] = owned
            self._programs.add(program.id)
            if key is not None:
                self._remember(key)
                self._backoff.succeeded(key)
            self._compiles += 1
            live = len(self._mine())
        if live >= self.limits.warn_compiles and not self._warned:
            self._warned = True
            _log.warning(
                "%s() owns %d compiled programs (max_compiles=%d). %s",
                self.name,
                live,
                self.limits.max_compiles,
                self._advice(tuple(self._history)),
            )

    def spent(self, phase: str, seconds: float) -> None:
        """Adds to the time of one phase, in seconds."""
        with process.changed:
            self._seconds[phase] += seconds

    def refused(self, code: str) -> None:
        """Counts one refusal under its code."""
        with process.changed:
            self._refusals[code] += 1

    def forget(self) -> None:
        """Forgets the signatures; programs that survive elsewhere stay counted."""
        with process.changed:
            self._known.clear()
            self._history.clear()
            self._warned = False

    def forget_key(self, key: _jax.Signature) -> None:
        """Forgets one evicted signature."""
        with process.changed:
            self._known.pop(key, None)
            self._evicted += 1
            self._untold += 1

    def untold_evictions(self) -> int:
        """How many signatures were evicted since this was asked last."""
        with process.changed:
            count, self._untold = self._untold, 0
            return count

    def forget_threads(self) -> None:
        """In a forked child: what other threads had under way is not here."""
        self._flights.clear()
        self._reserved = 0

    # --- under the lock -----------------------------------------------------------

    def _remember(self, key: _jax.Signature) -> None:
        if key not in self._known:
            self._history.append(_rows.outline(key))
        self._known[key] = None
        while len(self._known) > max(64, 4 * self.limits.max_compiles):
            self._known.popitem(last=False)

    def _mine(self) -> dict[int, Owned]:
        pairs = ((i, process.programs.get(i)) for i in self._programs)
        # An address that was given out again may belong to another ledger by now.
        mine = {i: p for i, p in pairs if p is not None and p.ledger_id == self._id}
        self._programs = set(mine)
        return mine

    def _check_signature(self, key: _jax.Signature) -> None:
        retry_after_s = self._backoff.retry_after_s(key)
        if retry_after_s is not None:
            why = self._backoff.why(key)
            raise self._counted(_refusals.backing_off(self.name, retry_after_s, why))

    def _check_room(self, key: _jax.Signature | None) -> None:
        process.prune()
        while len(self._mine()) + self._reserved >= self.limits.max_compiles:
            if self.evict is None or not self.evict():
                raise self._counted(self._full(key))
            process.prune()
        total = len(process.programs) + process.reserved
        limit = process.limits.max_compiles
        if total >= limit:
            raise self._counted(_refusals.process_full(self.name, total, limit))

    def _check_tenant(self) -> None:
        tenant, limit = current_tenant(), process.limits.max_compiles_per_tenant
        if tenant is None or limit is None:
            return
        process.prune()
        live = sum(p.tenant == tenant for p in process.programs.values())
        live += process.reserved_by[tenant]
        if live >= limit:
            raise self._counted(_refusals.tenant_full(self.name, live, limit))

    def _checked(self, key: _jax.Signature | None) -> Grant:
        if self.frozen or process.frozen:
            error = _refusals.frozen(self.name, whole_process=not self.frozen)
            raise self._counted(error)
        if self.evict is None:
            self._check_room(key)
        self._check_tenant()
        grant = process.rates.take(self._bucket, current_tenant())
        if isinstance(grant, Refusal):
            raise self._counted(_refusals.rate_exceeded(self.name, grant))
        return grant

    def _counted(self, error: CompileLimitError) -> CompileLimitError:
        self._refusals[error.code] += 1
        return error

    def _full(self, key: _jax.Signature | None) -> CompileLimitError:
        if key is not None:
            self._history.append(_rows.outline(key))
        known, history = tuple(self._known), tuple(self._history)
        new = None if key is None else _rows.outline(key)

        def difference() -> list[str]:
            if new is None:
                return []
            return _explain.difference(
                self._rows(new), [self._rows(_rows.outline(k)) for k in known]
            )

        live, limit = len(self._mine()), self.limits.max_compiles
        return _refusals.full(
            self.name, live, limit, difference, lambda: self._advice(history)
        )

    def _advice(self, history: tuple[_rows.Outline, ...]) -> str:
        return _explain.advice([self._rows(seen) for seen in history])

    def _rows(self, seen: _rows.Outline) -> list[_rows.Row]:
        return _rows.rows(seen, self.parameters, self.static_argnums)
