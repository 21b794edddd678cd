"""How many requests are under way at once, shared fairly among tenants."""

from __future__ import annotations


class Places:
    """Places for requests: a tenant may hold as many as are left free, at most.

    One tenant alone gets half of them, two a third each, and so on: the more of them
    press, the less each gets, and a newcomer finds a place without anybody being
    sent away. It remembers only who holds one. Used by one event loop.
    """

    __slots__ = ("_held", "_per_tenant", "_taken", "_total")

    def __init__(self, total: int, per_tenant: int) -> None:
        self._total = total
        self._per_tenant = per_tenant
        self._taken = 0
        self._held: dict[str, int] = {}

    def take(self, tenant: str) -> bool:
        """Takes a place, unless the tenant holds its share or there is none."""
        held = self._held.get(tenant, 0)
        if held >= min(self._per_tenant, self._total - self._taken):
            return False
        self._held[tenant] = held + 1
        self._taken += 1
        return True

    def give_back(self, tenant: str) -> None:
        """Ends what one :meth:`take` began."""
        held = self._held[tenant]
        if held == 1:
            del self._held[tenant]
        else:
            self._held[tenant] = held - 1
        self._taken -= 1

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._taken
