"""What happens when JAX's dispatch cache does not know a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from safejax import _jax
from safejax.compile._admission import Admission
from safejax.compile._deadline import Batch, batch
from safejax.compile._ledger import Ledger
from safejax.jit._background import Background
from safejax.jit._settings import Settings
from safejax.review._conditions import Conditions

_MOST_NAMES = 8


class CacheMiss:
    """Admits a new signature, then hands the call to JAX's own handler.

    C++ calls this for signatures it has not seen, and under transformations. Nothing
    of it runs for a known signature.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        jitted: Any,
        ledger: Ledger,
        settings: Settings,
        conditions: Conditions,
        cache: Any,
        restore: Callable[[], Any],
    ) -> None:
        self._cache = cache
        self._conditions = conditions
        self._lets_others_in = settings.is_compiled_apart
        self._jitted = jitted
        self._handler: Callable[..., Any] = _jax.cache_miss(jitted)
        self._ledger = ledger
        self._isolation = settings.isolation
        self._restore = restore
        self._statics = _jax.static_arguments(jitted)
        self._most_entries = max(64, 4 * ledger.limits.max_compiles)
        self._fun = fun
        first = _jax.module_name(_jax.function_name(jitted))
        self._modules: tuple[str, ...] = (first,)
        self._background: Background | None = None
        if settings.on_new_signature == "background":
            self._background = Background(
                fun, settings.fallback, ledger, self._statics, self.compile_ahead
            )

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return (self._restore, ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if not _jax.at_top_level():
                return self._transformed(args, kwargs)
            key = _jax.signature(args, kwargs, *self._statics)
            if key is None or self._ledger.is_known(key) or _jax.tracing_forbidden():
                return self._known(key, args, kwargs)
            return self._new(key, args, kwargs)
        except BaseException as error:
            self._forget_refused()
            _jax.without_own_frames(error)
            raise

    def _forget_refused(self) -> None:
        # T3: C++ keeps an entry for every call that came here, with its static values,
        # also for those that were refused. Known signatures come back at their next
        # call, without a compilation.
        if self._cache.size() > self._most_entries:
            self._cache.clear()

    def _transformed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # An outer jit compiles the whole and answers for it; vmap or grad outside of
        # any jit compile here, under our name.
        admission = self.admission(None)
        if self._conditions.is_guarded:
            self._trace(args, kwargs, admission)
        else:
            self._learn_name(getattr(self._fun, "__name__", ""))
        # T19: the batching and derivative rules that the function brought run here.
        with self._conditions.tracing(), _jax.compiling_for(admission, self._modules):
            return self._handler(*args, **kwargs)

    def _known(
        self, key: _jax.Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        # No new trace, but a committed input or a sharding can still need a program.
        admission = self.admission(key)
        if self._conditions.is_guarded:
            return self._guarded(args, kwargs, admission)
        with _jax.compiling_for(admission, self._modules):
            return self._handler(*args, **kwargs)

    def _guarded(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], admission: Admission
    ) -> Any:
        # T13: JAX may have dropped the trace. The handler must not make another one
        # where nobody watches.
        self._trace(args, kwargs, admission)
        with (
            self._conditions.found_again(),
            _jax.compiling_for(admission, self._modules),
        ):
            return self._handler(*args, **kwargs)

    def admission(self, key: _jax.Signature | None) -> Admission:
        """What answers for the compilations of one call."""
        return Admission(self._ledger, key, self._isolation, self._conditions)

    def _new(
        self, key: _jax.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        admission = self.admission(key)
        if self._background is not None:
            answer = self._background.answer(admission, key, args, kwargs)
            # As the handler answers: results, and nothing for C++ to keep.
            return answer, None, False
        if self._ledger.is_in_flight(key):
            self._let_others_in()
        if not admission.enter():
            return self._known(key, args, kwargs)
        self._let_others_in()
        done = False
        try:
            self._trace(args, kwargs, admission)
            with (
                self._conditions.found_again(),
                _jax.compiling_for(admission, self._modules),
            ):
                result = self._handler(*args, **kwargs)
            done = True
        finally:
            admission.leave(known=done)
        return result

    def _let_others_in(self) -> None:
        # C++ has an entry for this call by now. Further calls with its signature would
        # wait there until we return, deaf to their own deadline and to Ctrl-C; without
        # the entry they come here, and wait in the ledger. What else is dropped is
        # found again by JAX, without a compilation.
        if self._lets_others_in:
            self._cache.clear()

    def compile_ahead(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], admission: Admission
    ) -> None:
        """Makes the program of an admitted signature without running it."""
        together = batch.get() or Batch()
        start = time.perf_counter()
        with together.tracing():
            admission.excuse(time.perf_counter() - start)
            traced = self._trace(args, kwargs, admission)
            with _jax.compiling_for(admission, self._modules):
                lowered = traced.lower()
        start = time.perf_counter()
        with together.compiling(), _jax.compiling_for(admission, self._modules):
            admission.excuse(time.perf_counter() - start)
            lowered.compile()

    def _trace(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], admission: Admission
    ) -> Any:
        # Traced apart, so that what the user's function compiles while it is traced
        # is not charged to it. JAX keeps the trace for the handler.
        start = time.perf_counter()
        with admission.judging():
            traced = self._conditions.trace(
                lambda: _jax.trace(self._jitted, args, kwargs)
            )
        admission.traced(time.perf_counter() - start)
        self._learn_name(traced.fun_name)
        return traced

    def _learn_name(self, name: str) -> None:
        # A function that was renamed after it was jitted is traced under its new name.
        module = _jax.module_name(name)
        if module not in self._modules:
            self._modules = (*self._modules[-_MOST_NAMES:], module)
