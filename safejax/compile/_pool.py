"""The pool: a thread that serves compilations, started when first needed.

One thread owns every worker and pipe; callers only wait for events, so a caller's
deadline or Ctrl-C is honoured whatever a worker does.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import select
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from safejax.compile import _child, _protocol
from safejax.compile._child import Child
from safejax.compile._crew import Crew
from safejax.compile._job import Job, Request, WorkerConfig
from safejax.compile._staff import Settings


class QueueFullError(Exception):
    """As many compilations wait already as may."""


class PoolClosedError(Exception):
    """The pool was closed."""


def available() -> bool:
    """Whether this platform can run workers."""
    return os.name == "posix" and bool(sys.executable) and hasattr(select, "poll")


class Pool:
    """Compiles in other processes, which can be killed.

    Nothing runs until the first :meth:`submit` or :meth:`warm`. Thread-safe. After a
    fork, the child's pool is empty and starts its own workers when it needs them.

    Args:
        size: How many compilations run at once.
        spares: How many idle workers are kept ready besides.
        max_queue: How many compilations may wait.
        recycle_after: A worker is replaced after as many compilations.
        recycle_rss_bytes: And when it holds more memory than this after one.
        require_confinement: Whether to use only workers that prove their confinement.
        max_request_bytes: The largest program.
        max_response_bytes: The largest executable.
        stall_s: How long a worker may stop in the middle of a frame.
        start_timeout_s: How long a worker may take to be ready.
        jaxlib_version: What workers must have; ``None``: any.
        worker: The command that runs a worker, for tests.
    """

    def __init__(  # noqa: PLR0913 - all by name
        self,
        *,
        size: int = 2,
        spares: int = 1,
        max_queue: int = 256,
        recycle_after: int = 100,
        recycle_rss_bytes: int = 3 << 29,
        require_confinement: bool = False,
        max_request_bytes: int = 1 << 30,
        max_response_bytes: int = 1 << 30,
        stall_s: float = 10.0,
        start_timeout_s: float = 60.0,
        jaxlib_version: str | None = None,
        worker: Sequence[str] | None = None,
    ) -> None:
        self._settings = Settings(
            size=size,
            spares=spares,
            recycle_after=recycle_after,
            recycle_rss_bytes=recycle_rss_bytes,
            require_confinement=require_confinement,
            max_response_bytes=max_response_bytes,
            stall_s=stall_s,
            start_timeout_s=start_timeout_s,
            jaxlib_version=jaxlib_version,
        )
        self._max_queue = max_queue
        self._max_request_bytes = max_request_bytes
        self._worker = worker
        self._numbers = itertools.count(1)
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._crew = Crew(self._settings)
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] | None = None

    def submit(self, request: Request) -> Job:
        """Queues a compilation and returns at once.

        Raises:
            QueueFullError: Where ``max_queue`` compilations wait.
            PoolClosedError: After :meth:`close`.
            ValueError: Where the program is larger than ``max_request_bytes``.
        """
        length = _protocol.order_length(
            request.module, request.options, request.devices
        )
        if length > self._max_request_bytes:
            limit = self._max_request_bytes
            raise ValueError(f"the program takes {length} bytes, limit {limit}")
        with self._lock:
            self._check_open()
            if len(self._crew.queue) >= self._max_queue:
                raise QueueFullError(f"{self._max_queue} compilations wait already")
            job = Job(next(self._numbers), request, self._cancel)
            self._crew.submit(job)
            self._rouse()
        return job

    def warm(self, config: WorkerConfig) -> None:
        """Has a spare worker prepared, and returns at once.

        Raises:
            PoolClosedError: After :meth:`close`.
        """
        with self._lock:
            self._check_open()
            self._crew.expect(config)
            self._rouse()

    def status(self) -> dict[str, Any]:
        """What the pool does and has done, as plain data."""
        with self._lock:
            return self._crew.status()

    def close(self) -> None:
        """Ends every job and worker, and waits until they are gone. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
            if thread is not None:
                self._rouse()
        # From a callback it is this thread that will end, once the callback returns.
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosedError("the pool is closed")

    def _cancel(self, job: Job) -> None:
        with self._lock:
            # The kill is sent from here, without waiting for the pool's thread.
            self._crew.cancel(job)
            self._rouse()
        job.call_back()

    # The thread.

    def _rouse(self) -> None:
        """Has the pool's thread look again; starts it where there is none."""
        if self._thread is None and not self._closed:
            _register(self)
            self._wake = os.pipe()
            for fd in self._wake:
                os.set_blocking(fd, False)
            self._thread = threading.Thread(
                target=self._run, name="safejax-compile", daemon=True
            )
            self._thread.start()
        elif self._wake is not None:
            # A full pipe wakes it as well.
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake[1], b"x")

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            with self._lock:
                self._crew.disband("the pool was closed")
                self._thread = None
                wake, self._wake = self._wake, None
                for fd in wake or ():
                    os.close(fd)
            self._call_back()

    def _turn(self) -> bool:
        with self._lock:
            if self._closed or self._wake is None:
                return False
            wanted = self._crew.assign()
            interests = self._crew.interests()
            timeout_s = self._crew.timeout_s()
            woken = self._wake[0]
        if wanted:
            # Without the lock: submitting must not wait for the kernel.
            self._hire(wanted)
            return True
        poller = select.poll()
        poller.register(woken, select.POLLIN)
        for fd, (_, events) in interests.items():
            poller.register(fd, events)
        ready = poller.poll(None if timeout_s is None else timeout_s * 1e3 + 0.5)
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        with self._lock:
            for child in {interests[fd][0] for fd, _ in ready if fd in interests}:
                self._crew.pump(child)
            self._crew.tick()
        self._call_back()
        return True

    def _hire(self, wanted: list[WorkerConfig]) -> None:
        for config in wanted:
            try:
                child = Child(
                    config,
                    self._worker or _child.worker_command(),
                    max_request_bytes=self._max_request_bytes,
                    max_response_bytes=self._settings.max_response_bytes,
                )
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "bad settings"
                with self._lock:
                    text = f"no worker could be started: {why}"
                    self._crew.failed_start(config, text)
            else:
                with self._lock:
                    self._crew.adopt(child)
        self._call_back()

    def _call_back(self) -> None:
        """Tells those who asked to be told; without the lock."""
        while self._crew.ended:
            self._crew.ended.popleft().call_back()

    # Forks.

    def _forget(self) -> None:
        """In a forked child: the workers are the parent's."""
        crew, wake = self._crew, self._wake
        # The thread that may have held the lock is no more.
        self._reset()
        crew.forget()
        for fd in wake or ():
            os.close(fd)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_hooks = iter([True])  # gives its one item once, in whichever thread asks first


def _register(pool: Pool) -> None:
    """Has forks and the end of the process take care of ``pool``."""
    _pools.add(pool)
    if next(_hooks, False):
        atexit.register(_close_all)
        os.register_at_fork(
            before=_child.spawning.acquire,
            after_in_parent=_child.spawning.release,
            after_in_child=_forget_all,
        )


def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


def _forget_all() -> None:
    _child.spawning.release()
    for pool in list(_pools):
        pool._forget()  # noqa: SLF001 - the pool's own module
