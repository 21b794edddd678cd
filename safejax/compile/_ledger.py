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
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import override

from safejax import _jax
from safejax.compile import _explain, _rows
from safejax.compile._process import Owned, process
from safejax.errors import CompileLimitError
from safejax.limits import Limits

_log = logging.getLogger("safejax.compile")

# Signatures remembered for the advice in an error: enough to see a pattern, few
# enough that a flood of refusals can't fill memory (T3).
_HISTORY = 256

_ids = itertools.count()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What one ledger has counted so far."""

    live: int
    compiles: int
    refused: int
    evicted: int
    trace_s: float
    compile_s: float
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
    ) -> None:
        self._id = next(_ids)
        self.name = name
        self.limits = limits
        self.parameters = tuple(parameters)
        self.static_argnums = tuple(static_argnums)
        self.evict: Callable[[], bool] | None = None
        self._programs: set[int] = set()
        self._known: OrderedDict[_jax.Signature, None] = OrderedDict()
        self._in_flight: dict[_jax.Signature, int] = {}
        self._reserved = 0
        self._history: deque[_rows.Outline] = deque(maxlen=_HISTORY)
        self._warned = False
        self._compiles = self._refused = self._evicted = 0
        self._trace_s = self._compile_s = 0.0

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
            refused=self._refused,
            evicted=self._evicted,
            trace_s=self._trace_s,
            compile_s=self._compile_s,
            program_bytes=sum(sum(size.values()) for size in sizes),
        )

    def is_known(self, key: _jax.Signature) -> bool:
        """Whether a call with this key can be served without a new trace."""
        return key in self._known

    def refuse_if_full(self, key: _jax.Signature) -> None:
        """Refuses a new signature at the cap before JAX hears of it.

        Raises:
            CompileLimitError: The function or the process is at its limit.
        """
        if self.evict is not None or key in self._known:
            return
        with process.changed:
            if key not in self._known and key not in self._in_flight:
                self._check_room(key)

    # --- admitting ----------------------------------------------------------------

    def enter(self, key: _jax.Signature) -> bool:
        """Starts a call; true if it is the first with this key, and reserves for it.

        A second thread with the same key waits here until the first has compiled.

        Raises:
            CompileLimitError: The function or the process is at its limit.
        """
        me = threading.get_ident()
        with process.changed:
            # The same thread may come back from a callback: waiting would deadlock.
            while key not in self._known and self._in_flight.get(key, me) != me:
                process.changed.wait()
            if key in self._known:
                self._known.move_to_end(key)
                return False
            self.reserve(key)
            self._in_flight[key] = me
            return True

    def leave(self, key: _jax.Signature, *, known: bool) -> None:
        """Ends what ``enter`` started and lets the waiting threads go on."""
        with process.changed:
            if known:
                self._remember(key)
            self._in_flight.pop(key, None)
            process.changed.notify_all()

    def reserve(self, key: _jax.Signature | None) -> None:
        """Takes a place for one program, evicting another where that is asked for.

        Raises:
            CompileLimitError: The function or the process is at its limit.
        """
        with process.changed:
            self._check_room(key)
            self._reserved += 1
            process.reserved += 1

    def release(self) -> None:
        """Gives back a place that :meth:`reserve` took."""
        with process.changed:
            self._reserved -= 1
            process.reserved -= 1

    def record(self, program: _jax.Program, key: _jax.Signature | None) -> None:
        """Enters a finished program in the place that was reserved for it."""
        with process.changed:
            self.release()
            process.programs[program.id] = Owned(self._id, program.client)
            self._programs.add(program.id)
            if key is not None:
                self._remember(key)
            self._compiles += 1
            self._compile_s += program.seconds
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

    def add_trace_time(self, seconds: float) -> None:
        """Adds the time of one trace, in seconds."""
        with process.changed:
            self._trace_s += seconds

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

    def _check_room(self, key: _jax.Signature | None) -> None:
        process.prune()
        while len(self._mine()) + self._reserved >= self.limits.max_compiles:
            if self.evict is None or not self.evict():
                raise self._refusal(key)
            process.prune()
        total = len(process.programs) + process.reserved
        if total >= process.limits.max_compiles:
            raise self._process_refusal(total)

    def _refusal(self, key: _jax.Signature | None) -> CompileLimitError:
        self._refused += 1
        if key is not None:
            self._history.append(_rows.outline(key))
        known, history = tuple(self._known), tuple(self._history)
        new = None if key is None else _rows.outline(key)
        limit, name, live = self.limits.max_compiles, self.name, len(self._mine())

        def difference() -> list[str]:
            if new is None:
                return []
            return _explain.difference(
                self._rows(new), [self._rows(_rows.outline(k)) for k in known]
            )

        def message() -> str:
            lines = [
                f"{name}() refused a new program: "
                f"{live} of max_compiles={limit} are live",
                *(f"  {line}" for line in difference()),
            ]
            return "\n".join(lines)

        return CompileLimitError(
            message,
            code="SJ201",
            details=lambda: {
                "function": name,
                "max_compiles": limit,
                "live": live,
                "difference": difference(),
                "advice": self._advice(history),
            },
            hint=lambda: self._advice(history),
        )

    def _process_refusal(self, total: int) -> CompileLimitError:
        self._refused += 1
        limit, name = process.limits.max_compiles, self.name
        return CompileLimitError(
            f"{name}() refused a new program: the process owns {total} of "
            f"max_compiles={limit}",
            code="SJ202",
            details={"function": name, "max_compiles": limit, "live": total},
            hint="free programs with clear_cache(), or set_process_limits() higher",
        )

    def _advice(self, history: tuple[_rows.Outline, ...]) -> str:
        return _explain.advice([self._rows(seen) for seen in history])

    def _rows(self, seen: _rows.Outline) -> list[_rows.Row]:
        return _rows.rows(seen, self.parameters, self.static_argnums)


class Admission:
    """One call that may compile: the owner JAX's compilations are charged to."""

    def __init__(self, ledger: Ledger, key: _jax.Signature | None) -> None:
        self._ledger = ledger
        self._key = key
        self._entered = False
        self._ticket = False

    def enter(self) -> bool:
        """Whether this call is the first with its key. See :meth:`Ledger.enter`."""
        if self._key is None:
            return False
        self._entered = self._ticket = self._ledger.enter(self._key)
        return self._entered

    def leave(self, *, known: bool) -> None:
        """Ends the call; gives back what it did not use. Harmless when repeated."""
        if self._ticket:
            self._ticket = False
            self._ledger.release()
        if self._entered and self._key is not None:
            self._entered = False
            self._ledger.leave(self._key, known=known)

    def begin_compile(self) -> None:
        """Admits one compilation: the one reserved for, or one more."""
        if self._ticket:
            self._ticket = False
        else:
            self._ledger.reserve(self._key)

    def end_compile(self, program: _jax.Program | None) -> None:
        """Records the finished program, or gives its place back."""
        if program is None:
            self._ledger.release()
            return
        self._ledger.record(program, self._key)
        # The waiting threads may go on before the program has run: a host callback
        # in it may wait for one of them.
        self.leave(known=True)
