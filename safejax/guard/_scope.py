"""The scope in which a policy is in force: a context manager and a decorator."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Literal, TypeVar

from safejax import _jax
from safejax.errors import GuardError
from safejax.guard import _decide, _state, _watch
from safejax.guard._policy import CATEGORIES, DECISIONS, Decision, Policy

_F = TypeVar("_F", bound=Callable[..., Any])

active = _state.active
observers = _decide.observers


class Guard:
    """A policy that can be put in force, as often as wanted, anywhere."""

    def __init__(self, policy: Policy, *, is_trace: bool = False) -> None:
        self._policy = policy
        self._is_trace = is_trace
        self._entered: list[_state.Opened] = []

    def __enter__(self) -> None:
        self._entered.append(_opened(self._policy))
        if self._is_trace:
            _decide.begin_trace()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _state.leave(_own(self._entered), with_inner=self._is_trace)
        refused = _decide.end_trace() if self._is_trace else None
        _finish(error)
        if error is None and refused is not None:
            raise refused

    def __call__(self, fun: _F) -> _F:
        """The function, whose calls run in a scope of their own."""
        if not callable(fun):
            raise TypeError(f"guard() decorates functions, got {type(fun).__name__}")
        wrapper: Any = _wrapped(self._policy, fun)
        return functools.wraps(fun)(wrapper)  # type: ignore[return-value]


def _own(entered: list[_state.Opened]) -> _state.Opened:
    # One object may be entered in several threads and tasks at once.
    for i in reversed(range(len(entered))):
        if _state.is_here(entered[i]):
            return entered.pop(i)
    return entered.pop()


def _opened(policy: Policy) -> _state.Opened:
    _jax.install_scope_key()
    _watch.install()
    return _state.enter(policy)


def _finish(error: BaseException | None) -> None:
    if isinstance(error, GuardError):
        _jax.without_inner_frames(error)
    if not _watch.is_intact():
        _watch.restore()
        if error is None:
            raise _decide.switched_off()


def tracing(policy: Policy) -> Guard:
    """Puts a policy in force while one function is traced.

    A refusal ends the trace, also where it was caught in it, or raised in a finaliser,
    whose errors Python drops.
    """
    return Guard(policy, is_trace=True)


@contextlib.contextmanager
def keyed(policy: Policy) -> Iterator[None]:
    """JAX finds here what was traced under the policy, which is not in force."""
    _jax.install_scope_key()
    _state.sync_key(policy)
    try:
        yield
    finally:
        _state.sync_key()


def guard(
    policy: Policy | Literal["disallow", "log", "allow"] | None = None,
) -> Guard:
    """Watches which APIs run: in a ``with`` block, or in a function it decorates.

    In its scope a call that the policy disallows raises :class:`safejax.GuardError`
    where it is made, by whatever name the API is called. What JAX calls for itself is
    no violation. Scopes nest, and an API runs only if all of them admit it. Tasks and
    copied contexts are in the scope they were made in.

    A guard finds mistakes and stops what your own code must not do for others. It is
    no sandbox for hostile Python: what it does not defend is in the documentation.
    The first scope of a process makes JAX trace anew what it knows; open one early.

    Args:
        policy: The policy, or a word for all categories: ``"disallow"``, ``"log"``,
            ``"allow"``. ``None`` is ``Policy.strict()``.

    Returns:
        A context manager, which also decorates functions, coroutine functions and
        generator functions.

    Raises:
        TypeError: It is no policy and no word.
        ValueError: The word is unknown.

    Example:
        >>> import jax, jax.numpy as jnp, safejax
        >>> with safejax.guard():
        ...     gradient = jax.grad(jnp.sin)(0.0)
        ...     jax.eval_shape(jnp.sin, 0.0)
        Traceback (most recent call last):
            ...
        safejax.errors.GuardError: ...
    """
    _jax.check()
    _jax.install_scope_key()
    return Guard(_policy_of(policy))


# The name users know it by.
guard.__module__ = "safejax"


def _policy_of(policy: Policy | Decision | None) -> Policy:
    if policy is None:
        return Policy.strict()
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
        raise TypeError(
            f"guard() takes a Policy or one of {DECISIONS}, got "
            f"{type(policy).__name__}; as a decorator it is written @safejax.guard()"
        )
    if policy not in DECISIONS:
        raise ValueError(f"guard() takes one of {DECISIONS}, got {policy!r}")
    words: dict[str, Any] = dict.fromkeys(CATEGORIES, policy)
    return Policy(**words)


# --- functions --------------------------------------------------------------------


def _wrapped(policy: Policy, fun: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(fun):
        return _async_generator(policy, fun)
    if inspect.iscoroutinefunction(fun):

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return await _Steps(policy, fun(*args, **kwargs))

        return coroutine
    if inspect.isgeneratorfunction(fun):

        def generator(*args: Any, **kwargs: Any) -> Any:
            return (yield from _steps(policy, fun(*args, **kwargs)))

        return generator

    def function(*args: Any, **kwargs: Any) -> Any:
        with Guard(policy):
            return fun(*args, **kwargs)

    return function


def _async_generator(
    policy: Policy, fun: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., Any]:
    async def generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        inner = fun(*args, **kwargs)
        step: Any = inner.asend(None)
        while True:
            try:
                value = await _Steps(policy, step)
            except StopAsyncIteration:
                return
            try:
                step = inner.asend((yield value))
            except GeneratorExit:
                await _Steps(policy, inner.aclose())
                raise
            except BaseException as error:  # noqa: BLE001  it goes where it belongs
                step = inner.athrow(error)

    return generator


class _Steps:
    """Awaits something, the scope open only while it runs and not while it waits."""

    def __init__(self, policy: Policy, awaitable: Any) -> None:
        self._policy = policy
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        return _steps(self._policy, self._awaitable.__await__())


def _steps(policy: Policy, inner: Any) -> Generator[Any, Any, Any]:
    advance, value = inner.send, None
    while True:
        try:
            with Guard(policy):
                yielded = advance(value)
        except StopIteration as stop:
            return stop.value
        try:
            value = yield yielded
            advance = inner.send
        except GeneratorExit:
            with Guard(policy):
                inner.close()
            raise
        except BaseException as error:  # noqa: BLE001  it goes where it belongs
            advance, value = inner.throw, error
