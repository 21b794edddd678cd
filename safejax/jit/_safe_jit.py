"""``safe_jit``: what users put in the place of ``jax.jit``."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, overload

from typing_extensions import override

from safejax import _jax
from safejax.compile._ledger import Ledger
from safejax.compile._service import Isolation
from safejax.contract import _contract
from safejax.contract._contract import Contract
from safejax.guard._policy import Policy
from safejax.jit import _bucketed, _evict, _gate, _serving
from safejax.jit._bucket_ahead import Ahead
from safejax.jit._function import SafeJitFunction
from safejax.jit._padding_options import Padding, read_padding
from safejax.jit._plain import name_of
from safejax.jit._settings import Fallback, OnNewSignature, Settings
from safejax.jit._stats import Stats, stats_of
from safejax.limits import Limits

P = ParamSpec("P")
R = TypeVar("R")


class _NotGiven:
    """The type of the absent function in ``@safe_jit(...)``."""

    @override
    def __repr__(self) -> str:
        return "<not given>"


_NOT_GIVEN = _NotGiven()
# The methods that take the arguments of a call.
_ARGUED = ("compile_async", "eval_shape", "lower", "precompile", "review", "trace")


@overload
def safe_jit(
    fun: Callable[P, R],
    /,
    *,
    contract: Any = ...,
    dims: Mapping[str, tuple[int, int]] | None = ...,
    on_dtype: Literal["error", "cast"] = ...,
    buckets: Mapping[str, Iterable[int]] | None = ...,
    pad_value: complex | Mapping[str, complex] = ...,
    mask: str | None = ...,
    limits: Limits | None = ...,
    untrusted: bool = ...,
    policy: Policy | None = ...,
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
    buckets: Mapping[str, Iterable[int]] | None = ...,
    pad_value: complex | Mapping[str, complex] = ...,
    mask: str | None = ...,
    limits: Limits | None = ...,
    untrusted: bool = ...,
    policy: Policy | None = ...,
    isolation: Isolation | None = ...,
    on_new_signature: OnNewSignature = ...,
    fallback: Fallback = ...,
    **jit_options: Any,
) -> Callable[[Callable[P, R]], SafeJitFunction[P, R]]: ...


def safe_jit(  # noqa: PLR0913  one keyword for each control
    fun: Any = _NOT_GIVEN,
    /,
    *,
    contract: Any = None,
    dims: Mapping[str, tuple[int, int]] | None = None,
    on_dtype: Literal["error", "cast"] = "error",
    buckets: Mapping[str, Iterable[int]] | None = None,
    pad_value: complex | Mapping[str, complex] = 0,
    mask: str | None = None,
    limits: Limits | None = None,
    untrusted: bool = False,
    policy: Policy | None = None,
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
        buckets: Sizes that named dimensions are padded to, such as
            ``{"b": (1, 8, 64)}``, so that there is one program for each combination
            of them and not for each size. The largest one is a bound.
        pad_value: What the padding is filled with; or a dict by parameter name.
        mask: The parameter that is given ``{name: array of bool}``, true where a row
            is real, in place of the caller.
        limits: How many programs the function may own, and what each may cost; see
            :class:`safejax.Limits`.
        untrusted: The function, or what it does with its input, is not trusted: it is
            traced under ``Policy.strict()``, what comes out must consist of what that
            policy admits, and ``limits`` are ``Limits.serving()`` unless given.
        policy: The same under this policy; see :class:`safejax.Policy`.
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
            ``SJ103``, before the first answer: the padding would show in it.
        CompileLimitError: In a call: it needs a new program, and the cap of the
            function (``SJ201``) or of the process (``SJ202``) is reached.
        GuardError: In a call, while it is traced: an API that the policy disallows.
        ProgramRejectedError: In a call: the traced program contains what the policy
            does not admit, or exceeds a budget in ``limits``.
        TypeError: An option is unknown to ``jax.jit``; or the function has no such
            parameter for the mask.
        ValueError: An option can't be used with ``buckets``.

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
    if limits is None:
        limits = Limits.serving() if untrusted else Limits()
    settings = Settings(
        limits=limits,
        policy=Policy.strict() if untrusted and policy is None else policy,
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
        padding=read_padding(buckets, pad_value, mask),
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
    padding: Padding | None,
    settings: Settings,
    options: dict[str, Any],
) -> Any:
    function = name_of(fun)
    if contract is None:
        if dims is not None or padding is not None:
            word = "dims" if padding is None else "buckets"
            raise _contract.malformed(function, f"{word}= without contract=")
        return _without_contract(fun, settings, options)
    statics = _jax.static_arguments(_jax.jitted(fun, options))
    understood = _contract.build(
        fun if padding is None else padding.seen_by_callers(fun),
        contract,
        function=function,
        dims=dims,
        on_dtype=on_dtype,
        static_names=_static_names(fun, function, statics),
        constraints_of=_jax.explicit_constraints,
    )
    if padding is not None:
        return _in_buckets(fun, understood, padding, settings, options)
    traced = _serving.sanitised(fun, understood)
    call, ledger = _serving.jitted(traced, settings, options)
    serve = _serving.with_room(call, ledger, settings.limits, statics)
    gate = _gate.Gate(understood, serve, ledger, statics)
    written = _gate.write(gate, understood, serve)
    return _finished(written, fun, call, ledger, gate)


def _in_buckets(
    fun: Any,
    contract: Contract,
    padding: Padding,
    settings: Settings,
    options: dict[str, Any],
) -> Any:
    made = _bucketed.Bucketed(fun, contract, padding, settings, options)
    gate = _gate.Gate(
        made.contract, made.call_new, made.ledger, made.statics, asks_ledger=False
    )
    written = _gate.write(gate, made.contract, made.call_known)
    ahead = Ahead(made, gate)
    methods = {"precompile": ahead.precompile, "compile_async": ahead.compile_async}
    written = _finished(written, fun, made, made.ledger, gate, methods)
    written.__signature__ = contract.signature
    return written


def _without_contract(fun: Any, settings: Settings, options: dict[str, Any]) -> Any:
    limits = settings.limits
    call, ledger = _serving.jitted(fun, settings, options)
    if limits.on_limit == "raise" and limits.max_process_memory_bytes is None:
        return call
    statics = _jax.static_arguments(getattr(call, "shared", call))
    serve = _serving.with_room(call, ledger, limits, statics)

    # A function and not the object, so that it binds as a method.
    def served(*args: Any, **kwargs: Any) -> Any:
        return serve(*args, **kwargs)

    return _finished(served, fun, call, ledger, None)


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
    written: Any,
    fun: Any,
    call: Any,
    ledger: Ledger,
    gate: _gate.Gate | None,
    own: Mapping[str, Any] = types.MappingProxyType({}),
) -> Any:
    """Gives a written-out function the name, docs and methods of a jitted one."""
    functools.update_wrapper(written, fun)
    evicting = isinstance(call, _evict.Slots)
    names = [name for name in _ARGUED if name not in own]
    bare = {n: call.method(n) if evicting else getattr(call, n) for n in names}
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

    methods |= {"stats": stats, "clear_cache": clear_cache, **own}
    if gate is not None:
        # For what exports it: symbolic sizes can't be held against bounds.
        bare_call = call.shared if evicting else getattr(call, "bare", call)
        methods[_jax.BEHIND_CONTRACT] = (gate.contract, bare_call)
    _jax.add_methods(written, methods)
    return written


# The name users know it by, in messages and pickles.
safe_jit.__module__ = "safejax"
