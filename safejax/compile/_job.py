"""A compilation as the pool's callers see it: the request, its phase, its end."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

_log = logging.getLogger("safejax.compile")

Kind = Literal["ok", "error", "memory", "crash", "protocol", "start", "cancelled"]
Phase = Literal["queue", "compile", "done"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """What a worker must have in common with the process it compiles for.

    Attributes:
        devices: How many CPU devices the backend has.
        xla_flags: ``XLA_FLAGS`` as the backend was created with.
        looks: Whether it looks into modules, and compiles none.
    """

    devices: int = 1
    xla_flags: str = ""
    looks: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One program to compile.

    Attributes:
        module: StableHLO as MLIR bytecode.
        options: A serialized ``CompileOptions``.
        devices: Ids of the devices it will run on, in order.
        config: The kind of worker that can compile it.
        memory_bytes: How far the worker may grow while it compiles; ``None``: no limit.
        is_trial: Whether ``module`` is an executable, which is only to be loaded.
    """

    module: bytes = dataclasses.field(repr=False)
    options: bytes = dataclasses.field(repr=False)
    devices: tuple[int, ...] = (0,)
    config: WorkerConfig = WorkerConfig()
    memory_bytes: int | None = None
    is_trial: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """How a compilation ended.

    Attributes:
        kind: ``"ok"``; ``"error"``: XLA refused, in its own words; ``"memory"``: it
            grew past its limit; ``"crash"``: the worker died; ``"protocol"``: it
            answered rubbish, or stopped in the middle of an answer; ``"start"``: no
            worker could be started, or confined; ``"cancelled"``.
        executable: The serialized executable where ``kind`` is ``"ok"``.
        text: What went wrong, in a sentence; XLA's text where ``kind`` is ``"error"``.
        signal: Name of the signal that ended the worker, as in ``"SIGSEGV"``.
        stderr: The end of what the worker wrote there. For a debug log, not for an
            error: XLA may quote a program's constants.
        queue_s: Seconds from submission until a worker had it.
        compile_s: Seconds in the worker.
        grown_bytes: How far the worker's memory grew, as far as it was seen.
    """

    kind: Kind
    executable: bytes = dataclasses.field(default=b"", repr=False)
    text: str = ""
    signal: str | None = None
    stderr: str = dataclasses.field(default="", repr=False)
    queue_s: float = 0.0
    compile_s: float = 0.0
    grown_bytes: int = 0


class Job:
    """One submitted compilation. Its methods may be called from any thread.

    Args:
        number: Its number in the pool.
        request: What to compile.
        cancel: How the pool ends it.
    """

    def __init__(
        self, number: int, request: Request, cancel: Callable[[Job], None]
    ) -> None:
        self.number = number
        self.request = request
        self._cancel = cancel
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._ended: float | None = None
        self._response: Response | None = None
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._callbacks: list[Callable[[Job], None]] = []

    def wait(self, timeout_s: float | None = None) -> Response | None:
        """Waits until it ends; ``None`` where it has not within ``timeout_s``."""
        self._finished.wait(timeout_s)
        return self._response

    def cancel(self) -> None:
        """Ends it now, killing the worker that runs it. Idempotent."""
        self._cancel(self)

    @property
    def done(self) -> bool:
        """Whether it has ended, however."""
        return self._response is not None

    @property
    def elapsed_s(self) -> float:
        """Seconds from submission until now, or until it ended."""
        return (self._ended or time.monotonic()) - self._submitted

    @property
    def phase(self) -> Phase:
        """Where it is: waiting for a worker, in one, or done."""
        if self.done:
            return "done"
        return "queue" if self._started is None else "compile"

    def add_done_callback(self, callback: Callable[[Job], None]) -> None:
        """Has ``callback(job)`` called once it ends; at once where it has.

        It runs in the pool's thread, and must be short; what it raises is logged.
        """
        with self._lock:
            if self._response is None:
                self._callbacks.append(callback)
                return
        _call(callback, self)

    def start(self) -> None:
        """For the pool: a worker has it now."""
        self._started = time.monotonic()

    def finish(self, response: Response) -> None:
        """For the pool: it has ended. Only the first end counts."""
        with self._lock:
            if self._response is not None:
                return
            self._ended = time.monotonic()
            started = self._started or self._ended
            compile_s = response.compile_s or self._ended - started
            self._response = dataclasses.replace(
                response, queue_s=started - self._submitted, compile_s=compile_s
            )
        self._finished.set()

    def call_back(self) -> None:
        """For the pool, after :meth:`finish` and without its lock."""
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            _call(callback, self)

    def abandon(self) -> None:
        """In a forked child: the worker is the parent's, no answer will come."""
        # A thread that is no more may have held these.
        self._lock = threading.Lock()
        self._finished = threading.Event()
        if self._response is None:
            text = "this process was forked from the one that asked"
            self._response = Response(kind="cancelled", text=text)
        self._finished.set()


def _call(callback: Callable[[Job], None], job: Job) -> None:
    try:
        callback(job)
    except Exception:  # noqa: BLE001 - it is theirs, and must not end the pool
        _log.exception("a callback of a compilation raised")
