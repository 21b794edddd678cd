"""A compilation ends at its deadline, at Ctrl-C and at its memory limit, for good."""

from __future__ import annotations

import dataclasses
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import (
    PATIENT,
    SQUARE,
    WAIT_S,
    busy,
    endless,
    events,
    gone,
    outcome,
    pids,
    process_limits,
    python,
    slow,
    unrolled,
    until,
)

import safejax
from safejax import CompileLimitError, CompileTimeoutError, Limits, safe_jit

# Lowering these bombs takes 0.2 s, and several times that on a busy machine.
BRIEF = Limits(compile_timeout_s=2.0)


@pytest.fixture(scope="module", autouse=True)
def warm_worker():
    """A deadline covers the start of a worker; this one is to find it started."""
    assert outcome(safe_jit(unrolled(1), limits=PATIENT), SQUARE).shape == (8, 8)


@pytest.mark.parametrize("contract", [None, {"x": safejax.spec("f32[8, 8]")}])
@pytest.mark.parametrize("on_limit", ["raise", "evict"])
def test_a_compilation_is_killed_at_its_deadline(contract, on_limit):
    limits = dataclasses.replace(BRIEF, on_limit=on_limit, retry_backoff_s=300.0)
    f = safe_jit(endless(), limits=limits, contract=contract)
    with (
        events("killed") as killed,
        pytest.raises(CompileTimeoutError) as caught,
    ):
        f(SQUARE)

    error = caught.value
    assert isinstance(error, TimeoutError)
    assert error.details["function"] == "bomb"
    assert error.details["phase"] == "compile"
    assert error.details["limit_s"] == 2.0
    assert 2.0 <= error.details["elapsed_s"] < 20.0
    assert error.details["program_bytes"] > 1000
    assert "compile_timeout_s" in error.hint
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert f.stats().kills == len(killed) == 1
    assert f.stats().live == f.stats().compiles == 0
    assert busy() == 0
    with pytest.raises(CompileLimitError) as again:
        f(SQUARE)
    assert again.value.code == "SJ205"
    assert 0 < again.value.retry_after_s <= 300.0


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_nothing_of_a_killed_compilation_stays():
    before = set(pids())
    with events("killed") as killed:
        outcome(safe_jit(endless(), limits=BRIEF), SQUARE)
    assert len(killed) == 1

    safe_jit(unrolled(1), limits=PATIENT)(SQUARE)
    status = safejax.compile_status()

    assert status["busy"] == status["queued"] == status["orphans"] == 0
    children = Path("/proc/self/task").glob("*/children")
    ours = {int(pid) for path in children for pid in path.read_text().split()}
    assert not [pid for pid in before if pid not in status["pids"] and not gone(pid)]
    # Who lives is idle: its time stands still.
    live = [pid for pid in pids() if pid in ours]
    until(lambda: safejax.compile_status()["starting"] == 0)
    live = pids()
    ticks = [cpu_ticks(pid) for pid in live]
    time.sleep(0.3)
    assert sum(map(cpu_ticks, live)) - sum(ticks) <= 5


def test_the_deadline_counts_the_time_in_the_queue():
    hog = safe_jit(endless(), limits=Limits(compile_timeout_s=2.5))
    late = safe_jit(unrolled(2), limits=Limits(compile_timeout_s=0.4))
    with ThreadPoolExecutor(2) as pool:
        hogs = [pool.submit(outcome, hog, SQUARE[:n, :n]) for n in (7, 8)]
        until(lambda: busy() == 2)
        with events("killed", "failed") as told:
            error = outcome(late, SQUARE)
        assert [type(h.result(WAIT_S)) for h in hogs] == [CompileTimeoutError] * 2

    assert isinstance(error, CompileTimeoutError)
    assert error.details["phase"] == "queue"
    assert told[0].phase == "queue"


def test_a_later_deadline_of_the_same_program_is_not_shortened_by_a_killed_one():
    brief = safe_jit(slow(), limits=Limits(compile_timeout_s=0.2))
    assert isinstance(outcome(brief, SQUARE), CompileTimeoutError)

    f = safe_jit(slow(), limits=PATIENT)

    assert f(SQUARE).shape == (8, 8)
    assert (f.stats().compiles, f.stats().kills) == (1, 0)


