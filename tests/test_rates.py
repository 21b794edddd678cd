"""Rates: what a bucket grants, what a book of them keeps apart, and in what memory.

The clock is a variable; nothing sleeps.
"""

from __future__ import annotations

import math
import pickle
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from safejax import errors
from safejax.compile._rates import Bucket, Grant, RateBook, Refusal
from safejax.limits import CompileRate, Limits, ProcessLimits

# The bound is exact in nanoseconds; the test itself counts in floats.
ROUNDING = 1e-6


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def granted(answer):
    return isinstance(answer, Grant)


def drain(book, tenant, *, own=None, tries=1000):
    """Take until refused; returns the grants."""
    grants = []
    for _ in range(tries):
        answer = book.take(own, tenant)
        if not granted(answer):
            return grants
        grants.append(answer)
    raise RuntimeError("never refused")


rates = st.builds(
    CompileRate,
    compiles=st.integers(1, 1000),
    per_s=st.floats(1e-3, 1e5),
    burst=st.none() | st.integers(1, 50),
)
waits = st.floats(0, 200) | st.sampled_from([0.0, 1e-9, 1e-3, 1 / 3, 6.0])
starts = st.sampled_from([0.0, 1e-6, 12.3456789, 86_400.1, 1e6 + 1 / 3, 1e9])


# --- the data -----------------------------------------------------------------------


def test_rate_refuses_what_is_not_a_positive_finite_number():
    for value in (0, 0.0, -1.0, math.inf, math.nan, 1e10):
        with pytest.raises(ValueError, match="per_s"):
            CompileRate(compiles=1, per_s=value)
        with pytest.raises(ValueError, match="compile_seconds"):
            CompileRate(compile_seconds=value)
    for value in ("1", True, None, 1j):
        with pytest.raises(TypeError, match="per_s"):
            CompileRate(compiles=1, per_s=value)


def test_rate_refuses_counts_that_are_not_positive_integers():
    for name in ("compiles", "burst"):
        with pytest.raises(ValueError, match=name):
            CompileRate(**{"compiles": 1, name: 0})
        with pytest.raises(TypeError, match=name):
            CompileRate(**{"compiles": 1, name: 1.0})


def test_rate_that_limits_nothing_is_refused():
    with pytest.raises(ValueError, match="needs compiles"):
        CompileRate()
    with pytest.raises(ValueError, match="burst"):
        CompileRate(compile_seconds=1.0, burst=3)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Limits, "rate"), (ProcessLimits, "rate"), (ProcessLimits, "tenant_rate")],
)
def test_limits_take_a_rate_as_a_compile_rate_only(owner, name):
    rate = CompileRate(compiles=1)

    assert getattr(owner(**{name: rate}), name) is rate
    with pytest.raises(TypeError, match=name):
        owner(**{name: 10})


@pytest.mark.parametrize("name", ["compile_timeout_s", "retry_backoff_s"])
def test_limits_refuse_durations_that_are_none(name):
    assert getattr(Limits(**{name: 2}), name) == 2
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})
    with pytest.raises(ValueError, match=name):
        Limits(**{name: math.inf})
    with pytest.raises(TypeError, match=name):
        Limits(**{name: "2"})


@pytest.mark.parametrize(
    ("owner", "name", "least"),
    [
        (Limits, "compile_memory_bytes", 1),
        (Limits, "max_orphans", 0),
        (ProcessLimits, "max_compiles_per_tenant", 1),
        (ProcessLimits, "max_tenants", 1),
    ],
)
def test_limits_refuse_counts_out_of_range(owner, name, least):
    assert getattr(owner(**{name: least}), name) == least
    with pytest.raises(ValueError, match=name):
        owner(**{name: least - 1})
    with pytest.raises(TypeError, match=name):
        owner(**{name: 1.5})


def test_limits_with_rates_survive_pickling():
    limits = Limits(rate=CompileRate(compiles=3), compile_timeout_s=1.5)

    assert pickle.loads(pickle.dumps(limits)) == limits


