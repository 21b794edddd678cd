"""What happens to compilations, as records: for callbacks and for the log."""

from __future__ import annotations

import contextvars
import dataclasses
import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from typing_extensions import override

from safejax.compile._tenant import current_tenant
from safejax.errors import GuardError
from safejax.guard import _decide

_log = logging.getLogger("safejax.compile")

Kind = Literal[
    "admitted",
    "refused",
    "pending",
    "compiled",
    "failed",
    "killed",
    "evicted",
    "frozen",
    "guard",
    "cached",
    "rejected",
]
# What an attacker can cause at no cost must not fill a log. The guard has its own.
_QUIET = frozenset({"admitted", "refused", "pending", "guard", "cached", "rejected"})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened to a compilation. Never contains values of arguments.

    Attributes:
        kind: ``"admitted"``, ``"refused"``, ``"pending"`` (answered before its program
            was ready), ``"compiled"``, ``"failed"``, ``"killed"``, ``"evicted"``,
            ``"frozen"``, ``"guard"`` (a decision of the guard; ``details`` has
            ``api``, ``category``, ``decision``, ``file``, ``line`` and ``policy``),
            ``"cached"`` (its program came from the compile cache; ``details`` has
            ``bytes`` and ``saved_s``) or ``"rejected"`` (an entry of the cache was
            not used; ``details`` has the ``reason``).
            More may come.
        function: The name of the function; empty if it is about the process.
        tenant: Who asked (:func:`safejax.tenant`), or ``None``.
        code: The code of the error that was raised, such as ``"SJ203"``, or ``None``.
        phase: ``"trace"``, ``"lower"``, ``"queue"``, ``"compile"``, ``"load"``, or
            ``None``.
        seconds: How long it took, or ``None``.
        time_s: When it happened, on the clock of ``time.monotonic()``, in seconds.
        details: More, as plain data; read-only. ``phases`` has the seconds of each
            phase of a compilation that has ended, well or not.

    Example:
        >>> import safejax
        >>> event = safejax.Event(kind="killed", function="f", phase="compile")
        >>> event.as_dict()["phase"]
        'compile'
    """

    kind: Kind
    function: str
    tenant: str | None = None
    code: str | None = None
    phase: str | None = None
    seconds: float | None = None
    time_s: float = dataclasses.field(default_factory=time.monotonic)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        # A callback can't change what the next one sees.
        object.__setattr__(self, "details", MappingProxyType(dict(self.details)))

    def as_dict(self) -> dict[str, Any]:
        """The event as plain data, for JSON."""
        names = (field.name for field in dataclasses.fields(self))
        fields = {name: getattr(self, name) for name in names}
        return {**fields, "details": dict(self.details)}

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.as_dict(),))


def _rebuild(fields: dict[str, Any]) -> Event:
    return Event(**fields)


class _Listener:
    """One subscription, and whether its callback has been reported."""

    __slots__ = ("callback", "reported")

    def __init__(self, callback: Callable[[Event], object]) -> None:
        self.callback = callback
        self.reported = False


class _Running(threading.local):
    """The listeners that are being called in this thread."""

    def __init__(self) -> None:
        self.listeners: list[_Listener] = []


_lock = threading.RLock()
_running = _Running()
_listeners: tuple[_Listener, ...] = ()


def on_event(callback: Callable[[Event], object]) -> Callable[[], None]:
    """Calls ``callback`` with an :class:`Event` for all that happens to compilations.

    It is called in the thread in which the event happens, so it should be quick. What
    it raises is logged once, at ``ERROR`` under ``safejax.compile``, and goes no
    further. It is not called for events that it causes itself.

    Args:
        callback: Takes one event; what it returns is not used.

    Returns:
        A function without arguments that ends the subscription; harmless when
        repeated.

    Raises:
        TypeError: ``callback`` can't be called, or is a coroutine function.

    Example:
        >>> import jax.numpy as jnp, safejax
        >>> seen = []
        >>> unsubscribe = safejax.on_event(seen.append)
        >>> unsubscribe()
    """
    global _listeners  # noqa: PLW0603  replaced whole, so that readers need no lock
    if not callable(callback):
        raise TypeError(f"on_event() takes a callable, got {type(callback).__name__}")
    if inspect.iscoroutinefunction(callback):
        raise TypeError("on_event() takes a plain function, got a coroutine function")
    listener = _Listener(callback)
    with _lock:
        _listeners = (*_listeners, listener)

    def unsubscribe() -> None:
        global _listeners  # noqa: PLW0603  as above
        with _lock:
            _listeners = tuple(one for one in _listeners if one is not listener)

    return unsubscribe


def emit(
    kind: Kind,
    function: str,
    *,
    tenant: str | None = None,
    code: str | None = None,
    phase: str | None = None,
    seconds: float | None = None,
    details: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
) -> None:
    """Tells the log and the callbacks. Costs next to nothing where neither listens.

    Call it with no lock held: a callback may run anything. ``details`` may be a
    callable, which is called only if someone listens.
    """
    level = logging.DEBUG if kind in _QUIET else logging.INFO
    logged = _log.isEnabledFor(level)
    listeners = _listeners
    if not logged and not listeners:
        return
    event = Event(
        kind=kind,
        function=function,
        tenant=tenant,
        code=code,
        phase=phase,
        seconds=seconds,
        details=(details() if callable(details) else details) or {},
    )
    if logged:
        _log.log(level, "%s", _text(event))
    for listener in listeners:
        _deliver(listener, event)


def _tell_decision(decided: _decide.Judgement) -> None:
    is_refusal = decided.decision == "disallow"
    code = GuardError.default_code if is_refusal else None
    emit("guard", "", tenant=current_tenant(), code=code, details=decided._asdict())


_decide.observers.append(_tell_decision)


def _text(event: Event) -> str:
    parts: list[str] = [event.kind]
    if event.function:
        parts.append(f"{event.function}()")
    if event.code is not None:
        parts.append(f"[{event.code}]")
    if event.phase is not None:
        parts.append(f"phase={event.phase}")
    if event.seconds is not None:
        parts.append(f"seconds={event.seconds:.3f}")
    if event.tenant is not None:
        # In quotes, with escapes: a tenant must not be able to forge a line.
        parts.append(f"tenant={event.tenant!a}")
    return " ".join(parts)


def _deliver(listener: _Listener, event: Event) -> None:
    running = _running.listeners
    if any(one is listener for one in running):
        return
    running.append(listener)
    try:
        # In a context of its own: what it sets, a tenant least of all, must not
        # outlive it. Under a microsecond.
        contextvars.copy_context().run(listener.callback, event)
    except KeyboardInterrupt:  # the user's, wherever it hits
        raise
    except BaseException as error:  # noqa: BLE001  an observer must not stop a call
        _report(listener, error)
    finally:
        running.pop()


def _report(listener: _Listener, error: BaseException) -> None:
    with _lock:
        first, listener.reported = not listener.reported, True
    if first:
        callback = listener.callback
        name = getattr(callback, "__qualname__", type(callback).__qualname__)
        # Not its text, which may contain anything.
        _log.error(
            "the on_event() callback %s raised %s; this is logged once",
            name,
            type(error).__qualname__,
        )


# The name users know them by, in messages and pickles.
Event.__module__ = "safejax"
on_event.__module__ = "safejax"
