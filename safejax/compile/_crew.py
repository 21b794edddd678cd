"""Which worker does what: hands out jobs, judges answers, replaces who is gone.

Not thread-safe, and never blocking: the pool calls it under its lock.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, deque
from typing import Any

from safejax.compile import _protocol
from safejax.compile._child import Child, State, signal_name
from safejax.compile._job import Job, Response, WorkerConfig
from safejax.compile._protocol import Kind, Order, ProtocolError
from safejax.compile._staff import Settings, Staff

# How often the memory of a worker with a limit is looked at.
_SAMPLE_S = 0.01
# What the runtime or LLVM says on standard error when an allocation fails.
_OUT_OF_MEMORY = ("bad_alloc", "out of memory", "Cannot allocate memory")


@dataclasses.dataclass(slots=True)
class _Run:
    """A job in a worker."""

    job: Job
    base_bytes: int
    grown_bytes: int = 0


class Crew:
    """The workers of one pool, and the jobs that wait for them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.children: list[Child] = []
        self.queue: deque[Job] = deque()
        self.ended: deque[Job] = deque()  # whose callbacks are due
        self._runs: dict[Child, _Run] = {}
        self._latest: WorkerConfig | None = None
        # Workers that would not start get no spares until someone asks again.
        self._failing: set[WorkerConfig] = set()
        self._tally: Counter[str] = Counter()
        self._staff = Staff(settings, self.children)
        self._confinement: dict[str, bool | str] | None = None

    # What is wanted.

    def expect(self, config: WorkerConfig) -> None:
        """From now on spares are prepared for ``config``."""
        self._latest = config
        self._failing.discard(config)

    def submit(self, job: Job) -> None:
        """Takes a job; the first to come is the first to be served."""
        self.expect(job.request.config)
        self.queue.append(job)

    def cancel(self, job: Job) -> None:
        """Takes a job back, killing the worker that runs it."""
        if job.done:
            return
        response = Response(kind="cancelled", text="the compilation was cancelled")
        for child, run in self._runs.items():
            if run.job is job:
                self._stop(child, response)
                return
        if job in self.queue:
            self.queue.remove(job)
        self._finish(job, response)

    def assign(self) -> list[WorkerConfig]:
        """Hands out jobs; returns the workers to start, for the others or as spares."""
        missing: Counter[WorkerConfig] = Counter()
        free = self._settings.size - len(self._runs)
        for job in list(self.queue)[: max(0, free)]:
            config = job.request.config
            child = self._idle(config)
            if job.done:
                continue  # the last idle worker turned out to be dead
            if child is not None:
                self.queue.remove(job)
                self._hand(child, job)
            elif config not in self._failing or not self._staff.alive(config):
                # Where workers will not start, those that did serve all.
                missing[config] += 1
        return self._staff.to_start(missing, self._latest, self._failing)

    def _idle(self, config: WorkerConfig) -> Child | None:
        for child in self.children:
            if child.state is State.IDLE and child.config == config:
                # No job is to suffer for what happened since the last look.
                self.pump(child)
                if child.exited():
                    text = "the worker died while it was idle"
                    self._stop(child, Response(kind="crash", text=text))
                elif child.state is State.IDLE:
                    return child
        return None

    def _hand(self, child: Child, job: Job) -> None:
        request = job.request
        self._runs[child] = _Run(job, child.rss_bytes() or 0)
        job.start()
        self._staff.disturb()
        order = Order(
            id=job.number,
            module=request.module,
            options=request.options,
            devices=request.devices,
            memory_bytes=request.memory_bytes or 0,
            is_trial=request.is_trial,
        )
        child.send(order)

    # How workers come and go.

    def adopt(self, child: Child) -> None:
        """Takes in a worker that was started."""
        self._tally["spawned"] += 1
        self.children.append(child)

    def failed_start(self, config: WorkerConfig, text: str, stderr: str = "") -> None:
        """Notes that a worker would not start, and tells those who wait for it."""
        self._tally["failed_starts"] += 1
        self._failing.add(config)
        if self._staff.alive(config):
            return
        for job in [job for job in self.queue if job.request.config == config]:
            self.queue.remove(job)
            self._finish(job, Response(kind="start", text=text, stderr=stderr))

    def _kill(self, child: Child, reason: str) -> None:
        self._tally[reason] += 1
        child.kill()

    def _stop(self, child: Child, response: Response) -> None:
        """Kills a worker, and ends its job or its start."""
        self._kill(child, "kills")
        run = self._runs.pop(child, None)
        if run is not None:
            response = dataclasses.replace(
                response, grown_bytes=run.grown_bytes, stderr=child.stderr
            )
            self._finish(run.job, response)
        elif child.compiled == 0:
            # Also one that died before its first job: it must not be replaced for ever.
            self.failed_start(child.config, response.text, child.stderr)

    def _finish(self, job: Job, response: Response) -> None:
        self._tally[response.kind] += 1
        job.finish(response)
        self.ended.append(job)

    # What workers say.

    def interests(self) -> dict[int, tuple[Child, int]]:
        """The descriptors to poll: whose they are, and the events to poll for."""
        return {
            fd: (child, events)
            for child in self.children
            for fd, events in child.interests().items()
        }

    def pump(self, child: Child) -> None:
        """Moves a worker's bytes, and acts on what it said."""
        try:
            frame = child.pump()
            if frame is not None:
                self._judge(child, *frame)
        except ProtocolError as error:
            self._stop(child, Response(kind="protocol", text=f"the worker: {error}"))

    def _judge(self, child: Child, kind: Kind, body: bytes) -> None:
        if child.hello is None:
            if kind is not Kind.HELLO:
                raise ProtocolError("expected a hello")
            self._welcome(child, _protocol.parse_hello(body))
        elif child in self._runs and not child.midway:
            self._accept(child, _protocol.parse_answer(kind, body))
        else:
            raise ProtocolError("it spoke out of turn")

    def _welcome(self, child: Child, hello: _protocol.Hello) -> None:
        expected = self._settings.jaxlib_version
        if expected not in (None, hello.jaxlib):
            text = f"the worker has jaxlib {hello.jaxlib}, this process {expected}"
            self._stop(child, Response(kind="start", text=text))
            return
        self._confinement = dict(hello.confinement)
        if self._settings.require_confinement and hello.unconfined:
            lacking = ", ".join(hello.unconfined)
            text = f"the worker is not confined: {lacking}"
            self._stop(child, Response(kind="start", text=text))
            return
        child.hello = hello
        child.rest()
        self._failing.discard(child.config)

    def _accept(self, child: Child, answer: _protocol.Answer) -> None:
        run = self._runs[child]
        if answer.id != run.job.number:
            raise ProtocolError("it answered another order")
        del self._runs[child]
        child.compiled += 1
        child.rest()
        grown = max(run.grown_bytes, answer.peak_bytes - run.base_bytes, 0)
        response = Response(
            kind="ok" if answer.ok else "error",
            executable=answer.payload if answer.ok else b"",
            text="" if answer.ok else answer.payload.decode(errors="replace"),
            stderr="" if answer.ok else child.stderr,
            compile_s=answer.seconds,
            grown_bytes=grown,
        )
        self._finish(run.job, response)
        large = (child.rss_bytes() or 0) > self._settings.recycle_rss_bytes
        if large or child.compiled >= self._settings.recycle_after:
            self._kill(child, "recycled")

    # What time brings.

    def tick(self) -> None:
        """Reaps the dead, and kills what stalls or has grown too large."""
        now = time.monotonic()
        for child in list(self.children):
            if child.state in (State.ENDING, State.KILLED):
                self._bury(child, now)
            elif child.state is State.STARTING:
                if now - child.since > self._settings.start_timeout_s:
                    text = "the worker did not start in time"
                    self._stop(child, Response(kind="start", text=text))
            elif child.midway and now - child.since > self._settings.stall_s:
                text = "the worker stopped in the middle of a frame"
                self._stop(child, Response(kind="protocol", text=text))
            elif child in self._runs:
                self._weigh(child, self._runs[child])
        for child in self._staff.superfluous(self._latest):
            self._kill(child, "retired")

    def _bury(self, child: Child, now: float) -> None:
        status = child.reap()
        if status is not None:
            self.children.remove(child)
            if child.state is State.ENDING:
                self._stop(child, _post_mortem(child, status, self._runs.get(child)))
        elif child.ended_late(now):
            text = "the worker closed its pipe"
            self._stop(child, Response(kind="protocol", text=text))

    def _weigh(self, child: Child, run: _Run) -> None:
        limit = run.job.request.memory_bytes
        if limit is None:
            return
        grown = (child.rss_bytes() or 0) - run.base_bytes
        run.grown_bytes = max(run.grown_bytes, grown)
        if grown > limit:
            text = f"the compilation grew by {grown} bytes, limit {limit}"
            self._stop(child, Response(kind="memory", text=text))

    def timeout_s(self) -> float | None:
        """How long nothing needs to be done unless a worker speaks."""
        now = time.monotonic()
        waits = self._staff.waits(self._latest)
        for child in self.children:
            waits += self._waits(child, now)
        # The hour bounds what is asked of the system's clock.
        return min(3600.0, max(0.0, min(waits))) if waits else None

    def _waits(self, child: Child, now: float) -> list[float]:
        if child.state in (State.ENDING, State.KILLED):
            # The kernel takes its time with a large process; do not spin on it.
            return [0.002 if now - child.since < 0.5 else 0.1]
        if child.state is State.STARTING:
            return [self._settings.start_timeout_s + child.since - now]
        waits = []
        if child.midway:
            waits.append(self._settings.stall_s + child.since - now)
        run = self._runs.get(child)
        if run is not None and run.job.request.memory_bytes is not None:
            waits.append(_SAMPLE_S)
        return waits

    # The end, and what there is to see.

    def disband(self, text: str) -> None:
        """Ends every job and every worker, and waits until the workers are gone."""
        response = Response(kind="cancelled", text=text)
        for job in [*self.queue, *(run.job for run in self._runs.values())]:
            self._finish(job, response)
        self.queue.clear()
        self._runs.clear()
        for child in self.children:
            child.kill()
        for child in self.children:
            child.wait(5.0)
            child.close()
        self.children.clear()
        self._latest = None

    def forget(self) -> None:
        """In a forked child: lets go of everything without touching it."""
        for child in list(self.children):
            child.forget()
        for job in [*self.queue, *(run.job for run in self._runs.values())]:
            job.abandon()

    def status(self) -> dict[str, Any]:
        """What there is to see, as plain data."""
        states = Counter(child.state for child in self.children)
        counted = ("spawned", "kills", "recycled", "retired", "failed_starts")
        kinds = ("ok", "error", "memory", "crash", "protocol", "start", "cancelled")
        return {
            "workers": states[State.STARTING] + states[State.IDLE] + states[State.BUSY],
            "starting": states[State.STARTING],
            "idle": states[State.IDLE],
            "busy": states[State.BUSY],
            "queued": len(self.queue),
            "pids": [child.pid for child in self.children],
            **{name: self._tally[name] for name in counted},
            "outcomes": {kind: self._tally[kind] for kind in kinds},
            "confinement": self._confinement,
        }


def _post_mortem(child: Child, status: int, run: _Run | None) -> Response:
    """What the end of a worker means for its job, or for its start."""
    name = signal_name(status)
    if child.hello is None:
        how = f"exited with status {status}" if name is None else f"died of {name}"
        return Response(kind="start", text=f"the worker {how} while it started")
    limited = run is not None and run.job.request.memory_bytes is not None
    if limited and any(words in child.stderr for words in _OUT_OF_MEMORY):
        text = "the compilation could not allocate more memory within its limit"
        return Response(kind="memory", text=text, signal=name)
    if name is not None:
        return Response(kind="crash", text=f"the worker died of {name}", signal=name)
    return Response(kind="crash", text=f"the worker exited with status {status}")
