"""How often programs may be compiled: by a function, by a tenant, by the process.

Only decisions; the clock is a parameter. Levels are integers: nanoseconds, scaled so
that nothing is ever rounded. A float would drift until a burst of four grants three.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Literal

from safejax.limits import CompileRate

_NS = 1_000_000_000

Scope = Literal["function", "tenant", "process"]


class _Meter:
    """A level that refills by ``fill`` each nanosecond up to ``capacity``."""

    __slots__ = ("_at_ns", "_capacity", "_fill", "_level")

    def __init__(self, capacity: int, fill: int, at_ns: int) -> None:
        self._capacity = self._level = capacity
        self._fill = fill
        self._at_ns = at_ns

    def wait_ns(self, level: int, at_ns: int) -> int:
        """How long until the level is at least ``level``."""
        if at_ns > self._at_ns:
            grown = self._level + (at_ns - self._at_ns) * self._fill
            self._level = min(self._capacity, grown)
            self._at_ns = at_ns
        return max(0, -((self._level - level) // self._fill))

    def full_in_ns(self, at_ns: int) -> int:
        """How long until it is full."""
        return self.wait_ns(self._capacity, at_ns)

    def add(self, amount: int) -> None:
        """Moves the level; it may sink below zero, but does not overflow."""
        self._level = min(self._capacity, self._level + amount)


class Bucket:
    """One rate at work: how much of it is left. Not for several threads at once.

    It never grants more than ``burst + compiles * t / per_s`` in ``t`` seconds. The
    budget of compile-seconds is charged afterwards and may sink into debt; nothing is
    granted in debt.
    """

    __slots__ = ("_now", "_seconds", "_token", "_tokens", "burst", "open_grants")

    def __init__(
        self, rate: CompileRate, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        at_ns = self._at_ns()
        # One token, and one nanosecond of compiling, are worth as many units as there
        # are nanoseconds in per_s: both then refill by an integer each nanosecond.
        self._token = max(1, round(rate.per_s * _NS))
        self._tokens: _Meter | None = None
        self._seconds: _Meter | None = None
        self.burst: int | None = None
        self.open_grants = 0
        if rate.compiles is not None:
            self.burst = rate.compiles if rate.burst is None else rate.burst
            self._tokens = _Meter(self.burst * self._token, rate.compiles, at_ns)
        if rate.compile_seconds is not None:
            budget = max(1, round(rate.compile_seconds * _NS))
            self._seconds = _Meter(budget * self._token, budget, at_ns)

    def take(self, n: int = 1) -> float | None:
        """Takes ``n`` compilations: ``None``, or seconds until it would be granted.

        Raises:
            ValueError: ``n`` is less than one, or more than is ever granted at once.
        """
        wait_s = self.wait_s(n)
        if wait_s is None and self._tokens is not None:
            self._tokens.add(-n * self._token)
        return wait_s

    def wait_s(self, n: int = 1) -> float | None:
        """What :meth:`take` would answer; takes nothing.

        Raises:
            ValueError: ``n`` is less than one, or more than is ever granted at once.
        """
        if n < 1 or (self.burst is not None and n > self.burst):
            raise ValueError(f"can't take {n} of a burst of {self.burst}")
        now = self._now()
        at_ns = int(now * _NS)
        wait_ns = 0
        if self._tokens is not None:
            wait_ns = self._tokens.wait_ns(n * self._token, at_ns)
        if self._seconds is not None:
            wait_ns = max(wait_ns, self._seconds.wait_ns(0, at_ns))
        if wait_ns == 0:
            return None
        # Rounded up: whoever waits exactly this long must be served.
        wait_s = wait_ns / _NS
        return wait_s + 4 * math.ulp(abs(now) + wait_s)

    def refund(self, n: int = 1) -> None:
        """Gives back ``n`` compilations that did not take place."""
        if self._tokens is not None:
            self._tokens.add(n * self._token)

    def charge_seconds(self, seconds: float) -> None:
        """Charges the time of one compilation to the budget of compile-seconds.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds must be finite and not negative, got {seconds}")
        if self._seconds is not None:
            self._seconds.wait_ns(0, self._at_ns())
            self._seconds.add(-round(seconds * _NS) * self._token)

    def full_at_ns(self) -> int:
        """When it is full again, on its clock in nanoseconds, if left alone."""
        at_ns = self._at_ns()
        meters = (m for m in (self._tokens, self._seconds) if m is not None)
        return at_ns + max(meter.full_in_ns(at_ns) for meter in meters)

    def _at_ns(self) -> int:
        return int(self._now() * _NS)


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Which rate refused, and after how many seconds it would not."""

    scope: Scope
    retry_after_s: float


class Grant:
    """One admitted compilation. It ends once: finished, or refunded."""

    __slots__ = ("_buckets", "_lock")

    def __init__(self, lock: threading.RLock, buckets: Iterable[Bucket]) -> None:
        self._lock = lock
        self._buckets = tuple(buckets)

    def finish(self, seconds: float) -> None:
        """Charges the seconds it took, also where it failed. Later calls do nothing.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
        """
        with self._lock:
            for bucket in self._buckets:
                bucket.charge_seconds(seconds)
            self._close()

    def refund(self) -> None:
        """Gives everything back: nothing was compiled. Later calls do nothing."""
        with self._lock:
            for bucket in self._buckets:
                bucket.refund()
            self._close()

    def _close(self) -> None:
        for bucket in self._buckets:
            bucket.open_grants -= 1
        self._buckets = ()


class RateBook:
    """The rates of all tenants and of the process, in bounded memory.

    A tenant is remembered from its first grant. When ``max_tenants`` are, only one
    whose bucket is full again, with nothing under way, is forgotten: that loses
    nothing, so no flood of names resets a bucket. If there is none, the newcomer
    shares one bucket with all other newcomers; whoever is remembered is untouched.
    """

    def __init__(
        self,
        process_rate: CompileRate | None = None,
        tenant_rate: CompileRate | None = None,
        max_tenants: int = 10_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        # Reentrant: a signal handler may compile, too.
        self._lock = threading.RLock()
        self._process = None if process_rate is None else Bucket(process_rate, now)
        self._tenant_rate = tenant_rate
        self._overflow = None if tenant_rate is None else Bucket(tenant_rate, now)
        self._max_tenants = max_tenants
        self._tenants: dict[str, Bucket] = {}
        # One entry a tenant; its time is no later than when the bucket is full.
        self._full: list[tuple[int, int, str]] = []
        self._order = itertools.count()

    def tenants(self) -> int:
        """How many tenants are remembered."""
        return len(self._tenants)

    def take(self, own: Bucket | None, tenant: str | None) -> Grant | Refusal:
        """Takes one compilation from the function, the tenant and the process.

        Nothing is taken, and nobody is remembered, if one of them refuses.

        Args:
            own: The bucket of the function. From now on only this book may use it.
            tenant: Who asks; nobody in particular if ``None``.

        Returns:
            A grant, to be ended by the caller; or the refusal with the longest wait.
        """
        with self._lock:
            theirs = None if tenant is None else self._find(tenant)
            named: tuple[tuple[Scope, Bucket | None], ...] = (
                ("function", own),
                ("tenant", theirs),
                ("process", self._process),
            )
            asked = [(scope, b) for scope, b in named if b is not None]
            waits = [(bucket.wait_s(), scope) for scope, bucket in asked]
            refusals = [Refusal(scope, w) for w, scope in waits if w is not None]
            if refusals:
                return max(refusals, key=lambda refusal: refusal.retry_after_s)
            for _, bucket in asked:
                bucket.take()
                bucket.open_grants += 1
            if tenant is not None and theirs is not None:
                self._remember(tenant, theirs)
            return Grant(self._lock, (bucket for _, bucket in asked))

    def wait_s(self, tenant: str) -> float | None:
        """Takes one from the tenant alone, for good; or how long until it could."""
        with self._lock:
            theirs = self._find(tenant)
            if theirs is None:
                return None
            wait_s = theirs.take()
            if wait_s is None:
                self._remember(tenant, theirs)
            return wait_s

    def due_s(self, tenant: str) -> float | None:
        """What :meth:`wait_s` would answer; takes nothing, and remembers nobody."""
        if tenant not in self._tenants and len(self._tenants) < self._max_tenants:
            return None  # as for nearly all: a bucket that nothing was taken from
        with self._lock:
            theirs = self._find(tenant)
            return None if theirs is None else theirs.wait_s()

    def _find(self, tenant: str) -> Bucket | None:
        if self._tenant_rate is None:
            return None
        known = self._tenants.get(tenant)
        if known is not None:
            return known
        if self._has_room():
            return Bucket(self._tenant_rate, self._now)
        return self._overflow

    def _remember(self, tenant: str, bucket: Bucket) -> None:
        if bucket is self._overflow or tenant in self._tenants:
            return
        self._tenants[tenant] = bucket
        entry = (bucket.full_at_ns(), next(self._order), tenant)
        heapq.heappush(self._full, entry)

    def _has_room(self) -> bool:
        """Whether one more can be remembered; forgets whom that costs nothing.

        Entries are corrected when they come up: each grant pays for one correction,
        so a flood of names costs a logarithm each, not a scan.
        """
        at_ns = int(self._now() * _NS)
        while len(self._tenants) >= self._max_tenants:
            due_ns, _, tenant = self._full[0]
            if due_ns > at_ns:
                return False
            bucket = self._tenants[tenant]
            full_ns = bucket.full_at_ns()
            if bucket.open_grants:
                # Its seconds are still to be charged. Look again in a second.
                full_ns = max(full_ns, at_ns + _NS)
            if full_ns > at_ns:
                entry = (full_ns, next(self._order), tenant)
                heapq.heapreplace(self._full, entry)
            else:
                heapq.heappop(self._full)
                del self._tenants[tenant]
        return True
