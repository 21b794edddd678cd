"""Jitted functions: rebuilt with our cache-miss handler, traced, described."""

from __future__ import annotations

import inspect
import pathlib
import re
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax._src import config, core, pjit, tree_util
from jax._src.lib import _jax, jax_jit  # type: ignore[attr-defined]
from typing_extensions import override

from safejax.errors import SafeJaxError

# Captured: programs exist that put safe_jit in the place of jax.jit.
_jit: Callable[..., Any] = jax.jit

ArrayImpl: Any = _jax.ArrayImpl
Tracer: Any = core.Tracer
# Reads the aval of an array of JAX, and of nothing that only looks like one.
array_aval: Any = getattr(vars(ArrayImpl).get("aval"), "fget", None)

# File name of the functions that safejax generates.
GENERATED = "<safejax"
PACKAGE = str(pathlib.Path(__file__).resolve().parent.parent)
# Entries of one function's private dispatch cache. JAX shares 8192 between all
# functions, so that one of them can evict the others (T2).
_DISPATCH_ENTRIES = 1024

_dispatch_caches: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


class Signature(NamedTuple):
    """What decides whether JAX traces a call again.

    Attributes:
        arguments: Tree structures, keyword names and static values of the call.
        avals: Shape, dtype and weak type of every array leaf, in order.
        context: The configuration and mesh that are part of JAX's own key.
        treedefs: The structure of every argument that is not static, in words of our
            own: what ``arguments`` hands out is emptied when the garbage collector
            takes it, and with it the key (seen in jaxlib 0.10.2).
    """

    arguments: Any
    avals: tuple[Any, ...]
    context: Any
    treedefs: tuple[Any, ...]


def jitted(fun: Callable[..., Any], options: dict[str, Any]) -> Any:
    """``jax.jit(fun, **options)``, its warnings pointing at our caller's caller."""
    if options.keys().isdisjoint(("backend", "device")):
        return _jit(fun, **options)
    deprecations: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as deprecations:
            warnings.simplefilter("always")
            return _jit(fun, **options)
    finally:
        for warning in deprecations:
            warnings.warn(warning.message, warning.category, stacklevel=_outer_level())


def _outer_level() -> int:
    """The stack level of the first frame outside this package, for our caller."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def dispatch_cache(fun: Callable[..., Any]) -> Any:
    """The private dispatch cache of one function, shared by all its wrappers.

    JAX finds the entries of ``jax.jit(f)`` again when the same ``f`` is wrapped anew;
    so do we, but apart from every other function (T2).
    """
    try:
        cache = _dispatch_caches.get(fun)
        if cache is None:
            cache = _jax.PjitFunctionCache(capacity=_DISPATCH_ENTRIES)
            _dispatch_caches[fun] = cache
    except TypeError:  # not hashable, or no weak references to it
        cache = _jax.PjitFunctionCache(capacity=_DISPATCH_ENTRIES)
    return cache


def with_cache_miss(jitted: Any, on_miss: Callable[..., Any], cache: Any) -> Any:
    """The same jitted function with another cache-miss handler and cache.

    Signatures that are in the cache never reach ``on_miss``: they cost what they cost
    in ``jax.jit`` (measured ratio 1.00).
    """
    state = jitted.__getstate__()
    rebuilt = _jax.pjit(
        state["function_name"],
        state["fun"],
        on_miss,
        state["static_argnums"],
        state["static_argnames"],
        state["global_cache_key"],
        state["pytree_registry"],
        state["shard_arg_fallback"],
        cache,
    )
    rebuilt.__dict__.update(jitted.__dict__)
    return rebuilt


class _Attributes(dict[str, Any]):
    """Attributes of a function, of which ``functools.wraps`` copies only the plain.

    The methods of a jitted function belong to its type, where ``wraps`` doesn't look.
    Ours can't, and must not be taken over by ``jax.grad(f)`` or a user's wrapper:
    ``jax.jit(jax.grad(f)).lower`` would lower ``f``.
    """

    def __init__(self, plain: dict[str, Any], methods: dict[str, Any]) -> None:
        super().__init__(plain, **methods)
        self._methods = frozenset(methods)

    @override
    def __iter__(self) -> Iterator[str]:
        return (name for name in super().__iter__() if name not in self._methods)

    @override
    def keys(self) -> Any:
        return list(self)

    @override
    def items(self) -> Any:
        return [(name, self[name]) for name in self]


# Where a function keeps its contract, and what is behind it.
BEHIND_CONTRACT = "_safejax_contract"


def add_methods(function: Any, methods: dict[str, Any]) -> None:
    """Gives one function methods that wrappers of it don't take over."""
    function.__dict__ = _Attributes(dict(function.__dict__), methods)


