"""``safe_jit`` without a contract: JAX's own jitted object with a ledger behind it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
import weakref
from collections.abc import Callable
from typing import Any

from safejax import _jax
from safejax.compile._deadline import Batch, batch
from safejax.compile._events import emit
from safejax.compile._flights import Flights
from safejax.compile._ledger import Ledger
from safejax.compile._process import process
from safejax.guard._policy import Policy
from safejax.jit._miss import CacheMiss
from safejax.jit._precompile import Precompiled
from safejax.jit._settings import Settings
from safejax.jit._stats import Stats, stats_of
from safejax.limits import Limits
from safejax.review._conditions import Conditions, not_compiled
from safejax.review._records import ProgramReport
from safejax.review._report import report_of


class _Ledgers(dict[Limits, Ledger]):
    """The ledgers of one function, by their limits."""

    def __init__(self) -> None:
        super().__init__()
        self.flights = Flights()


_ledgers: weakref.WeakKeyDictionary[Any, _Ledgers] = weakref.WeakKeyDictionary()
_copies: weakref.WeakKeyDictionary[
    Any, weakref.WeakValueDictionary[Any, Callable[..., Any]]
] = weakref.WeakKeyDictionary()


class Controls:
    """The methods ``safe_jit`` adds to or puts in the place of those of ``jax.jit``.

    They hold JAX's object, not the one users hold, so that no reference cycle delays
    the release of programs.
    """

    def __init__(
        self,
        jitted: Any,
        cache: Any,
        ledger: Ledger,
        miss: CacheMiss,
        conditions: Conditions,
    ) -> None:
        self._conditions = conditions
        self._jitted = jitted
        self._cache = cache
        self._ledger = ledger
        self._miss = miss
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

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).eval_shape``, traced under the policy and the budgets."""
        try:
            with self._conditions.tracing():
                return _jax.eval_shape(self._jitted, args, kwargs)
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
        """As :meth:`precompile`, without blocking the event loop; can be cancelled."""
        together = Batch()
        context = contextvars.copy_context()
        context.run(batch.set, together)
        work = functools.partial(context.run, self.precompile, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except asyncio.CancelledError:
            # The thread would wait on, and the worker compile for nobody.
            together.stop()
            raise

    def review(self, *args: Any, **kwargs: Any) -> ProgramReport:
        """What the program of one signature contains and would cost, not compiled."""
        try:
            with self._conditions.tracing():
                traced = _jax.trace(self._jitted, args, kwargs)
                _jax.program_of(traced)  # expanded by code the user may have brought
            return report_of(
                traced,
                function=self._ledger.name,
                policies=self._conditions.policies() or (Policy.strict(),),
            )
        except BaseException as error:
            _jax.without_own_frames(error)
            raise

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
        # With the key, so that a call with these shapes is known once compiled.
        key = _jax.signature(args, kwargs, *self._statics)
        admission = self._miss.admission(key)
        with admission.judging():
            traced = self._conditions.trace(
                lambda: _jax.trace(self._jitted, args, kwargs)
            )
        return _jax.owned_traced(traced, admission)

    def _precompiled(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Precompiled:
        start = time.perf_counter()
        key = _jax.signature(args, kwargs, *self._statics)
        if key is None:
            _jax.trace(self._jitted, args, kwargs)  # raises JAX's own error
        admission = self._miss.admission(key)
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
    "eval_shape",
    "freeze",
    "lower",
    "precompile",
    "review",
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
    # Before there are programs: a first scope that came later would make JAX, and the
    # ledgers, take every known program for a new one. Frozen functions would go dark.
    _jax.install_scope_key()
    given = fun
    if settings.has_programs_of_its_own:
        fun = _own_copy(fun, settings)
    jitted = _jax.jitted(fun, options)
    if ledger is None:
        ledger = ledger_for(fun, settings.limits, jitted)
    cache = _jax.dispatch_cache(fun)
    restore = functools.partial(_restored_miss, fun, settings, options)
    conditions = Conditions(ledger.name, settings.limits, settings.policy)
    miss = CacheMiss(fun, jitted, ledger, settings, conditions, cache, restore)
    rebuilt = _jax.with_cache_miss(jitted, miss, cache)
    rebuilt.__wrapped__ = given
    controls = Controls(jitted, cache, ledger, miss, conditions)
    _jax.add_methods(rebuilt, {name: getattr(controls, name) for name in METHODS})
    return rebuilt, ledger


def _own_copy(fun: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    """The same function as another object, one for all wrappers with these settings."""
    kind = (settings.limits, settings.policy)
    try:
        copies = _copies.setdefault(fun, weakref.WeakValueDictionary())
        copy = copies.get(kind)
        if copy is None:
            copy = copies[kind] = _copied(fun, settings)
    except TypeError:  # not hashable, or no weak references to it
        copy = _copied(fun, settings)
    return copy


def _copied(fun: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    if settings.policy is None:
        return clone(fun)

    # Runs when JAX traces; and, under jax.disable_jit(), at every call.
    def reviewed(*args: Any, **kwargs: Any) -> Any:
        if _jax.jit_disabled():
            raise not_compiled(name_of(fun))
        return fun(*args, **kwargs)

    return functools.update_wrapper(reviewed, fun)


def clone(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as a new object, for JAX's caches to hang on."""

    def cloned(*args: Any, **kwargs: Any) -> Any:
        return fun(*args, **kwargs)

    return functools.update_wrapper(cloned, fun)


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
        by_limits = _ledgers.setdefault(fun, _Ledgers())
    except TypeError:  # not hashable, or no weak references to it
        by_limits = _Ledgers()
    if limits not in by_limits:
        by_limits[limits] = Ledger(
            name_of(fun),
            limits,
            parameters=parameter_names(fun),
            static_argnums=_jax.static_arguments(jitted)[0],
            flights=by_limits.flights,
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
