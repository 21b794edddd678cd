"""``safe_jit``: what users put in the place of ``jax.jit``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from typing_extensions import override

from safejax import _jax
from safejax.compile._ledger import Ledger
from safejax.compile._service import Isolation
from safejax.contract import _contract, _values
from safejax.contract._contract import Contract
from safejax.jit import _evict, _gate
from safejax.jit._plain import name_of, plain_jit
from safejax.jit._precompile import Precompiled
from safejax.jit._settings import Fallback, OnNewSignature, Settings
from safejax.jit._stats import Stats, stats_of
from safejax.limits import Limits

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


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

    def freeze(self) -> None:
        """From now on no new program; known signatures are served."""

    def clear_cache(self) -> None:
        """Frees the programs of this function."""

    def stats(self) -> Stats:
        """Counts, sizes and times of this function's programs."""


class _NotGiven:
    """The type of the absent function in ``@safe_jit(...)``."""

    @override
    def __repr__(self) -> str:
        return "<not given>"


_NOT_GIVEN = _NotGiven()
# The methods that take the arguments of a call.
_ARGUED = ("compile_async", "eval_shape", "lower", "precompile", "trace")


@overload
def safe_jit(
    fun: Callable[P, R],
    /,
    *,
    contract: Any = ...,
    dims: Mapping[str, tuple[int, int]] | None = ...,
    on_dtype: Literal["error", "cast"] = ...,
    limits: Limits | None = ...,
    isolation: Isolation | None = ...,
    on_new_signature: OnNewSignature = ...,
    fallback: Fallback = ...,
    **jit_options: Any,
) -> SafeJitFunction[P, R]: ...


@overload
def safe_jit(
    *,
    contract: Any = ...,
    dims: Mapping[str, tuple[int, int]] | None = ...,
    on_dtype: Literal["error", "cast"] = ...,
    limits: Limits | None = ...,
    isolation: Isolation | None = ...,
    on_new_signature: OnNewSignature = ...,
    fallback: Fallback = ...,
    **jit_options: Any,
) -> Callable[[Callable[P, R]], SafeJitFunction[P, R]]: ...


def safe_jit(
    fun: Any = _NOT_GIVEN,
    /,
    *,
    contract: Any = None,
    dims: Mapping[str, tuple[int, int]] | None = None,
    on_dtype: Literal["error", "cast"] = "error",
    limits: Limits | None = None,
    isolation: Isolation | None = None,
    on_new_signature: OnNewSignature = "block",
    fallback: Fallback = "raise",
    **jit_options: Any,
) -> Any:
    """``jax.jit`` with a contract on its inputs and a cap on its programs.

    Without an argument of safejax it behaves as ``jax.jit`` with
    ``Limits(max_compiles=32)``: calls with a known signature cost the same, since the
    result is JAX's own jitted object; a new signature asks the ledger first.

    Args:
        fun: The function to compile; left out in the form ``@safe_jit(...)``.
        contract: What the arguments must be: a dict by parameter name, a tuple in
            positional order, or ``"annotations"`` to read ``Annotated`` and jaxtyping
            hints. Each entry is a pytree prefix whose leaves are
            ``jax.ShapeDtypeStruct``, :func:`safejax.spec` or ``None`` (unchecked).
        dims: Inclusive bounds of named dimensions, such as ``{"b": (1, 64)}``.
        on_dtype: ``"cast"`` converts inputs of another dtype where no integer wraps
            around; ``"error"`` refuses them.
        limits: How many programs the function may own; see :class:`safejax.Limits`.
        isolation: Where programs are compiled: ``"process"``, where a deadline can
            kill; ``"thread"``, where only the caller is released; ``"none"``, in the
            calling thread. By default in a process on CPU where ``limits`` has a
            deadline or a memory limit, in a thread on other devices, else in the
            calling thread.
        on_new_signature: ``"background"`` answers a call with a new signature from
            ``fallback`` while its program is made; ``"block"`` waits for it.
        fallback: ``"raise"``: ``CompilePendingError``; ``"eager"``: the function as it
            is, without compilation; or a callable with the same arguments.
        **jit_options: Every option of ``jax.jit``, with its meaning.

    Returns:
        A drop-in for what ``jax.jit`` returns, with a further method ``stats()``.

    Raises:
        ContractError: ``SJ102``, at decoration: the contract is malformed or names a
            parameter that the function does not have. ``SJ101``, in a call: the
            arguments break the contract. Nothing was compiled, no buffer consumed.
        CompileLimitError: In a call: it needs a new program, and the cap of the
            function (``SJ201``) or of the process (``SJ202``) is reached.
        TypeError: An option is unknown to ``jax.jit``.

    Example:
        >>> import jax, jax.numpy as jnp, safejax
        >>> rows = jax.ShapeDtypeStruct(("b", 3), jnp.float32)
        >>> @safejax.safe_jit(contract={"x": rows})
        ... def total(x):
        ...     return x.sum()
        >>> float(total(jnp.ones((2, 3))))
        6.0
        >>> total(jnp.ones((2, 4)))
        Traceback (most recent call last):
            ...
        safejax.errors.ContractError: [SJ101] total() refused: 1 violation
          x  shape  expected (b, 3) with b=2, got (2, 4)
    """
    settings = Settings(
        limits=Limits() if limits is None else limits,
        isolation=isolation,
        on_new_signature=on_new_signature,
        fallback=fallback,
    )
    settings.check_options(jit_options)
    decorate = functools.partial(
        _decorated,
        contract=contract,
        dims=dims,
        on_dtype=on_dtype,
        settings=settings,
        options=jit_options,
    )
    if fun is _NOT_GIVEN:
        return decorate
    try:
        return decorate(fun)
    except BaseException as error:
        _jax.without_own_frames(error)
        raise


