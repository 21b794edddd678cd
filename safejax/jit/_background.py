"""``on_new_signature="background"``: the call is answered while its program is made."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from safejax import _jax
from safejax.compile._admission import Admission
from safejax.compile._events import emit
from safejax.compile._ledger import Ledger
from safejax.compile._tenant import current_tenant
from safejax.errors import CompilePendingError, SafeJaxError
from safejax.jit._settings import Fallback

_log = logging.getLogger("safejax.compile")


def specs_of(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    statics: tuple[tuple[int, ...], tuple[str, ...]],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by what decides about their program: no buffer of them is kept.

    Static ones stay as they are: a pytree that is rebuilt may not be equal.
    """
    numbers, names = statics
    fixed = {n % len(args) for n in numbers if -len(args) <= n < len(args)}
    return (
        tuple(a if i in fixed else _specs(a) for i, a in enumerate(args)),
        {n: a if n in names else _specs(a) for n, a in kwargs.items()},
    )


def _specs(tree: Any) -> Any:
    return jax.tree.map(_spec_of, tree)


def _spec_of(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    sharding = leaf.sharding if getattr(leaf, "committed", False) else None
    return jax.ShapeDtypeStruct(  # type: ignore[no-untyped-call]
        leaf.shape, leaf.dtype, sharding=sharding, weak_type=leaf.weak_type
    )


class Background:
    """Compiles new signatures in threads and answers their calls meanwhile."""

    def __init__(
        self,
        fun: Callable[..., Any],
        fallback: Fallback,
        ledger: Ledger,
        statics: tuple[tuple[int, ...], tuple[str, ...]],
        compile_ahead: Callable[[tuple[Any, ...], dict[str, Any], Admission], None],
    ) -> None:
        self._fun = fun
        self._fallback = fallback
        self._ledger = ledger
        self._statics = statics
        self._compile_ahead = compile_ahead

    def answer(
        self,
        admission: Admission,
        key: _jax.Signature,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Starts the compilation if nobody has, and answers from the fallback.

        Raises:
            CompilePendingError: The fallback is ``"raise"``.
            CompileLimitError: The program is not admitted.
        """
        if not self._ledger.is_in_flight(key) and admission.enter(wait=False):
            self._start(admission, args, kwargs)
        emit("pending", self._ledger.name, tenant=current_tenant(), code="SJ206")
        if self._fallback == "raise":
            raise CompilePendingError(
                f"{self._ledger.name}() is being compiled for this signature",
                details={"function": self._ledger.name},
                hint="call again later; known signatures are served",
                retry_after_s=self._ledger.expected_s(),
            )
        if self._fallback == "eager":
            return self._fun(*args, **kwargs)
        return self._fallback(*args, **kwargs)

    def _start(
        self, admission: Admission, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        specs, named = specs_of(args, kwargs, self._statics)
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=lambda: context.run(self._run, admission, specs, named),
            name=f"safejax-background-{self._ledger.name}",
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads
            admission.leave(known=False)
            raise

    def _run(
        self, admission: Admission, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        start = time.perf_counter()
        try:
            self._compile_ahead(args, kwargs, admission)
        except SafeJaxError as error:
            _log.info("%s() in the background: %s", self._ledger.name, error)
        except Exception as error:  # noqa: BLE001  the next call meets it in person
            _log.warning(
                "%s() failed in the background after %.1f s: %s",
                self._ledger.name,
                time.perf_counter() - start,
                type(error).__name__,
            )
            self._ledger.failed(admission.key, killed=False)
        finally:
            admission.leave(known=False)
