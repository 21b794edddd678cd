"""``safe_jit`` without a contract: JAX's own jitted object with a ledger behind it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import weakref
from collections.abc import Callable
from typing import Any

from safejax import _jax
from safejax.compile._admission import Admission
from safejax.compile._events import emit
from safejax.compile._ledger import Ledger
from safejax.compile._process import process
from safejax.jit._miss import CacheMiss
from safejax.jit._precompile import Precompiled
from safejax.jit._settings import Settings
from safejax.jit._stats import Stats, stats_of
from safejax.limits import Limits

_ledgers: weakref.WeakKeyDictionary[Any, dict[Limits, Ledger]] = (
    weakref.WeakKeyDictionary()
)


class Controls:
    """The methods ``safe_jit`` adds to or puts in the place of those of ``jax.jit``.

    They hold JAX's object, not the one users hold, so that no reference cycle delays
    the release of programs.
    """

    def __init__(
        self, jitted: Any, cache: Any, ledger: Ledger, miss: CacheMiss, isolation: Any
    ) -> None:
        self._jitted = jitted
        self._cache = cache
        self._ledger = ledger
        self._miss = miss
        self._isolation = isolation
        self._statics = _jax.static_arguments(jitted)

    def stats(self) -> Stats:
        """Counts, sizes and times of this function's programs."""
        return stats_of(self._ledger)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).trace``; what is compiled from it counts here."""
        try:
            return self._traced(args, kwargs)
        except BaseException as error:
            _jax.without_own_frames(error)
            raise

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).lower``; what is compiled from it counts here."""
        try:
            return self._traced(args, kwargs).lower()
        except BaseException as error:
            _jax.without_own_frames(error)
            raise

    def precompile(self, *args: Any, **kwargs: Any) -> Precompiled:
        """Makes the program of one signature before its first call."""
        try:
            return self._precompiled(args, kwargs)
        except BaseException as error:
            _jax.without_own_frames(error)
            raise

    async def compile_async(self, *args: Any, **kwargs: Any) -> Precompiled:
        """As :meth:`precompile`, without blocking the event loop."""
        return await asyncio.to_thread(self.precompile, *args, **kwargs)

    def freeze(self) -> None:
        """From now on no new program; known signatures are served."""
        self._ledger.frozen = True
        emit("frozen", self._ledger.name)

    def clear_cache(self) -> None:
        """Frees the programs and traces of this function."""
        self._ledger.forget()
        self._cache.clear()
        type(self._jitted).clear_cache(self._jitted)

    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        traced = _jax.trace(self._jitted, args, kwargs)
        # With the key, so that a call with these shapes is known once compiled.
        key = _jax.signature(args, kwargs, *self._statics)
        admission = Admission(self._ledger, key, self._isolation)
        return _jax.owned_traced(traced, admission)

    def _precompiled(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Precompiled:
        start = time.perf_counter()
        key = _jax.signature(args, kwargs, *self._statics)
        if key is None:
            _jax.trace(self._jitted, args, kwargs)  # raises JAX's own error
        admission = Admission(self._ledger, key, self._isolation)
        if admission.enter():
            try:
                self._miss.compile_ahead(args, kwargs, admission)
            finally:
                admission.leave(known=False)
        seconds = time.perf_counter() - start
        return Precompiled(function=self._ledger.name, seconds=seconds)


METHODS = (
    "clear_cache",
    "compile_async",
    "freeze",
    "lower",
    "precompile",
    "stats",
    "trace",
)


def plain_jit(
    fun: Callable[..., Any],
    settings: Settings,
    options: dict[str, Any],
    ledger: Ledger | None = None,
) -> tuple[Any, Ledger]:
    """JAX's own jitted object, rebuilt so that new signatures ask the ledger first.

    Args:
        fun: The function.
        settings: Its settings.
        options: The options of ``jax.jit``.
        ledger: Whose account to use; by default that of the function itself.

    Returns:
        The object and the ledger that counts its programs.
    """
    _jax.check()
    _jax.install_compile_hook(process.forget)
    jitted = _jax.jitted(fun, options)
    if ledger is None:
        ledger = ledger_for(fun, settings.limits, jitted)
    cache = _jax.dispatch_cache(fun)
    restore = functools.partial(_restored_miss, fun, settings, options)
    miss = CacheMiss(fun, jitted, ledger, settings, cache, restore)
    rebuilt = _jax.with_cache_miss(jitted, miss, cache)
    controls = Controls(jitted, cache, ledger, miss, settings.isolation)
    _jax.add_methods(rebuilt, {name: getattr(controls, name) for name in METHODS})
    return rebuilt, ledger


def _restored_miss(
    fun: Callable[..., Any], settings: Settings, options: dict[str, Any]
) -> Any:
    # A pickled jitted function starts its own account where it is loaded.
    return _jax.cache_miss(plain_jit(fun, settings, options)[0])


def ledger_for(fun: Callable[..., Any], limits: Limits, jitted: Any) -> Ledger:
    """The ledger of a function: wrapped twice, its programs count once.

    JAX shares traces and programs between the wrappers of one function, and a server
    that wraps anew on each request must not get a new allowance each time (T1).
    """
    try:
        by_limits = _ledgers.setdefault(fun, {})
    except TypeError:  # not hashable, or no weak references to it
        by_limits = {}
    if limits not in by_limits:
        by_limits[limits] = Ledger(
            name_of(fun),
            limits,
            parameters=parameter_names(fun),
            static_argnums=_jax.static_arguments(jitted)[0],
        )
    return by_limits[limits]


def name_of(fun: Callable[..., Any]) -> str:
    """The name of a callable for messages."""
    inner = getattr(fun, "func", fun)
    return str(getattr(inner, "__name__", type(inner).__name__))


def parameter_names(fun: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a callable's positional parameters, where it tells them."""
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):
        return ()
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return tuple(p.name for p in parameters if p.kind in positional)
