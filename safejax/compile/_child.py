"""One worker process, as its parent sees it: start, talk, watch, kill, reap.

Nothing here blocks, except that starting a process takes the kernel some milliseconds.
The descriptors are non-blocking; whoever owns a child polls them and calls ``pump``.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import importlib.util
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from safejax.compile import _protocol
from safejax.compile._job import WorkerConfig
from safejax.compile._protocol import FrameReader, Hello, Kind, Order, ProtocolError

_STDERR_TAIL = 64 << 10
_CHUNK = 1 << 18
# A flood on one pipe may not keep the others waiting.
_READS_PER_PUMP = 16
# How long a worker that closed its pipe may take to be gone.
_ENDING_S = 1.0

# Held while a process starts, and while this one forks: a fork in between would keep
# copies of the new pipes that nobody knows of, and a worker that outlives its parent.
spawning = threading.Lock()


class State(enum.Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"  # it closed its pipe: dead, or about to be
    KILLED = "killed"  # not reaped yet


def worker_command() -> list[str]:
    """How to run the real worker: isolated, without ``site``, without writing bytecode.

    Without ``site`` no ``.pth`` file of the environment runs code in the worker.
    """
    script = pathlib.Path(__file__).with_name("_worker.py")
    return [sys.executable, "-I", "-S", "-B", str(script)]


@functools.cache
def package_paths() -> tuple[str, ...]:
    """Where the worker finds the packages this process uses.

    Nothing else of ``sys.path``: it may hold the current directory.
    """
    specs = [importlib.util.find_spec(n) for n in ("jaxlib", "numpy", "ml_dtypes")]
    origins = [spec.origin for spec in specs if spec is not None and spec.origin]
    return tuple(dict.fromkeys(str(pathlib.Path(p).parent.parent) for p in origins))


def environment(config: WorkerConfig) -> dict[str, str]:
    """What a worker gets to know: what decides how it compiles, and no secrets."""
    kept = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "NPROC")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    if config.xla_flags:
        env["XLA_FLAGS"] = config.xla_flags
    env["TF_CPP_MIN_LOG_LEVEL"] = "2"
    # NumPy's thread pool would start on import, before confinement, and stay outside.
    env["OPENBLAS_NUM_THREADS"] = "1"
    return env


class Child:
    """One worker process. Not thread-safe: its owner serialises the calls.

    Args:
        config: What the worker must have in common with this process.
        command: The program and its arguments; one argument, JSON, is added.
        max_request_bytes: The longest order the worker is to take.
        max_response_bytes: The longest executable to take from it.

    Raises:
        OSError: Where no process or no pipe can be had.
    """

    def __init__(
        self,
        config: WorkerConfig,
        command: Sequence[str],
        *,
        max_request_bytes: int,
        max_response_bytes: int,
    ) -> None:
        self.config = config
        self.state = State.STARTING
        self.hello: Hello | None = None
        self.compiled = 0
        self.since = time.monotonic()  # of the last byte that moved
        self._reader = FrameReader(_protocol.answer_limits(max_response_bytes))
        self._outgoing: list[memoryview] = []
        self._stderr = bytearray()
        self._fds: dict[str, int] = {}
        with spawning:
            self._process = self._spawn(command, max_request_bytes)

    def _spawn(
        self, command: Sequence[str], max_request_bytes: int
    ) -> subprocess.Popen[bytes]:
        theirs: list[int] = []
        try:
            requests, self._fds["requests"] = self._pipe(theirs)
            lifeline, self._fds["lifeline"] = self._pipe(theirs)
            self._fds["answers"], answers = self._pipe(theirs, reads=True)
            self._fds["stderr"], stderr = self._pipe(theirs, reads=True)
            settings = {
                "parent": os.getpid(),
                "paths": package_paths(),
                "devices": self.config.devices,
                "looks": self.config.looks,
                "max_request_bytes": max_request_bytes,
                "requests": requests,
                "answers": answers,
                "lifeline": lifeline,
            }
            # Its own session: Ctrl-C at the terminal is for the parent to handle.
            process = subprocess.Popen(  # noqa: S603 - our own worker
                [*command, json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(requests, answers, lifeline),
                start_new_session=True,
                env=environment(self.config),
                cwd="/",
            )
        except BaseException:
            self.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        # Kept open: readable even after the worker has made itself undumpable.
        with contextlib.suppress(OSError):
            self._fds["statm"] = os.open(f"/proc/{process.pid}/statm", os.O_RDONLY)
        return process

    @staticmethod
    def _pipe(theirs: list[int], *, reads: bool = False) -> tuple[int, int]:
        """A pipe; the parent's end does not block, the worker's is put on the list."""
        reading, writing = os.pipe()
        theirs.append(writing if reads else reading)
        os.set_blocking(reading if reads else writing, False)
        return reading, writing

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def midway(self) -> bool:
        """Whether a frame, of either side, is on its way."""
        return self._reader.midway or bool(self._outgoing)

    @property
    def stderr(self) -> str:
        """The end of what the worker wrote there."""
        return self._stderr.decode(errors="replace")

    def interests(self) -> dict[int, int]:
        """The descriptors to poll, each with the events to poll for."""
        wanted: dict[int, int] = {}
        if self.state is State.KILLED:
            return wanted  # all its pipes are at their end
        if "stderr" in self._fds:
            wanted[self._fds["stderr"]] = select.POLLIN
        if self.state is State.ENDING:
            return wanted
        if "answers" in self._fds:
            wanted[self._fds["answers"]] = select.POLLIN
        if self._outgoing and "requests" in self._fds:
            wanted[self._fds["requests"]] = select.POLLOUT
        return wanted

    def send(self, order: Order) -> None:
        """Hands the worker a program to compile."""
        self.state = State.BUSY
        self.since = time.monotonic()
        self._outgoing = [memoryview(part) for part in _protocol.order_frame(order)]
        self._write()

    def rest(self) -> None:
        """Notes that it said what it was to say; it may have died since."""
        if self.state in (State.STARTING, State.BUSY):
            self.state = State.IDLE

    def pump(self) -> tuple[Kind, bytes] | None:
        """Moves what can be moved now, and gives the frame that came, if one did.

        Raises:
            ProtocolError: Where the worker sent rubbish, or more than one frame: it
                speaks once for each time it is spoken to.
        """
        self._write()
        self._read_stderr()
        frames: list[tuple[Kind, bytes]] = []
        for _ in range(_READS_PER_PUMP):
            if self.state in (State.ENDING, State.KILLED):
                break
            data = self._read("answers")
            if data is None:
                break
            if not data:
                self._end()
                break
            self.since = time.monotonic()
            frames += self._reader.feed(data)
        if len(frames) > 1:
            raise ProtocolError("it answered more than it was asked")
        return frames[0] if frames else None

    def _write(self) -> None:
        fd = self._fds.get("requests", -1)
        while self._outgoing and fd >= 0:
            try:
                written = os.write(fd, self._outgoing[0])
            except BlockingIOError:
                return
            except OSError:
                # It no longer reads: whether it died or not is for its end to tell.
                self._outgoing = []
                self._end()
                return
            self.since = time.monotonic()
            self._outgoing[0] = self._outgoing[0][written:]
            if not self._outgoing[0]:
                del self._outgoing[0]

    def _read(self, name: str) -> bytes | None:
        """What is there; ``b""`` at the end, ``None`` where there is nothing yet."""
        if name not in self._fds:
            return None
        try:
            return os.read(self._fds[name], _CHUNK)
        except BlockingIOError:
            return None

    def _read_stderr(self) -> None:
        for _ in range(_READS_PER_PUMP):
            data = self._read("stderr")
            if data is None:
                return
            if not data:
                self._close("stderr")
                return
            self._stderr += data
            del self._stderr[:-_STDERR_TAIL]

    def _end(self) -> None:
        if self.state is not State.KILLED:
            self.state = State.ENDING
            self.since = time.monotonic()

    def ended_late(self, now: float) -> bool:
        """Whether it closed its pipe and lives on."""
        return self.state is State.ENDING and now - self.since > _ENDING_S

    def rss_bytes(self) -> int | None:
        """Its resident memory; ``None`` where the system does not say."""
        if "statm" not in self._fds:
            return None
        try:
            fields = os.pread(self._fds["statm"], 128, 0).split()
            return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return None  # it is gone

    def kill(self) -> None:
        """Ends it and whatever it has started, at once. Idempotent."""
        if self.state is not State.KILLED:
            self.state = State.KILLED
            self.since = time.monotonic()
        # Once reaped, its id may be another process's.
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def exited(self) -> bool:
        """Whether it is gone already."""
        return self._process.poll() is not None

    def reap(self) -> int | None:
        """Its exit status as :mod:`subprocess` gives it; ``None`` while it lives.

        Collects the process, the last of its standard error, and closes all pipes.
        """
        status = self._process.poll()
        if status is not None:
            self._read_stderr()
            self.close()
        return status

    def wait(self, timeout_s: float) -> int | None:
        """Like :meth:`reap`, but waits for it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.reap()

    def close(self) -> None:
        """Closes every descriptor. Idempotent."""
        for name in list(self._fds):
            self._close(name)

    def _close(self, name: str) -> None:
        # Forgotten before it is closed: a fork in between then leaks a number instead
        # of closing one that is someone else's by then.
        fd = self._fds.pop(name, -1)
        if fd >= 0:
            os.close(fd)

    def forget(self) -> None:
        """In a forked child: lets go of the parent's worker without touching it."""
        self.close()
        # Not this process's child: it must not be waited for, nor warned about.
        self._process.returncode = 0


def signal_name(status: int) -> str | None:
    """Name of the signal in an exit status, or ``None`` where there was none."""
    if status >= 0:
        return None
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
