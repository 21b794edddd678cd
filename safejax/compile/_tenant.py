"""On whose behalf the current code runs."""

from __future__ import annotations

import contextvars
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple

from typing_extensions import override

_MAX_CHARS = 256


class _Frame(NamedTuple):
    """One block that has been entered, and the one around it."""

    name: str
    block: object
    outer: _Frame | None


_current: contextvars.ContextVar[_Frame | None] = contextvars.ContextVar(
    "safejax.tenant", default=None
)


class _Block(AbstractContextManager[None]):
    """Holds no state: one object may be entered by many tasks, and again inside."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    @override
    def __enter__(self) -> None:
        _current.set(_Frame(self._name, self, _current.get()))

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        frame = _current.get()
        if frame is None or frame.block is not self:
            # A generator that was begun here and ended there: what ran between may
            # have been charged to somebody else, so this is not passed over.
            raise RuntimeError(
                "a tenant() block was left in another context, or in another order, "
                "than it was entered in"
            )
        _current.set(frame.outer)


def tenant(name: str) -> AbstractContextManager[None]:
    """Charges what is compiled inside the ``with`` block to ``name``.

    The rate ``ProcessLimits.tenant_rate`` and the cap ``max_compiles_per_tenant``
    hold for each tenant by itself. Outside any block there is no tenant: the limits
    of the function and of the process hold alone. Blocks nest; the inner one counts.

    The name is a context variable: it follows ``asyncio`` tasks and
    ``asyncio.to_thread``. A plain new thread starts without one; hand it over with
    ``contextvars.copy_context().run``.

    Args:
        name: Who asks, as in ``"user-42"``; 1 to 256 characters. It shows up in errors,
            logs and events, so it must not be a secret.

    Returns:
        A context manager. It is not a decorator.

    Raises:
        TypeError: The name is not a string.
        ValueError: The name is empty or too long.

    Example:
        >>> import jax.numpy as jnp, safejax
        >>> double = safejax.safe_jit(lambda x: 2 * x)
        >>> with safejax.tenant("user-42"):
        ...     float(double(jnp.float32(4)))
        8.0
    """
    if not isinstance(name, str):
        raise TypeError(f"tenant() takes a string, got {type(name).__name__}")
    if not 1 <= len(name) <= _MAX_CHARS:
        raise ValueError(
            f"tenant() takes 1 to {_MAX_CHARS} characters, got {len(name)}"
        )
    return _Block(name)


def current_tenant() -> str | None:
    """The name of the innermost :func:`tenant` block, or ``None``.

    Example:
        >>> import safejax
        >>> with safejax.tenant("user-42"):
        ...     safejax.current_tenant()
        'user-42'
    """
    frame = _current.get()
    return None if frame is None else frame.name


# The name users know them by, in messages and pickles.
tenant.__module__ = "safejax"
current_tenant.__module__ = "safejax"