def cache_miss(jitted: Any) -> Callable[..., Any]:
    """JAX's own cache-miss handler: traces, lowers, compiles and runs."""
    handler: Callable[..., Any] = jitted._cache_miss
    return handler


def static_arguments(jitted: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Positions and names of the static arguments, as JAX resolved them."""
    state = jitted.__getstate__()
    return tuple(state["static_argnums"]), tuple(state["static_argnames"])


def _structures(
    args: Sequence[Any],
    kwargs: dict[str, Any],
    static_argnums: Sequence[int],
    static_argnames: Sequence[str],
) -> tuple[Any, ...]:
    fixed = {n if n >= 0 else n + len(args) for n in static_argnums}
    dynamic = [arg for i, arg in enumerate(args) if i not in fixed]
    dynamic += [kwargs[n] for n in sorted(kwargs) if n not in static_argnames]
    return tuple(map(jax.tree.structure, dynamic))


def function_name(jitted: Any) -> str:
    """The name that the function had when it was jitted."""
    name: str = jitted.__getstate__()["function_name"]
    return name


def module_name(function: str) -> str:
    """How JAX names the modules of a function, without underscores at the ends."""
    return re.sub(r"[^\w.-]", "_", f"jit_{function}").strip("_")


def trace(jitted: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Traces without looking at attributes that the function may have brought."""
    return type(jitted).trace(jitted, *args, **kwargs)


def eval_shape(jitted: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The method of that name, and not an attribute the function may have brought."""
    return type(jitted).eval_shape(jitted, *args, **kwargs)


# Whether no JAX transformation is under way in this thread. Asked in every call with
# buckets: no function of ours around it.
at_top_level: Callable[[], bool] = getattr(
    core.trace_ctx, "is_top_level", core.trace_state_clean
)


def jit_disabled() -> bool:
    """Whether ``jax.disable_jit`` is in force in this thread."""
    return bool(config.disable_jit.value)


def tracing_forbidden() -> bool:
    """Whether ``jax.no_tracing`` is in force in this thread."""
    return bool(config.no_tracing.value)


def x64_enabled() -> bool:
    """Whether Python scalars become 64-bit values in this thread, now."""
    return bool(config.enable_x64.value)


def signature(
    args: Sequence[Any],
    kwargs: dict[str, Any],
    static_argnums: Sequence[int],
    static_argnames: Sequence[str],
) -> Signature | None:
    """The key under which JAX would trace this call, or ``None``.

    ``None`` means that JAX itself refuses the arguments; its own error says so best.
    """
    try:
        arguments, leaves = jax_jit.parse_arguments(
            args,
            tuple(kwargs.values()),
            tuple(kwargs.keys()),
            static_argnums,
            static_argnames,
            tree_util.tracing_registry,
        )
        avals = tuple(map(core.shaped_abstractify, leaves))
        mesh = pjit.get_ctx_mesh(use_resource_env=False)  # type: ignore[no-untyped-call]
        context = (config.trace_context(), mesh)
        treedefs = _structures(args, kwargs, static_argnums, static_argnames)
        key = Signature(arguments, avals, context, treedefs)
        hash(key)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return key


def without_own_frames(error: BaseException) -> None:
    """Drops the leading frames of this package from an exception in flight."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(
        (PACKAGE, GENERATED)
    ):
        traceback = traceback.tb_next
    error.__traceback__ = traceback
    if isinstance(error, SafeJaxError) and hasattr(error, "__notes__"):
        # JAX's remark on frames it has removed; ours says what to do instead.
        error.__notes__ = [n for n in error.__notes__ if "internal frames" not in n]


def explicit_constraints(dimension: Any) -> tuple[str, ...]:
    """The constraints given with a symbolic dimension, as they were written."""
    scope = getattr(dimension, "scope", None)
    return tuple(
        str(constraint.debug_str)
        for constraint in getattr(scope, "_explicit_constraints", ())
    )
