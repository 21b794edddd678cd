"""A process that was forked from one that has used JAX: it answers, and never hangs."""

from __future__ import annotations

import json
import threading

import pytest
from compiling import WAIT_S, python

import safejax
from safejax.compile._forked import Inheritance

FORKS = """
import json, os, sys, time
import numpy as np
import safejax

f = safejax.safe_jit(
    lambda x: x * 2, limits=safejax.Limits(compile_timeout_s=50.0, retry_backoff_s=0.01)
)
if sys.argv[1] == "after":
    f(np.ones(3, np.float32))
if os.fork():
    os.wait()
else:
    start, found = time.monotonic(), []
    for size in (3, 4, 5):
        try:
            found.append(f(np.ones(size, np.float32)).tolist())
        except safejax.WorkerError as error:
            found.append(error.code)
    seconds = time.monotonic() - start
    workers = safejax.compile_status().get("workers", 0)
    print(json.dumps([found, seconds, workers]), flush=True)
    os._exit(0)
"""


def forked(when):
    process = python(FORKS.replace("sys.argv[1]", repr(when)))
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    return json.loads(out)


def test_a_child_forked_before_jax_was_used_compiles_with_workers_of_its_own():
    found, _, workers = forked("before")

    assert found == [[2.0] * 3, [2.0] * 4, [2.0] * 5]
    assert workers >= 1


def test_a_child_forked_later_serves_what_is_known_and_refuses_or_compiles_the_rest():
    found, seconds, _ = forked("after")

    assert found[0] == [2.0] * 3
    # JAX 0.10.2 refuses, 0.12 compiles: never a mixture.
    assert found[1:] in (["SJ231"] * 2, [[2.0] * 4, [2.0] * 5])
    # One wait of three seconds, not one for each call.
    assert seconds < 30


def test_a_process_that_was_not_forked_is_not_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "safejax.compile._forked._jax.compile_nothing", lambda: asked.append(1)
    )

    assert Inheritance().is_usable(None)
    assert asked == []


@pytest.mark.parametrize("answers", [True, False])
def test_inherited_backends_are_asked_once(monkeypatch, answers):
    asked = []

    def compile_nothing():
        asked.append(1)
        if not answers:
            threading.Event().wait(3.0)

    monkeypatch.setattr("safejax.compile._forked._jax.compile_nothing", compile_nothing)
    monkeypatch.setattr("safejax.compile._forked._PATIENCE_S", 0.3 + 30 * answers)
    safejax.safe_jit(lambda x: x)(1.0)  # there is a backend
    inheritance = Inheritance()
    inheritance.begin()

    assert [inheritance.is_usable(None) for _ in range(3)] == [answers] * 3
    assert asked == [1]


def test_backends_made_after_the_fork_are_not_suspected(monkeypatch):
    inheritance = Inheritance()
    inheritance.begin()
    monkeypatch.setattr("safejax.compile._forked._jax.backends", lambda: (object(),))

    assert inheritance.is_usable(None)