def test_programs_made_ahead_of_time_and_under_transformations_end_too():
    f = safe_jit(endless(), limits=BRIEF)
    lowered = f.lower(SQUARE)

    with pytest.raises(CompileTimeoutError):
        lowered.compile()
    with pytest.raises(CompileTimeoutError):
        jax.vmap(f)(SQUARE[None])
    assert f.stats().kills == 2
    assert f.stats().live == 0


def test_a_memory_limit_ends_the_compilation_and_not_the_parent():
    def big(x):
        for i in range(600):
            x = jnp.sort(x @ x + i) * jnp.sin(x)
        return x

    f = safe_jit(
        big, limits=Limits(compile_memory_bytes=4 << 20, compile_timeout_s=60.0)
    )
    safe_jit(unrolled(1), limits=PATIENT)(SQUARE)
    before = resident()
    with events("failed", "killed") as ended:
        error = outcome(f, SQUARE)
    grown = resident() - before

    assert isinstance(error, safejax.CompileMemoryError)
    assert isinstance(error, MemoryError)
    assert error.details["limit_bytes"] == 4 << 20
    assert len(ended) == 1
    # What tracing and lowering here took; nothing of what XLA did.
    assert grown < 200 << 20
    assert f.stats().live == 0
    assert safe_jit(unrolled(1), limits=PATIENT)(SQUARE).shape == (8, 8)


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


INTERRUPTED = """
import os, sys, threading
import numpy as np, safejax
from compiling import endless
limits = safejax.Limits({limits})
f = safejax.safe_jit(endless(), limits=limits, isolation="process")
def tell():
    while not safejax.compile_status().get("busy"):
        pass
    print(*safejax.compile_status()["pids"], flush=True)
threading.Thread(target=tell, daemon=True).start()
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", safejax.compile_status()["busy"], f.stats().live, flush=True)
"""


@pytest.mark.parametrize("limits", ["", "compile_timeout_s=300.0"])
@pytest.mark.parametrize(
    "call",
    [
        "f(np.ones((8, 8), np.float32))",
        "safejax.precompile([(f, (np.ones((n, n), np.float32),)) for n in (5, 6, 7)])",
    ],
    ids=["call", "precompile"],
)
def test_ctrl_c_ends_a_compilation_at_once_and_leaves_nothing(limits, call):
    child = python(INTERRUPTED.format(limits=limits, call=call))
    workers = [int(pid) for pid in child.stdout.readline().split()]
    assert workers

    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=WAIT_S)

    assert out.split() == ["interrupted", "0", "0"], (out, err)
    assert child.returncode == 0
    until(lambda: all(gone(pid) for pid in workers))


def test_a_killed_parent_takes_its_workers_along():
    child = python(INTERRUPTED.format(limits="", call="f(np.ones((8, 8), 'f'))"))
    workers = [int(pid) for pid in child.stdout.readline().split()]
    assert workers

    child.kill()
    child.communicate(timeout=WAIT_S)

    until(lambda: all(gone(pid) for pid in workers))


def test_compile_seconds_of_a_kill_are_charged_to_the_rate():
    with process_limits(
        rate=safejax.CompileRate(compile_seconds=0.1, per_s=1e6),
    ):
        f = safe_jit(endless(), limits=BRIEF)
        assert isinstance(outcome(f, SQUARE), CompileTimeoutError)

        error = outcome(f, SQUARE[:4, :4])

    assert isinstance(error, CompileLimitError)
    assert error.code == "SJ203"
    assert error.retry_after_s > 1e5


def test_a_known_signature_is_served_while_another_compiles():
    f = safe_jit(slow(), limits=PATIENT)
    small = np.ones((2, 2), np.float32)
    first = np.asarray(f(small)).tobytes()
    thread = threading.Thread(target=outcome, args=(f, SQUARE))
    thread.start()
    until(lambda: busy() == 1)

    assert np.asarray(f(small)).tobytes() == first
    assert f.stats().compiles == 1
    thread.join(WAIT_S)