@pytest.mark.parametrize(
    ("error", "builtin", "code"),
    [
        (errors.CompilePendingError, RuntimeError, "SJ206"),
        (errors.CompileTimeoutError, TimeoutError, "SJ210"),
        (errors.CompileMemoryError, MemoryError, "SJ220"),
        (errors.WorkerError, RuntimeError, "SJ230"),
    ],
)
def test_refusal_is_the_builtin_it_says_and_survives_pickling(error, builtin, code):
    raised = error("f() refused", details=lambda: {"phase": "queue"}, hint="wait")
    again = pickle.loads(pickle.dumps(raised))

    assert isinstance(raised, builtin)
    assert (type(again), again.code, str(again)) == (error, code, str(raised))
    assert again.details == {"phase": "queue"}


def test_pending_refusal_keeps_its_wait_when_pickled():
    raised = errors.CompilePendingError("soon", retry_after_s=0.25)

    assert isinstance(raised, errors.CompileLimitError)
    assert pickle.loads(pickle.dumps(raised)).retry_after_s == 0.25


# --- one bucket ---------------------------------------------------------------------


def test_bucket_grants_its_burst_at_once_and_no_more():
    bucket = Bucket(CompileRate(compiles=10, per_s=60.0, burst=4), Clock())

    assert [bucket.take() for _ in range(4)] == [None] * 4
    assert bucket.take() == pytest.approx(6.0)


def test_burst_is_the_number_of_compilations_where_it_is_not_given():
    bucket = Bucket(CompileRate(compiles=3, per_s=60.0), Clock())

    assert bucket.take(3) is None
    assert bucket.take() == pytest.approx(20.0)


def test_nothing_is_granted_a_nanosecond_early():
    clock = Clock(0.0)
    bucket = Bucket(CompileRate(compiles=3, per_s=1.0), clock)
    bucket.take(3)

    clock.now = 0.3333333331
    assert bucket.take() is not None
    clock.now = 0.3333333341
    assert bucket.take() is None


def test_refused_take_takes_nothing():
    clock = Clock()
    bucket = Bucket(CompileRate(compiles=1, per_s=10.0), clock)
    bucket.take()
    for _ in range(100):
        bucket.take()

    clock.now += 10.0
    assert bucket.take() is None


def test_bucket_refuses_to_take_more_than_it_ever_holds():
    bucket = Bucket(CompileRate(compiles=10, burst=2), Clock())

    for n in (0, -1, 3):
        with pytest.raises(ValueError, match="can't take"):
            bucket.take(n)


def test_clock_that_goes_back_grants_nothing_and_breaks_nothing():
    clock = Clock()
    bucket = Bucket(CompileRate(compiles=1, per_s=10.0), clock)
    bucket.take()
    clock.now -= 500.0
    assert bucket.take() is not None

    clock.now += 510.0
    assert bucket.take() is None


def test_seconds_may_be_owed_and_nothing_starts_until_they_are_paid():
    clock = Clock()
    bucket = Bucket(CompileRate(compile_seconds=10.0, per_s=60.0), clock)
    bucket.take()
    bucket.charge_seconds(15.0)

    assert bucket.take() == pytest.approx(30.0)
    clock.now += 30.1
    assert bucket.take() is None


def test_budget_of_seconds_does_not_grow_beyond_itself():
    clock = Clock()
    bucket = Bucket(CompileRate(compile_seconds=10.0, per_s=60.0), clock)
    clock.now += 1e6
    bucket.charge_seconds(11.0)

    assert bucket.take() == pytest.approx(6.0)


def test_longer_of_two_waits_is_told():
    bucket = Bucket(CompileRate(compiles=1, compile_seconds=10.0, per_s=60.0), Clock())
    bucket.take()
    bucket.charge_seconds(30.0)

    assert bucket.take() == pytest.approx(120.0)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_bucket_refuses_seconds_that_are_none(seconds):
    bucket = Bucket(CompileRate(compile_seconds=10.0), Clock())

    with pytest.raises(ValueError, match="finite"):
        bucket.charge_seconds(seconds)