def _decorated(
    fun: Any,
    *,
    contract: Any,
    dims: Mapping[str, tuple[int, int]] | None,
    on_dtype: Literal["error", "cast"],
    settings: Settings,
    options: dict[str, Any],
) -> Any:
    function = name_of(fun)
    if contract is None:
        if dims is not None:
            raise _contract.malformed(function, "dims= without contract=")
        if settings.limits.on_limit == "raise":
            return plain_jit(fun, settings, options)[0]
        return _evicting(fun, settings, options)
    statics = _jax.static_arguments(_jax.jitted(fun, options))
    understood = _contract.build(
        fun,
        contract,
        function=function,
        dims=dims,
        on_dtype=on_dtype,
        static_names=_static_names(fun, function, statics),
        constraints_of=_jax.explicit_constraints,
    )
    traced = _sanitised(fun, understood)
    call, ledger = (
        plain_jit(traced, settings, options)
        if settings.limits.on_limit == "raise"
        else _slots(traced, settings, options)
    )
    gate = _gate.Gate(understood, call, ledger, statics)
    written = _gate.write(gate, understood, call)
    return _finished(written, fun, call, ledger, gate)


def _slots(
    fun: Any, settings: Settings, options: dict[str, Any]
) -> tuple[_evict.Slots, Ledger]:
    slots = _evict.Slots(fun, settings, options)
    return slots, slots.ledger


def _evicting(fun: Any, settings: Settings, options: dict[str, Any]) -> Any:
    slots, ledger = _slots(fun, settings, options)

    # A function and not the object, so that it binds as a method.
    def evicting(*args: Any, **kwargs: Any) -> Any:
        return slots(*args, **kwargs)

    return _finished(evicting, fun, slots, ledger, None)


def _sanitised(fun: Any, contract: Contract) -> Any:
    """The function with its ``"clip"`` leaves made to hold, inside the program."""
    clips = contract.clips
    if not clips:
        return fun

    def sanitised(*args: Any, **kwargs: Any) -> Any:
        bound = contract.signature.bind(*args, **kwargs)
        for name, tree in clips.items():
            if name in bound.arguments:
                bound.arguments[name] = _values.clipped(tree, bound.arguments[name])
        return fun(*bound.args, **bound.kwargs)

    return functools.update_wrapper(sanitised, fun)


def _static_names(
    fun: Any, function: str, statics: tuple[tuple[int, ...], tuple[str, ...]]
) -> list[str]:
    parameters = list(inspect.signature(fun).parameters.values())
    numbers, names = statics
    positional = [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if any(not -len(positional) <= n < len(positional) for n in numbers):
        raise _contract.malformed(
            function,
            "static_argnums points into *args, where a contract can't look",
            "give the static arguments names",
        )
    return [*dict.fromkeys([*(positional[n] for n in numbers), *names])]


def _finished(
    written: Any, fun: Any, call: Any, ledger: Ledger, gate: _gate.Gate | None
) -> Any:
    """Gives a written-out function the name, docs and methods of a jitted one."""
    functools.update_wrapper(written, fun)
    evicting = isinstance(call, _evict.Slots)
    bare = {n: call.method(n) if evicting else getattr(call, n) for n in _ARGUED}
    methods = {n: m if gate is None else gate.examined(m) for n, m in bare.items()}
    methods["freeze"] = (call.shared if evicting else call).freeze

    def stats() -> Stats:
        """Counts, sizes and times of this function's programs."""
        return stats_of(ledger, violations=gate.violations if gate else 0)

    def clear_cache() -> None:
        """Frees the programs and traces of this function."""
        if gate is not None:
            gate.admitted.clear()
        call.clear_cache()

    methods |= {"stats": stats, "clear_cache": clear_cache}
    _jax.add_methods(written, methods)
    return written


# The name users know them by, in messages and pickles.
SafeJitFunction.__module__ = "safejax"
safe_jit.__module__ = "safejax"
