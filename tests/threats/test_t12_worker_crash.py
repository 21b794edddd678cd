"""T12: a compiler that crashes takes a plain process along."""

from __future__ import annotations

import os
import signal
import threading

from compiling import (
    PATIENT,
    SQUARE,
    WAIT_S,
    busy,
    endless,
    outcome,
    pids,
    python,
    until,
)

from safejax import WorkerError, safe_jit

PLAIN = """
import os, signal, threading, time, jax
from compiling import SQUARE, endless
lowered = jax.jit(endless()).lower(SQUARE)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGABRT)).start()
lowered.compile()
"""


def test_a_crash_of_the_compiler_ends_plain_jax():
    process = python(PLAIN)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == -signal.SIGABRT


def test_a_crash_of_the_compiler_is_an_error():
    f = safe_jit(endless(), limits=PATIENT)
    results = []
    thread = threading.Thread(target=lambda: results.append(outcome(f, SQUARE)))
    thread.start()
    until(lambda: busy() == 1)
    for pid in pids():
        os.kill(pid, signal.SIGABRT)
    thread.join(WAIT_S)

    assert isinstance(results[0], WorkerError)
    assert results[0].details["signal"] == "SIGABRT"
