"""Where a program is compiled: in a worker that can be killed, in a thread, or here.

XLA can't be interrupted inside a process. What must end at a deadline is therefore
compiled in another one, which is killed; a compilation that several callers wait for
goes on until the last of them has given up.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from safejax import _jax
from safejax.compile import _refusals
from safejax.compile._deadline import Deadline, batch
from safejax.compile._job import Job, Request, Response
from safejax.compile._pool import Pool, PoolClosedError, QueueFullError, available
from safejax.compile._trial import UNKNOWN_TARGET, request_for
from safejax.limits import Limits, check_count

_log = logging.getLogger("safejax.compile")

Isolation = Literal["process", "thread", "none"]

_MAX_TOLD = 1000


@dataclasses.dataclass(slots=True)
class Plan:
    """What one compilation must keep to.

    Attributes:
        function: Name of the function, for messages.
        limits: Its limits.
        isolation: Where it is compiled; ``None``: in a process where a deadline or a
            memory limit has to be kept, else here.
        deadline: When its caller gives up.
        wanted_until: Until when others wait for the same program, or ``None``.
        queue_s: Filled in: seconds of waiting for a worker.
        load_s: Filled in: seconds of loading the executable.
        killed: Filled in: whether a worker had to be killed.
        goes_on: Filled in: whether it is still made, for others that wait for it.
    """

    function: str
    limits: Limits
    isolation: Isolation | None
    deadline: Deadline
    wanted_until: Callable[[], float | None]
    queue_s: float = 0.0
    load_s: float = 0.0
    killed: bool = False
    goes_on: bool = False


@dataclasses.dataclass(slots=True)
class _Shared:
    """A running compilation and how many callers wait for it."""

    job: Job
    callers: int = 0


class Service:
    """Compiles programs for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pool: Pool | None = None
        self._options: dict[str, Any] = {}
        self._shared: dict[bytes, _Shared] = {}
        self._orphans = self._in_threads = 0
        self._thread_ended = threading.Condition(self._lock)
        self._told: set[tuple[str, str]] = set()

    def configure(self, **options: Any) -> None:
        """Sets the options of the pool; the one in use, if any, is closed."""
        with self._lock:
            pool, self._pool, self._options = self._pool, None, options
        if pool is not None:
            pool.close()

    def status(self) -> dict[str, Any]:
        """What the pool says of itself, as plain data."""
        with self._lock:
            pool = self._pool
        state = {} if pool is None else pool.status()
        return {"available": available(), "orphans": self._orphans, **state}

    def compile(self, task: _jax.CompileTask, plan: Plan) -> Any:
        """Compiles one program and loads it.

        Raises:
            CompileTimeoutError: The deadline has passed.
            CompileMemoryError: It took more memory than allowed.
            WorkerError: The worker failed.
            CompileLimitError: ``SJ208``: too many abandoned compilations still run;
                ``SJ209``: too many wait for a worker.
        """
        if plan.deadline.passed():
            raise _refusals.too_late(plan.function, plan.deadline, "lower")
        how = self._chosen(task, plan)
        if how == "process":
            executable = self._in_worker(task, plan)
            if executable is not None:
                return executable
            how = "thread"
        if how == "thread" and plan.deadline.limit_s is not None:
            return self._in_thread(task, plan)
        return task.in_process()

    def _chosen(self, task: _jax.CompileTask, plan: Plan) -> Isolation:
        limits = plan.limits
        bounded = limits.compile_timeout_s or limits.compile_memory_bytes
        how: Isolation = plan.isolation or ("process" if bounded else "none")
        if plan.isolation is None and bounded and task.platform != "cpu":
            how = "thread"
        if how != "process":
            return how
        reason = task.stays_because()
        if reason is None and not available():
            reason = "this platform has no compile workers"
        if reason is None:
            return "process"
        self._tell_once(plan.function, reason)
        return "thread"

    def _tell_once(self, function: str, reason: str) -> None:
        if (function, reason) in self._told or len(self._told) >= _MAX_TOLD:
            return
        self._told.add((function, reason))
        _log.warning(
            "%s() is compiled in a thread, which can't be killed: %s", function, reason
        )

    def submit(self, request: Request, function: str) -> Job:
        """Has a worker do something else than compile.

        Raises:
            CompileLimitError: ``SJ209``: too many wait for a worker.
            WorkerError: There are no workers.
        """
        try:
            with self._lock:
                return self._running_pool().submit(request)
        except QueueFullError as error:
            raise _refusals.queue_full(function) from error
        except (PoolClosedError, ValueError) as error:
            refused = Response(kind="start", text=str(error))
            raise _refusals.failed(function, refused, None) from error

    # --- in a worker --------------------------------------------------------------

    def _in_worker(self, task: _jax.CompileTask, plan: Plan) -> Any:
        """The loaded executable; ``None`` where only this process can compile it."""
        memory = plan.limits.compile_memory_bytes
        request = request_for(task, task.bytecode, memory_bytes=memory)
        name, shared = self._joined(request, plan)
        response, phase = None, "queue"
        try:
            response = _answer(shared.job, plan.deadline)
            phase = shared.job.phase
        finally:
            # Also for Ctrl-C: a compilation that nobody waits for is killed.
            done = response is not None
            plan.killed = self._left(name, shared, plan, done=done)
            plan.goes_on = not done and not plan.killed
        if response is None:
            size = len(request.module)
            raise _refusals.too_late(plan.function, plan.deadline, phase, size)
        return self._loaded(task, plan, response)

    def _joined(self, request: Request, plan: Plan) -> tuple[bytes, _Shared]:
        name = _fingerprint(request)
        with self._lock:
            shared = self._shared.get(name)
            if shared is None or shared.job.done:
                shared = _Shared(self.submit(request, plan.function))
                self._shared[name] = shared
            shared.callers += 1
        return name, shared

    def _left(self, name: bytes, shared: _Shared, plan: Plan, *, done: bool) -> bool:
        with self._lock:
            shared.callers -= 1
            if shared.callers and not done:
                return False
            until = None if done else plan.wanted_until()
            if until is not None:
                self._cancel_later(name, shared, until)
                return False
            if self._shared.get(name) is shared and (done or not shared.callers):
                del self._shared[name]
        if not done:
            shared.job.cancel()
        return not done

    def _cancel_later(self, name: bytes, shared: _Shared, until: float) -> None:
        def cancel() -> None:
            with self._lock:
                if shared.callers:
                    return
                if self._shared.get(name) is shared:
                    del self._shared[name]
            shared.job.cancel()

        timer = threading.Timer(max(0.0, until - time.monotonic()), cancel)
        timer.daemon = True
        timer.start()

    def _running_pool(self) -> Pool:
        if self._pool is None:
            version = _jax.jaxlib_version
            self._pool = Pool(jaxlib_version=version, **self._options)
        return self._pool

    def _loaded(self, task: _jax.CompileTask, plan: Plan, response: Response) -> Any:
        plan.queue_s += response.queue_s
        if response.kind == "error" and UNKNOWN_TARGET in response.text:
            self._tell_once(plan.function, "it calls a target registered only here")
            return None
        if response.kind == "error":
            raise task.refused(response.text)
        if response.kind != "ok":
            memory = plan.limits.compile_memory_bytes
            raise _refusals.failed(plan.function, response, memory)
        start = time.perf_counter()
        executable = task.load(response.executable)
        plan.load_s += time.perf_counter() - start
        return executable

    # --- in a thread --------------------------------------------------------------

    def _in_thread(self, task: _jax.CompileTask, plan: Plan) -> Any:
        self._take_thread(plan)
        outcome = _Outcome()

        def run() -> None:
            try:
                outcome.executable = task.in_process()
            except BaseException as error:  # noqa: BLE001  raised again by the caller
                outcome.error = error
            finally:
                with self._lock:
                    outcome.done.set()
                    self._orphans -= outcome.abandoned
                    self._in_threads -= 1
                    self._thread_ended.notify()

        # Not a daemon: XLA aborts the process if its thread is torn down at exit.
        try:
            threading.Thread(target=run, name="safejax-compile").start()
        except RuntimeError:  # no more threads
            with self._lock:
                self._in_threads -= 1
            raise
        try:
            finished = outcome.done.wait(plan.deadline.remaining())
        finally:
            with self._lock:
                outcome.abandoned = not outcome.done.is_set()
                self._orphans += outcome.abandoned
        if not finished:
            _log.warning(
                "%s() is still compiled in a thread, which can't be killed; "
                "the process can't exit before it ends",
                plan.function,
            )
            raise _refusals.too_late(plan.function, plan.deadline, "compile")
        if outcome.error is not None:
            raise outcome.error
        return outcome.executable

    def _take_thread(self, plan: Plan) -> None:
        """Waits until one more may run: any of them may become an orphan."""
        most = max(1, plan.limits.max_orphans)
        start = time.perf_counter()
        with self._lock:
            while self._in_threads >= most:
                if self._orphans >= most:
                    raise _refusals.too_many_orphans(plan.function, self._orphans)
                if not self._thread_ended.wait(plan.deadline.remaining()):
                    raise _refusals.too_late(plan.function, plan.deadline, "queue")
            self._in_threads += 1
        plan.queue_s += time.perf_counter() - start

    def forget_parent(self) -> None:
        """In a forked child: its workers and locks are the parent's."""
        self.__init__()  # type: ignore[misc]


