"""What happens when JAX's dispatch cache does not know a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from safejax import _jax
from safejax.compile._ledger import Admission, Ledger


class CacheMiss:
    """Admits a new signature, then hands the call to JAX's own handler.

    C++ calls this for signatures it has not seen, and under transformations. Nothing
    of it runs for a known signature.
    """

    def __init__(self, jitted: Any, ledger: Ledger, restore: Callable[[], Any]) -> None:
        self._jitted = jitted
        self._handler: Callable[..., Any] = _jax.cache_miss(jitted)
        self._ledger = ledger
        self._restore = restore
        self._statics = _jax.static_arguments(jitted)
        self._module = _jax.module_name(jitted)

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
            _jax.without_own_frames(error)
            raise

    def _transformed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # An outer jit compiles the whole and answers for it; vmap or grad outside of
        # any jit compile here, under our name.
        admission = Admission(self._ledger, None)
        with _jax.compiling_for(admission, self._module):
            return self._handler(*args, **kwargs)

    def _known(
        self, key: _jax.Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        # No new trace, but a committed input or a sharding can still need a program.
        with _jax.compiling_for(Admission(self._ledger, key), self._module):
            return self._handler(*args, **kwargs)

    def _new(
        self, key: _jax.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        admission = Admission(self._ledger, key)
        if not admission.enter():
            return self._known(key, args, kwargs)
        done = False
        try:
            start = time.perf_counter()
            # Traced apart, so that what the user's function compiles while it is
            # traced is not charged to it. JAX keeps the trace for the next line.
            _jax.trace(self._jitted, args, kwargs)
            self._ledger.add_trace_time(time.perf_counter() - start)
            with _jax.compiling_for(admission, self._module):
                result = self._handler(*args, **kwargs)
            done = True
        finally:
            admission.leave(known=done)
        return result
