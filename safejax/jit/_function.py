"""The type of what ``safe_jit`` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from safejax.jit._precompile import Precompiled
from safejax.jit._stats import Stats
from safejax.review._records import ProgramReport

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)


class SafeJitFunction(Protocol[P, R_co]):
    """What :func:`safe_jit` returns: ``jax.jit``'s methods, and :meth:`stats`.

    Example:
        >>> import safejax
        >>> double = safejax.safe_jit(lambda x: 2 * x)
        >>> double.lower(1.0).compile()(1.0)
        Array(2., dtype=float32, weak_type=True)
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Calls the compiled function."""

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> SafeJitFunction[P, R_co]: ...

    @overload
    def __get__(
        self: SafeJitFunction[Concatenate[Any, Q], R_co],
        instance: object,
        owner: type[Any] | None = None,
    ) -> SafeJitFunction[Q, R_co]: ...

    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        """Binds as a method."""

    @property
    def __wrapped__(self) -> Callable[P, R_co]:
        """The function as it was given."""

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).lower``; what is compiled from it counts."""

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).trace``; what is compiled from it counts."""

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).eval_shape``."""

    def precompile(self, *args: Any, **kwargs: Any) -> Precompiled:
        """Makes the program of one signature before its first call."""

    async def compile_async(self, *args: Any, **kwargs: Any) -> Precompiled:
        """As :meth:`precompile`, without blocking the event loop."""

    def review(self, *args: Any, **kwargs: Any) -> ProgramReport:
        """What the program of one signature contains and would cost, not compiled."""

    def freeze(self) -> None:
        """From now on no new program; known signatures are served."""

    def clear_cache(self) -> None:
        """Frees the programs of this function."""

    def stats(self) -> Stats:
        """Counts, sizes and times of this function's programs."""


# The name users know it by, in messages and pickles.
SafeJitFunction.__module__ = "safejax"
