"""Programs that compile for long, and what tests of compilation have in common."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import safejax

WAIT_S = 60
SQUARE = np.ones((8, 8), np.float32)
# Of any test here: what it says must hold on a machine ten times slower.
PATIENT = safejax.Limits(compile_timeout_s=120.0)


def unrolled(steps, note=lambda: None):
    """A function that is traced in moments and takes XLA about 0.04 s a step."""

    def bomb(x):
        note()
        for i in range(steps):
            x = jnp.sort(x @ x + i) * jnp.sin(x)
        return x

    return bomb


def slow(note=lambda: None):
    """A function that XLA needs some seconds for."""
    return unrolled(60, note)


def endless(note=lambda: None):
    """A function that XLA needs far longer for than any test waits."""
    return unrolled(400, note)


def until(condition):
    """Waits until the condition holds."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def pids():
    return safejax.compile_status().get("pids", [])


def busy():
    return safejax.compile_status().get("busy", 0)


def gone(pid):
    """Whether the process is no more, not even as a zombie."""
    return not Path(f"/proc/{pid}").exists()


@contextlib.contextmanager
def events(*kinds):
    seen = []
    stop = safejax.on_event(
        lambda event: seen.append(event) if event.kind in kinds or not kinds else None
    )
    try:
        yield seen
    finally:
        stop()


@contextlib.contextmanager
def process_limits(**limits):
    before = safejax.set_process_limits(safejax.ProcessLimits(**limits))
    try:
        yield
    finally:
        safejax.set_process_limits(before)


@contextlib.contextmanager
def compilations():
    """Compilations in this process, as JAX's own monitoring counts them."""
    seen = []

    def listen(name, _, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def outcome(work, *args):
    try:
        return work(*args)
    except Exception as error:  # noqa: BLE001  the outcome is what is tested
        return error


def race(work, threads=8):
    """Runs ``work(i)`` in threads that start together; results or errors, in order."""
    barrier = threading.Barrier(threads)

    def run(i):
        barrier.wait(WAIT_S)
        return outcome(work, i)

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run, i) for i in range(threads)]
        return [future.result(2 * WAIT_S) for future in futures]


def python(code, **env):
    """Starts Python with this code, with the environment of the tests."""
    setting = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
    setting["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, sys.path)]
    )
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::RuntimeWarning", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=setting,
        text=True,
    )
