"""Back-off: a signature that failed is refused for a while, and longer each time."""

from __future__ import annotations

import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safejax.compile._backoff import Backoff


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def test_key_that_never_failed_may_be_tried():
    backoff = Backoff(now=Clock())

    assert backoff.retry_after_s("a") is None
    backoff.succeeded("a")
    assert len(backoff) == 0


def test_failed_key_is_refused_until_its_back_off_ends():
    clock = Clock()
    backoff = Backoff(2.0, now=clock)

    assert backoff.failed("a") == 2.0
    assert backoff.retry_after_s("a") == pytest.approx(2.0)
    assert backoff.retry_after_s("b") is None
    clock.now += 2.0
    assert backoff.retry_after_s("a") is None


def test_back_off_doubles_up_to_its_longest():
    backoff = Backoff(1.0, now=Clock())
    delays = [backoff.failed("a") for _ in range(2000)]

    assert delays[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert set(delays[9:]) == {300.0}


def test_first_back_off_longer_than_the_longest_is_kept():
    backoff = Backoff(1000.0, now=Clock())

    assert [backoff.failed("a") for _ in range(3)] == [1000.0] * 3


def test_end_of_a_back_off_does_not_forget_the_failures():
    clock = Clock()
    backoff = Backoff(1.0, now=clock)
    backoff.failed("a")
    clock.now += 50.0

    assert backoff.failed("a") == 2.0


def test_success_forgets_the_failures():
    backoff = Backoff(1.0, now=Clock())
    for _ in range(5):
        backoff.failed("a")
    backoff.succeeded("a")

    assert backoff.retry_after_s("a") is None
    assert backoff.failed("a") == 1.0


def test_memory_is_bounded_and_the_least_recently_used_goes():
    backoff = Backoff(1.0, max_keys=3, now=Clock())
    for key in "abc":
        backoff.failed(key)
    backoff.retry_after_s("a")
    backoff.failed("d")

    assert len(backoff) == 3
    assert backoff.retry_after_s("b") is None
    assert backoff.retry_after_s("a") is not None


def test_clear_forgets_everything():
    backoff = Backoff(now=Clock())
    backoff.failed("a")
    backoff.clear()

    assert backoff.retry_after_s("a") is None


@given(
    start=st.floats(0, 1e9),
    first_s=st.floats(1e-3, 1e4),
    failures=st.integers(1, 12),
    gap=st.floats(0, 300),
)
@example(start=0.98, first_s=3.0, failures=1, gap=0.45)  # now + (until - now) < until
@example(start=2.46, first_s=17.8, failures=1, gap=0.37)
def test_waiting_as_long_as_told_is_enough(start, first_s, failures, gap):
    clock = Clock(start)
    backoff = Backoff(first_s, now=clock)
    for _ in range(failures):
        backoff.failed("a")
    clock.now += gap
    wait_s = backoff.retry_after_s("a")

    clock.now += wait_s or 0.0
    assert backoff.retry_after_s("a") is None


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=100))
def test_any_history_stays_within_bounds(history):
    clock = Clock()
    backoff = Backoff(1.0, max_keys=5, now=clock)
    for key, ok in history:
        clock.now += 0.5
        if ok:
            backoff.succeeded(key)
            assert backoff.retry_after_s(key) is None
        else:
            assert 1.0 <= backoff.failed(key) <= 300.0
            assert 0 < backoff.retry_after_s(key) <= 300.1
        assert len(backoff) <= 5


def test_threads_that_fail_together_lose_no_failure():
    backoff = Backoff(1.0, longest_s=2.0**200, now=Clock())

    def fail():
        for _ in range(20):
            backoff.failed("a")

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert backoff.failed("a") == 2.0**80