@given(rate=rates, start=starts, gaps=st.lists(waits, max_size=60))
def test_no_window_grants_more_than_burst_and_rate_times_time(rate, start, gaps):
    clock = Clock(start)
    bucket = Bucket(rate, clock)
    times = []
    for gap in gaps:
        clock.now += gap
        for _ in range(3):
            if bucket.take() is None:
                times.append(clock.now)
    for i, begin in enumerate(times):
        for j in range(i, len(times)):
            most = bucket.burst + rate.compiles * (times[j] - begin) / rate.per_s
            error = ROUNDING + 4e-9 * rate.compiles / rate.per_s
            slack = 4 * math.ulp(times[j]) * rate.compiles / rate.per_s
            assert j - i + 1 <= most + error + slack


@given(rate=rates, start=starts, gaps=st.lists(waits, max_size=20), data=st.data())
def test_waiting_as_long_as_told_is_enough(rate, start, gaps, data):
    clock = Clock(start)
    bucket = Bucket(rate, clock)
    for gap in gaps:
        clock.now += gap
        bucket.take(data.draw(st.integers(1, bucket.burst)))
    n = data.draw(st.integers(1, bucket.burst))
    wait_s = bucket.take(n)
    while wait_s is None:
        wait_s = bucket.take(n)

    assert 0 < wait_s < math.inf
    clock.now += wait_s
    assert bucket.take(n) is None


@given(
    rate=st.builds(
        CompileRate,
        compile_seconds=st.floats(1e-3, 1e4),
        per_s=st.floats(1e-3, 1e5),
    ),
    start=starts,
    spent=st.floats(0, 1e4),
)
def test_waiting_as_long_as_told_pays_the_debt(rate, start, spent):
    clock = Clock(start)
    bucket = Bucket(rate, clock)
    bucket.charge_seconds(spent)
    wait_s = bucket.take()

    assert (wait_s is not None) == (
        round(spent * 1e9) > max(1, round(rate.compile_seconds * 1e9))
    )
    clock.now += wait_s or 0.0
    assert bucket.take() is None


@given(rate=rates, start=starts)
def test_waiting_is_not_much_longer_than_needed(rate, start):
    clock = Clock(start)
    bucket = Bucket(rate, clock)
    bucket.take(bucket.burst)
    wait_s = bucket.take()
    needed = rate.per_s / rate.compiles

    assert wait_s == pytest.approx(needed, rel=1e-6, abs=3e-9 + 8 * math.ulp(start))


@given(rate=rates, gaps=st.lists(waits, max_size=10), data=st.data())
def test_refund_restores_what_was_taken(rate, gaps, data):
    clock, other = Clock(), Clock()
    bucket, twin = Bucket(rate, clock), Bucket(rate, other)
    for gap in gaps:
        clock.now = other.now = clock.now + gap
        assert bucket.take() == twin.take()
    n = data.draw(st.integers(1, bucket.burst))
    if bucket.take(n) is None:
        bucket.refund(n)

    for k in (1, bucket.burst):
        assert bucket.take(k) == twin.take(k)


def test_refund_does_not_fill_a_bucket_over_its_burst():
    bucket = Bucket(CompileRate(compiles=2), Clock())
    bucket.refund(100)

    assert bucket.take(2) is None
    assert bucket.take() is not None


# --- function, tenant and process ---------------------------------------------------


def test_without_rates_everything_is_granted():
    book = RateBook()

    assert all(granted(book.take(None, f"t{i}")) for i in range(1000))
    assert book.tenants() == 0


@pytest.mark.parametrize("tightest", ["function", "tenant", "process"])
def test_refusal_names_its_rate_and_takes_nothing_of_the_others(tightest):
    clock = Clock()
    rates = dict.fromkeys(("function", "tenant", "process"), CompileRate(compiles=3))
    rates[tightest] = CompileRate(compiles=1)
    book = RateBook(rates["process"], rates["tenant"], now=clock)
    own = Bucket(rates["function"], clock)
    assert granted(book.take(own, "a"))
    for _ in range(10):
        assert book.take(own, "a").scope == tightest

    left = {"function": own, "tenant": book._tenants["a"], "process": book._process}
    del left[tightest]
    assert [bucket.take(2) for bucket in left.values()] == [None, None]
    assert all(bucket.take() is not None for bucket in left.values())


