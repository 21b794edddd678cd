"""One call that may compile: whom JAX's compilations are charged to meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from safejax import _jax
from safejax.compile import _refusals
from safejax.compile._deadline import Deadline
from safejax.compile._events import emit
from safejax.compile._forked import inheritance
from safejax.compile._ledger import Ledger
from safejax.compile._rates import Grant
from safejax.compile._service import Isolation, Plan, service
from safejax.compile._tenant import current_tenant
from safejax.errors import (
    CompileLimitError,
    GuardError,
    ProgramRejectedError,
    SafeJaxError,
    WorkerError,
)
from safejax.review._conditions import Conditions


class Admission:
    """Asks the ledger, keeps the deadline, and enters what came of it."""

    def __init__(
        self,
        ledger: Ledger,
        key: _jax.Signature | None,
        isolation: Isolation | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        self._ledger = ledger
        self._conditions = conditions or Conditions(ledger.name, ledger.limits, None)
        self.key = key
        self._isolation = isolation
        self._deadline = Deadline(ledger.limits.compile_timeout_s)
        self._grant: Grant | None = None
        self._holds_place = False
        self._entered = False
        self._lowering = time.perf_counter()
        # Seconds by phase of the program under way, for whoever listens to events.
        self._phases: dict[str, float] = {}
        self._plan = self._planned()

    def enter(self, *, wait: bool = True) -> bool:
        """Whether this call is the first with its key. See :meth:`Ledger.enter`."""
        if self.key is None:
            return False
        try:
            self._grant = self._ledger.enter(self.key, self._deadline, wait=wait)
        except SafeJaxError as error:
            self._tell("refused", code=error.code)
            raise
        self._holds_place = self._entered = self._grant is not None
        if self._entered:
            self._tell_admitted()
            try:
                self._refuse_if_forked()
            except WorkerError:
                self.leave(known=False)
                raise
        return self._entered

    def _refuse_if_forked(self) -> None:
        if not inheritance.is_usable(self._deadline.remaining()):
            error = _refusals.forked(self._ledger.name)
            self._ledger.refused(error.code)
            self._tell("refused", code=error.code)
            raise error

    def excuse(self, seconds: float) -> None:
        """The caller was busy with something else; neither deadline nor phase."""
        self._deadline.excuse(seconds)
        self._lowering += seconds

    def traced(self, seconds: float) -> None:
        """The trace took this long; the deadline is for what follows."""
        self._deadline.excuse(seconds)
        self._spend("trace", seconds)
        self._lowering = time.perf_counter()

    def leave(self, *, known: bool) -> None:
        """Ends the call; gives back what it did not use. Harmless when repeated."""
        if self._holds_place:
            self._holds_place = False
            self._ledger.release()
        if self._grant is not None:
            self._grant.refund()
            self._grant = None
        if self._entered and self.key is not None:
            self._entered = False
            self._ledger.leave(self.key, known=known)

    # --- what JAX's compilation calls ---------------------------------------------

    def begin_compile(self, module: Any) -> None:
        """Admits one compilation: the one reserved for, or one more."""
        self._refuse_if_forked()
        with self.judging():
            self._conditions.module(module)
        if self._holds_place:
            self._holds_place = False
        else:
            # A further program of a known signature, or one made ahead of time.
            self._deadline = Deadline(self._ledger.limits.compile_timeout_s)
            try:
                self._grant = self._ledger.reserve(self.key)
            except CompileLimitError as error:
                self._tell("refused", code=error.code)
                raise
            self._tell_admitted()
            self._lowering = time.perf_counter()
        self._plan = self._planned()
        self._spend("lower", time.perf_counter() - self._lowering)

    def carry_out(self, task: _jax.CompileTask) -> Any:
        """Compiles where the plan says, within the deadline."""
        start = time.perf_counter()
        try:
            return service.compile(task, self._plan)
        except CompileLimitError as error:
            self._ledger.refused(error.code)
            self._tell("refused", code=error.code)
            raise
        except Exception as error:
            # Also XLA's own refusals: they cost as much the next time. But where only
            # this caller gave up, the others must not be turned away.
            if not self._plan.goes_on:
                self._ledger.failed(self.key, killed=self._plan.killed)
            kind = "killed" if self._plan.killed else "failed"
            code, phase = None, None
            if isinstance(error, SafeJaxError):
                code, phase = error.code, error.details.get("phase")
            spent = time.perf_counter() - start
            self._phases[phase or "compile"] = spent
            self._tell(kind, code=code, phase=phase, seconds=spent)
            raise

    def patience_s(self) -> float | None:
        """How long the caller will wait on, in seconds."""
        return self._deadline.remaining()

    def accept(self, needs: _jax.Needs) -> None:
        """Refuses a finished program that needs more than it may."""
        with self.judging():
            self._conditions.needs(needs)
        self._ledger.needs.record(self.key, needs.new)

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Records a refusal of the program itself, met in the block."""
        try:
            yield
        except (GuardError, ProgramRejectedError) as error:
            # What was refused at some expense is not tried again at once.
            self._ledger.refused(error.code)
            why = f"[{error.code}] {error.message}"
            self._ledger.failed(self.key, killed=False, why=why)
            self._tell("refused", code=error.code)
            raise

    def end_compile(self, program: _jax.Program | None) -> None:
        """Records the finished program, or gives its place back."""
        if program is None:
            self._ledger.release()
            self._charge(self._deadline.elapsed_s)
            return
        self._ledger.record(program, self.key)
        elsewhere = self._plan.queue_s + self._plan.load_s
        self._spend("queue", self._plan.queue_s)
        self._spend("compile", max(0.0, program.seconds - elsewhere))
        self._spend("load", self._plan.load_s)
        self._charge(program.seconds)
        self._tell("compiled", seconds=program.seconds)
        # The waiting threads may go on before the program has run: a host callback
        # in it may wait for one of them.
        self.leave(known=True)

    def _spend(self, phase: str, seconds: float) -> None:
        self._ledger.spent(phase, seconds)
        self._phases[phase] = seconds

    def _charge(self, seconds: float) -> None:
        if self._grant is not None:
            self._grant.finish(max(0.0, seconds))
            self._grant = None

    def _planned(self) -> Plan:
        return Plan(
            function=self._ledger.name,
            limits=self._ledger.limits,
            isolation=self._isolation,
            deadline=self._deadline,
            wanted_until=lambda: self._ledger.wanted_until(self.key),
        )

    def _tell_admitted(self) -> None:
        for _ in range(self._ledger.untold_evictions()):
            self._tell("evicted")
        self._tell("admitted")

    def _tell(
        self,
        kind: Any,
        *,
        code: str | None = None,
        phase: Any = None,
        seconds: float | None = None,
    ) -> None:
        details: dict[str, Any] = {}
        if kind in ("compiled", "killed", "failed"):
            phase = phase or "compile"
            details["phases"], self._phases = self._phases, {}
        emit(
            kind,
            self._ledger.name,
            tenant=current_tenant(),
            code=code,
            phase=phase,
            seconds=seconds,
            details=details,
        )