@dataclasses.dataclass(slots=True)
class _Outcome:
    done: threading.Event = dataclasses.field(default_factory=threading.Event)
    abandoned: bool = False
    executable: Any = None
    error: BaseException | None = None


def _answer(job: Job, deadline: Deadline) -> Response | None:
    """What came of the job; ``None`` where the time is up.

    Raises:
        KeyboardInterrupt: The main thread was interrupted, which waits for this one.
    """
    together = batch.get()
    if together is None:
        return job.wait(deadline.remaining())
    ended = threading.Event()
    job.add_done_callback(lambda _: ended.set())
    with together.roused(ended):
        ended.wait(deadline.remaining())
    response = job.wait(0.0)
    if response is None and together.stopped:
        raise KeyboardInterrupt
    return response


def _fingerprint(request: Request) -> bytes:
    digest = hashlib.sha256()
    fields = (
        request.module,
        request.options,
        repr((request.devices, request.config, request.memory_bytes)).encode(),
    )
    for field in fields:
        digest.update(len(field).to_bytes(8, "little"))
        digest.update(field)
    return digest.digest()


service = Service()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=service.forget_parent)


def compile_status() -> dict[str, Any]:
    """What protects this process from its compilations, as plain data.

    Returns:
        Whether workers are available, how many live, what they have been used for, and
        which confinement the last one has proved.

    Example:
        >>> import safejax
        >>> safejax.compile_status()["available"] in (True, False)
        True
    """
    return service.status()


def set_compile_workers(*, workers: int = 2, require_confinement: bool = False) -> None:
    """Sets how compile workers run; those that run now are ended.

    Args:
        workers: How many compilations run at once.
        require_confinement: Use only workers that have proved that they can't open
            files, connect, execute or trace (``pip install landlock pyseccomp``).
            Where none can, every compilation in a worker is refused.

    Raises:
        TypeError: ``workers`` is not an integer.
        ValueError: ``workers`` is less than one.

    Example:
        >>> import safejax
        >>> safejax.set_compile_workers(workers=2)
    """
    check_count("set_compile_workers", "workers", workers, least=1)
    service.configure(size=workers, require_confinement=require_confinement)


# The names users know them by.
compile_status.__module__ = "safejax"
set_compile_workers.__module__ = "safejax"
