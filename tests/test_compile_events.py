"""What callbacks and figures say about each way a call can go."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle

import numpy as np
from compiling import PATIENT, SQUARE, endless, events, outcome, unrolled

import safejax
from safejax import Limits, safe_jit
from safejax.compile._pool import Pool, QueueFullError


def test_a_compilation_is_admitted_and_compiled():
    f = safe_jit(unrolled(3), limits=PATIENT)
    with events() as seen, safejax.tenant("t"):
        f(SQUARE), f(SQUARE)

    assert [(e.kind, e.function, e.tenant) for e in seen] == [
        ("admitted", "bomb", "t"),
        ("compiled", "bomb", "t"),
    ]
    assert seen[1].seconds > 0
    stats = f.stats()
    phases = (stats.trace_s, stats.lower_s, stats.compile_s, stats.load_s)
    assert all(seconds > 0 for seconds in phases)


def test_figures_are_plain_data():
    stats = safe_jit(lambda x: x).stats()
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert json.loads(json.dumps(dataclasses.asdict(stats)))["refusals"] == {}
    hash(stats)


def test_an_eviction_is_told():
    f = safe_jit(lambda x: x, limits=Limits(max_compiles=1, on_limit="evict"))
    with events("evicted") as seen:
        f(np.ones(1)), f(np.ones(2))
    assert [event.function for event in seen] == ["<lambda>"]


def test_a_callback_can_not_change_whom_the_caller_is_charged_to():
    entered = []

    def leave_open(event):
        safejax.tenant("mallory").__enter__()
        entered.append(safejax.current_tenant())

    f = safe_jit(lambda x: x * 7)
    stop = safejax.on_event(leave_open)
    with safejax.tenant("alice"):
        f(1.0)
        assert safejax.current_tenant() == "alice"
    stop()

    assert set(entered) == {"mallory"}
    assert f.stats().tenants == {"alice": 1}


def test_a_callback_that_raises_harms_nobody(caplog):
    stop = safejax.on_event(lambda event: 1 / 0)
    f = safe_jit(endless(), limits=Limits(compile_timeout_s=0.3))
    try:
        with caplog.at_level(logging.ERROR, "safejax.compile"):
            assert safe_jit(lambda x: x + 1)(1.0) == 2
            assert isinstance(outcome(f, SQUARE), safejax.CompileTimeoutError)
    finally:
        stop()
    assert len(caplog.records) == 1


def test_a_full_queue_is_a_limit_and_no_failure_of_the_program(monkeypatch):
    def full(*_):
        raise QueueFullError("256 compilations wait already")

    f = safe_jit(unrolled(2), limits=PATIENT)
    with monkeypatch.context() as patched:
        patched.setattr(Pool, "submit", full)
        error = outcome(f, SQUARE)

    assert (type(error), error.code) == (safejax.CompileLimitError, "SJ209")
    assert error.retry_after_s == 1.0
    # No back-off: the program has done nothing wrong.
    assert f(SQUARE).shape == SQUARE.shape