def test_refusal_tells_the_longest_wait_of_all():
    clock = Clock()
    book = RateBook(
        CompileRate(compiles=1, per_s=5.0),
        CompileRate(compiles=1, per_s=50.0),
        9,
        clock,
    )
    book.take(None, "a")
    refusal = book.take(None, "a")

    assert refusal == Refusal("tenant", pytest.approx(50.0))
    clock.now += refusal.retry_after_s
    assert granted(book.take(None, "a"))


def test_one_tenant_can_not_use_up_the_rate_of_another():
    book = RateBook(None, CompileRate(compiles=5), now=Clock())

    assert len(drain(book, "greedy")) == 5
    assert len(drain(book, "honest")) == 5


def test_caller_without_a_tenant_has_the_limits_of_function_and_process_alone():
    book = RateBook(CompileRate(compiles=7), CompileRate(compiles=1), now=Clock())

    assert len(drain(book, None)) == 7


def test_refunded_grant_costs_neither_function_nor_tenant_nor_process():
    clock = Clock()
    one = CompileRate(compiles=1)
    book, own = RateBook(one, one, now=clock), Bucket(one, clock)
    for _ in range(10):
        grant = book.take(own, "a")
        assert granted(grant)
        grant.refund()
        grant.refund()

    assert len(drain(book, "a", own=own)) == 1


def test_finished_grant_charges_its_seconds_once():
    clock = Clock()
    book = RateBook(None, CompileRate(compile_seconds=10.0, per_s=60.0), now=clock)
    grant = book.take(None, "a")
    grant.finish(15.0)
    grant.finish(15.0)
    grant.refund()

    assert book.take(None, "a").retry_after_s == pytest.approx(30.0)
    assert granted(book.take(None, "b"))


# --- who is remembered --------------------------------------------------------------


def test_refused_newcomers_are_not_remembered():
    book = RateBook(CompileRate(compiles=1), CompileRate(compiles=1), now=Clock())
    for i in range(1000):
        book.take(None, f"t{i}")

    assert book.tenants() == 1


def test_flood_of_names_does_not_reset_a_bucket():
    book = RateBook(None, CompileRate(compiles=2), max_tenants=10, now=Clock())
    drain(book, "attacker")
    for i in range(1000):
        book.take(None, f"made-up-{i}")

    assert not granted(book.take(None, "attacker"))
    assert book.tenants() == 10


def test_newcomers_share_one_bucket_when_nobody_can_be_forgotten():
    book = RateBook(None, CompileRate(compiles=2), max_tenants=3, now=Clock())
    for name in "abc":
        book.take(None, name)

    assert sum(granted(book.take(None, f"new-{i}")) for i in range(100)) == 2
    assert len(drain(book, "a")) == 1


def test_only_a_tenant_whose_bucket_is_full_again_is_forgotten():
    clock = Clock()
    rate = CompileRate(compiles=2, per_s=10.0)
    book = RateBook(None, rate, max_tenants=2, now=clock)
    for grant in (*drain(book, "greedy"), book.take(None, "modest")):
        grant.finish(0.0)
    clock.now += 5.5

    assert len(drain(book, "new")) == 2
    assert set(book._tenants) == {"greedy", "new"}
    assert len(drain(book, "greedy")) == 1


def test_tenant_with_a_compilation_under_way_is_not_forgotten():
    clock = Clock()
    rate = CompileRate(compiles=1, compile_seconds=10.0, per_s=60.0)
    book = RateBook(None, rate, max_tenants=1, now=clock)
    grant = book.take(None, "slow")
    clock.now += 1000.0
    other = book.take(None, "other")
    other.finish(0.0)
    grant.finish(1000.0)

    assert book.take(None, "slow").retry_after_s > 5000.0
    clock.now += 10_000.0
    book.take(None, "other").finish(0.0)
    assert granted(book.take(None, "slow"))


