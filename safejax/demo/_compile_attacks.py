"""Attacks on the compiler itself: a program that takes long, and a storm (T9, T10)."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np

import safejax
from safejax.demo._digits import PIXELS, Function, Params, init, predict
from safejax.demo._measure import Meter, finished
from safejax.demo._outcome import Outcome

_STEPS = 110  # some seconds of compilation
_DEADLINE_S = 1.0
_LATE_S = 1.5 * _DEADLINE_S
_PATIENCE_S = 60.0
_LOOK_S = 0.2

_CLIENTS = 8
_PAUSE_S = 0.01
_QUIET_S, _STORM_S = 1.0, 3.0
_KNOWN = 1
# Answers that take eight times as long, on average: the service is disturbed.
_DISTURBED = 8.0


def _bomb(x: jax.Array) -> jax.Array:
    for i in range(_STEPS):
        x = jnp.tanh(x @ x) + x[i % 8]
    return x


# --- T9: a compile bomb -----------------------------------------------------------


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupts the block after as many seconds, as far as Python can."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _idle_after() -> float:
    """Seconds until this process uses no processor any more; at most a minute."""
    started = time.perf_counter()
    idle = 0.0
    while time.perf_counter() - started < _PATIENCE_S:
        used = time.process_time()
        time.sleep(_LOOK_S)
        if time.process_time() - used < _LOOK_S / 10:
            break
        idle = time.perf_counter() - started
    return idle


def plain_bomb(seed: int) -> Outcome:
    """T9: an alarm rings in Python, and XLA does not run Python.

    Some releases of jaxlib release the caller at the alarm, others when the
    compilation has ended; XLA works to its end with either.
    """
    lowered = jax.jit(_bomb).lower(np.full((8, 8), seed % 2, np.float32))
    with Meter() as meter:
        started = time.perf_counter()
        with contextlib.suppress(TimeoutError), _alarm(_DEADLINE_S):
            lowered.compile()
        heard_s = time.perf_counter() - started
        ended_s = heard_s + _idle_after()
    text = (
        f"an alarm of {_DEADLINE_S:g} s was heard after {heard_s:.1f} s; XLA worked "
        f"for {ended_s:.1f} s"
    )
    return meter.outcome(text, succeeded=ended_s > _LATE_S)


def safe_bomb(seed: int) -> Outcome:
    """T9: the compilation is another process's, and ends with it."""
    x = np.full((8, 8), seed % 2, np.float32)
    limits = safejax.Limits(compile_timeout_s=_DEADLINE_S)
    lowered = safejax.safe_jit(_bomb, limits=limits).lower(x)
    honest = safejax.safe_jit(jnp.sin, limits=safejax.Limits(compile_timeout_s=60.0))
    finished(honest(x))
    with Meter() as meter:
        try:
            lowered.compile()
        except safejax.CompileTimeoutError:
            code = "SJ210"
        else:
            code = ""
    busy = safejax.compile_status()["busy"]
    started = time.perf_counter()
    finished(honest(x[:4]))
    next_s = time.perf_counter() - started
    ended = code == "SJ210" and meter.seconds <= _LATE_S and busy == 0
    text = (
        f"{'killed' if ended else 'ended'} after {meter.seconds:.2f} s, {busy} "
        f"compilations go on; the next program took {next_s:.2f} s"
    )
    return meter.outcome(text, succeeded=not ended)


# --- T10: a recompile storm -------------------------------------------------------


@dataclasses.dataclass(slots=True)
class _Phase:
    """How long an honest client waited: for known programs, and for one new one."""

    known_ms: float
    new_s: float


def _ask(function: Function, params: Params, size: int) -> float:
    """Seconds until a batch of this size is answered."""
    x = np.zeros((size, PIXELS), np.float32)
    started = time.perf_counter()
    finished(function(params, x))
    return time.perf_counter() - started


def _phase(function: Function, params: Params, new: int, seconds: float) -> _Phase:
    waits = []
    middle, new_s = time.perf_counter() + seconds / 2, 0.0
    while not new_s or time.perf_counter() < middle + seconds / 2:
        if not new_s and time.perf_counter() >= middle:
            new_s = _ask(function, params, new)
        waits.append(_ask(function, params, _KNOWN))
        time.sleep(_PAUSE_S)
    return _Phase(known_ms=statistics.fmean(waits) * 1e3, new_s=new_s)


def _client(
    function: Function, params: Params, number: int, over: threading.Event
) -> None:
    """Asks for one size after another that nobody has asked for."""
    size = 100 + number
    with safejax.tenant(f"client-{number}"):
        while not over.is_set():
            # Refused: this client minds no more than any attacker does.
            with contextlib.suppress(safejax.SafeJaxError):
                _ask(function, params, size)
            size += _CLIENTS
            over.wait(_PAUSE_S)


def _storm(function: Function, seed: int) -> Outcome:
    params, over = init(seed), threading.Event()
    clients = [
        threading.Thread(target=_client, args=(function, params, number, over))
        for number in range(_CLIENTS)
    ]
    _ask(function, params, _KNOWN)
    with Meter() as meter, safejax.tenant("honest"):
        before = _phase(function, params, 2, _QUIET_S)
        for client in clients:
            client.start()
        try:
            during = _phase(function, params, 3, _STORM_S)
        finally:
            over.set()
            for client in clients:
                client.join()
        after = _phase(function, params, 4, _QUIET_S)
    disturbed = during.known_ms > _DISTURBED * before.known_ms
    waits = " / ".join(f"{one.known_ms:.2f}" for one in (before, during, after))
    news = " / ".join(f"{one.new_s:.2f}" for one in (before, during, after))
    text = (
        f"the honest client waits {waits} ms before / during / after; for a new size "
        f"{news} s"
    )
    return meter.outcome(text, succeeded=disturbed)


def plain_storm(seed: int) -> Outcome:
    """T10: eight callers keep the compiler busy, and everybody waits."""
    return _storm(jax.jit(predict), seed)


def safe_storm(seed: int) -> Outcome:
    """T10: each caller has a rate of its own and can't spend another's."""
    rate = safejax.CompileRate(compiles=3, per_s=60.0)
    tenants = safejax.ProcessLimits(tenant_rate=rate, max_compiles_per_tenant=3)
    safejax.set_process_limits(tenants)
    limits = safejax.Limits(max_compiles=64, compile_timeout_s=20.0)
    return _storm(safejax.safe_jit(predict, limits=limits), seed)
