"""T9: a compilation that takes forever can't be interrupted in a plain process."""

from __future__ import annotations

import time

import pytest
from compiling import SQUARE, WAIT_S, endless, python

from safejax import CompileTimeoutError, Limits, safe_jit

PLAIN = """
import signal, time
import jax
from compiling import SQUARE, slow
def ring(*_):
    raise TimeoutError
lowered = jax.jit(slow()).lower(SQUARE)
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.01)
start = time.monotonic()
try:
    lowered.compile()
    time.sleep(0)
except TimeoutError:
    pass
print(time.monotonic() - start)
"""


def test_an_alarm_does_not_interrupt_plain_jax():
    out, err = python(PLAIN).communicate(timeout=WAIT_S)

    # Asked for 0.01 s: it got all of XLA's time.
    assert float(out) > 0.1, err


def test_a_deadline_interrupts_safejax():
    f = safe_jit(endless(), limits=Limits(compile_timeout_s=0.5))
    start = time.monotonic()

    with pytest.raises(CompileTimeoutError):
        f(SQUARE)

    assert time.monotonic() - start < 10
