"""How many workers there should be: when to start one, when one is too many.

Neither thread-safe nor blocking, as the crew it decides for.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence

from safejax.compile._child import Child, State
from safejax.compile._job import WorkerConfig

# A spare's start takes a processor from the compilation that just began, often the one
# after a kill: it waits for so long a quiet, but not for ever.
_QUIET_S = 0.3
_AT_LATEST_S = 2.0
# How long more idle workers are kept than there are spares.
_SURPLUS_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a pool was set up; see :class:`safejax.compile._pool.Pool`."""

    size: int
    spares: int
    recycle_after: int
    recycle_rss_bytes: int
    require_confinement: bool
    max_response_bytes: int
    stall_s: float
    start_timeout_s: float
    jaxlib_version: str | None


class Staff:
    """Counts workers and decides on their number.

    Args:
        settings: How the pool was set up.
        children: The crew's workers; its list, not a copy.
    """

    def __init__(self, settings: Settings, children: Sequence[Child]) -> None:
        self._settings = settings
        self._children = children
        self._due: float | None = None  # when a spare that is lacking may start
        self._overdue = 0.0

    def alive(self, config: WorkerConfig) -> bool:
        """Whether any worker for ``config`` serves, or may come to."""
        return any(
            child.config == config and child.state is not State.KILLED
            for child in self._children
        )

    def to_start(
        self,
        missing: Mapping[WorkerConfig, int],
        latest: WorkerConfig | None,
        failing: Collection[WorkerConfig],
    ) -> list[WorkerConfig]:
        """The workers to start now.

        Args:
            missing: How many jobs wait for a worker, by what it is to be like.
            latest: What spares are for.
            failing: Which workers would not start; they get no spares.
        """
        wanted = [
            config
            for config, count in missing.items()
            for _ in range(count - self._count(State.STARTING, config))
        ]
        if latest is None or latest in failing:
            self._due = None
            return wanted
        return wanted + [latest] * self._spares(latest, missing.get(latest, 0))

    def _spares(self, config: WorkerConfig, short: int) -> int:
        """How many spares are missing, once it is time to start them."""
        ready = self._count(State.IDLE, config)
        coming = max(0, self._count(State.STARTING, config) - short)
        lacking = self._settings.spares - ready - coming
        if lacking <= 0:
            self._due = None
            return 0
        now = time.monotonic()
        if self._due is None:
            self._overdue = now + _AT_LATEST_S
            at_once = not short and not self.alive(config)
            self._due = now if at_once else now + _QUIET_S
        if now < min(self._due, self._overdue):
            return 0
        self._due = None
        return lacking

    def _count(self, state: State, config: WorkerConfig) -> int:
        return sum(c.state is state and c.config == config for c in self._children)

    def disturb(self) -> None:
        """Notes that a compilation begins, which a starting spare would slow down."""
        if self._due is not None:
            self._due = time.monotonic() + _QUIET_S

    def superfluous(self, latest: WorkerConfig | None) -> list[Child]:
        """The idle workers to end: of no use any more, or idle for long."""
        now = time.monotonic()
        living = sum(child.state is not State.KILLED for child in self._children)
        # Room for two configurations in turn.
        crowd = living - 2 * (self._settings.size + self._settings.spares)
        return [
            child
            for place, child in enumerate(self._surplus(latest))
            if place < crowd or now - child.since > _SURPLUS_S
        ]

    def _surplus(self, latest: WorkerConfig | None) -> list[Child]:
        idle = [child for child in self._children if child.state is State.IDLE]
        others = [child for child in idle if child.config != latest]
        useful = [child for child in idle if child.config == latest]
        return others + useful[self._settings.spares :]

    def waits(self, latest: WorkerConfig | None) -> list[float]:
        """In how many seconds there may be something to decide."""
        now = time.monotonic()
        waits = [_SURPLUS_S + c.since - now for c in self._surplus(latest)]
        if self._due is not None:
            waits.append(min(self._due, self._overdue) - now)
        return waits