def test_attack_from_many_threads_gets_exactly_the_burst():
    clock = Clock()
    book = RateBook(CompileRate(compiles=40), CompileRate(compiles=25), now=clock)
    counts = {"a": 0, "b": 0}
    lock = threading.Lock()

    def attack(name):
        for _ in range(50):
            if granted(book.take(None, name)):
                with lock:
                    counts[name] += 1

    threads = [threading.Thread(target=attack, args=(n,)) for n in "ab" * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(counts.values()) == 40
    assert max(counts.values()) <= 25


class Flood(RuleBasedStateMachine):
    """Tenants come, pay and go; an exact book without bounds is the judge."""

    RATE = CompileRate(compiles=2, per_s=10.0, burst=3, compile_seconds=6.0)
    PROCESS = CompileRate(compiles=8, per_s=10.0, burst=12)
    MOST = 4

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.book = RateBook(self.PROCESS, self.RATE, self.MOST, self.clock)
        self.own = Bucket(CompileRate(compiles=9, per_s=10.0), self.clock)
        self.open = []
        self.times = []
        self.by_name = {}

    @rule(name=st.sampled_from("abcdefgh"))
    def take(self, name):
        known = name in self.book._tenants
        answer = self.book.take(self.own, name)
        if granted(answer):
            self.open.append((name, answer))
            self.times.append(self.clock.now)
            if known or name in self.book._tenants:
                self.by_name.setdefault(name, []).append(self.clock.now)
        else:
            assert 0 < answer.retry_after_s < math.inf
            self.last = (name, answer.retry_after_s)

    @rule(gap=st.sampled_from([0.1, 1.0, 5.0, 40.0]))
    def wait(self, gap):
        self.clock.now += gap

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 99), seconds=st.sampled_from([0.0, 0.5, 9.0]))
    def finish(self, index, seconds):
        _, grant = self.open.pop(index % len(self.open))
        grant.finish(seconds)

    @rule(name=st.sampled_from("abcdefgh"))
    def waiting_as_told_is_enough(self, name):
        answer = self.book.take(self.own, name)
        if not granted(answer):
            self.clock.now += answer.retry_after_s
            answer = self.book.take(self.own, name)
            # A quiet name may have to make room: then it shares, and may wait again.
            assert granted(answer) or answer.scope == "tenant"
        if granted(answer):
            answer.refund()

    @invariant()
    def memory_is_bounded(self):
        assert self.book.tenants() <= self.MOST
        assert len(self.book._full) == self.book.tenants()
        assert sorted(e[2] for e in self.book._full) == sorted(self.book._tenants)

    @invariant()
    def nobody_gets_more_than_its_rate(self):
        self.check(self.times, 12, 0.8)
        for times in self.by_name.values():
            self.check(times, 3, 0.2)

    @staticmethod
    def check(times, burst, per_s):
        for i, begin in enumerate(times):
            spans = ((j - i + 1, t - begin) for j, t in enumerate(times) if j >= i)
            assert all(n <= burst + per_s * t + ROUNDING for n, t in spans)

    @invariant()
    def what_is_under_way_is_remembered(self):
        under_way = [b for b in self.book._tenants.values() if b.open_grants]
        overflow = self.book._overflow.open_grants
        assert sum(b.open_grants for b in under_way) + overflow == len(self.open)


Flood.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestFlood = Flood.TestCase


def test_flood_of_names_costs_no_scan():
    clock = Clock()
    looked = 0
    book = RateBook(None, CompileRate(compiles=5, per_s=1e6), 2000, clock)

    for i in range(2000):
        book.take(None, f"t{i}")

    real = Bucket.full_at_ns

    def counted(self):
        nonlocal looked
        looked += 1
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "full_at_ns", counted)
        for i in range(2000):
            book.take(None, f"new-{i}")

    assert looked <= 2000
