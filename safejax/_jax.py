"""The only module that touches what JAX does not promise.

Everything here is checked once, on first use, against the JAX that is installed
(:func:`check`), so that a JAX release which changes one of these breaks with one clear
sentence instead of quietly switching a limit off. Importing this module changes nothing
in JAX; the compile hook is installed by the first ``safe_jit``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import pathlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.export
from jax._src import (
    compiler,
    config,
    core,
    pjit,
    stages,
    traceback_util,
    tree_util,
)
from jax._src.lib import _jax, jax_jit  # type: ignore[attr-defined]
from typing_extensions import override

from safejax.errors import SafeJaxError

# Captured here because programs exist that put safe_jit in the place of jax.jit.
jax_jit_function = jax.jit

ArrayImpl: type = _jax.ArrayImpl
Tracer: type = core.Tracer

# File name of the functions that safejax generates.
GENERATED = "<safejax"
_PACKAGE = str(pathlib.Path(__file__).resolve().parent)
# Entries of one function's private dispatch cache. JAX shares 8192 between all
# functions, so that one of them can evict the others (T2).
_DISPATCH_ENTRIES = 1024

_PJIT_STATE = (
    "function_name",
    "fun",
    "static_argnums",
    "static_argnames",
    "global_cache_key",
    "pytree_registry",
    "shard_arg_fallback",
)
_COMPILE_PARAMETERS = ("backend", "computation")


class CompileOwner(Protocol):
    """Whoever answers for the XLA compilations of one ``safe_jit`` function."""

    def begin_compile(self) -> None:
        """Admits one compilation, or raises."""

    def end_compile(self, program: Program | None) -> None:
        """Records the finished program, or ``None`` where it failed."""


class Program(NamedTuple):
    """One compiled XLA program, named without keeping it alive.

    Attributes:
        id: Identity of the executable while it lives.
        client: The backend that loaded it.
        seconds: How long XLA took, in seconds.
    """

    id: int
    client: Any
    seconds: float


class Signature(NamedTuple):
    """What decides whether JAX traces a call again.

    Attributes:
        arguments: Tree structures, keyword names and static values of the call.
        avals: Shape, dtype and weak type of every array leaf, in order.
        context: The configuration and mesh that are part of JAX's own key.
    """

    arguments: Any
    avals: tuple[Any, ...]
    context: Any


class _Installed:
    """What this module has done to the process so far."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.checked = False
        self.hooked = False


_installed = _Installed()
_current = threading.local()
_module_owners: weakref.WeakKeyDictionary[Any, CompileOwner] = (
    weakref.WeakKeyDictionary()
)
_traced_owners: weakref.WeakKeyDictionary[Any, CompileOwner] = (
    weakref.WeakKeyDictionary()
)
_dispatch_caches: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def check() -> None:
    """Refuses to work on a JAX that has changed what this module relies on.

    Raises:
        SafeJaxError: ``SJ001``, with the name of what has changed.
    """
    if _installed.checked:
        return
    missing = [name for name, holds in _self_checks() if not holds]
    if missing:
        raise SafeJaxError(
            f"safejax does not support JAX {jax.__version__}: "
            f"{', '.join(missing)} changed",
            code="SJ001",
            hint="install a JAX release that the documentation lists",
        )
    _installed.checked = True


def _self_checks() -> Iterator[tuple[str, bool]]:
    probe: Any = jax_jit_function(lambda: None)
    state = probe.__getstate__()
    yield "PjitFunction.__getstate__", all(name in state for name in _PJIT_STATE)
    yield "PjitFunction._cache_miss", callable(getattr(probe, "_cache_miss", None))
    yield "PjitFunctionCache", hasattr(_jax, "PjitFunctionCache")
    hook = getattr(compiler, "compile_or_get_cached", None)
    parameters = tuple(inspect.signature(hook).parameters) if hook else ()
    yield "compile_or_get_cached", parameters[:2] == _COMPILE_PARAMETERS
    yield "parse_arguments", hasattr(jax_jit, "parse_arguments")
    yield "shaped_abstractify", hasattr(core, "shaped_abstractify")
    yield "trace_context", hasattr(config, "trace_context")
    yield "live_executables", hasattr(_jax.Client, "live_executables")


# --- jitted functions -------------------------------------------------------------


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


def cache_miss(jitted: Any) -> Callable[..., Any]:
    """JAX's own cache-miss handler: traces, lowers, compiles and runs."""
    handler: Callable[..., Any] = jitted._cache_miss
    return handler


def static_arguments(jitted: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Positions and names of the static arguments, as JAX resolved them."""
    state = jitted.__getstate__()
    return tuple(state["static_argnums"]), tuple(state["static_argnames"])


# --- signatures -------------------------------------------------------------------


def at_top_level() -> bool:
    """Whether no JAX transformation is under way in this thread."""
    probe = getattr(core.trace_ctx, "is_top_level", None)
    return bool(probe() if probe is not None else core.trace_state_clean())


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
        key = Signature(arguments, avals, (config.trace_context(), mesh))
        hash(key)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return key


# --- compilations -----------------------------------------------------------------


@contextlib.contextmanager
def compiling_for(owner: CompileOwner, *, only: str | None = None) -> Iterator[None]:
    """Charges the compilations of this thread to ``owner`` while the block runs.

    Args:
        owner: Who answers for them.
        only: Charge only modules whose name contains this; used under transformations,
            where a user's function may compile other programs while it is traced.
    """
    before = getattr(_current, "owner", None)
    _current.owner = (owner, only)
    try:
        yield
    finally:
        _current.owner = before


def install_compile_hook(on_reused_id: Callable[[int], None]) -> None:
    """Routes JAX's one function for obtaining executables through the owners.

    Compilations that no ``safe_jit`` answers for pass through unchanged. Every
    executable in the process passes here, so an address that the allocator gives
    out again is noticed: ``on_reused_id`` is told.
    """
    with _installed.lock:
        if _installed.hooked:
            return
        compiler.compile_or_get_cached = _routed(
            compiler.compile_or_get_cached, on_reused_id
        )
        traceback_util.register_exclusion(_PACKAGE)
        _installed.hooked = True


def _routed(
    original: Callable[..., Any], on_reused_id: Callable[[int], None]
) -> Callable[..., Any]:
    @functools.wraps(original)
    def compile_or_get_cached(
        backend: Any, computation: Any, *args: Any, **kwargs: Any
    ) -> Any:
        owner = _owner_of(computation)
        if owner is None:
            executable = original(backend, computation, *args, **kwargs)
            on_reused_id(id(executable))
            return executable
        owner.begin_compile()
        program = None
        start = time.perf_counter()
        try:
            executable = original(backend, computation, *args, **kwargs)
            on_reused_id(id(executable))
            seconds = time.perf_counter() - start
            program = Program(id(executable), executable.client, seconds)
        finally:
            owner.end_compile(program)
        return executable

    return compile_or_get_cached


def _owner_of(computation: Any) -> CompileOwner | None:
    owner = _module_owners.get(computation)
    if owner is not None:
        return owner
    current: tuple[CompileOwner, str | None] | None = getattr(_current, "owner", None)
    if current is None:
        return None
    owner, only = current
    if only is not None and only not in str(
        computation.operation.attributes["sym_name"]
    ):
        return None
    return owner


def live_program_ids(clients: Sequence[Any]) -> set[int]:
    """Identities of all executables that are still alive on these backends.

    Measured: 2 us for 200 programs. Nothing is kept alive.
    """
    return {id(program) for client in clients for program in client.live_executables()}


def program_bytes(client: Any, ids: set[int]) -> dict[int, int]:
    """Size of the given live programs, in bytes of their serialized form."""
    sizes = {}
    for program in client.live_executables():
        if id(program) in ids:
            sizes[id(program)] = _size_of(program)
    return sizes


def _size_of(program: Any) -> int:
    code = int(program.size_of_generated_code_in_bytes())
    if code > 0:
        return code
    try:
        # On CPU the generated code reports 0 bytes.
        return len(program.serialize())
    except (RuntimeError, ValueError, AttributeError):  # host callbacks
        return 0


# --- ahead of time ----------------------------------------------------------------


class _OwnedTraced(stages.Traced):
    """A ``Traced`` whose programs are charged to a ``safe_jit`` function."""

    __slots__ = ()

    @override
    def lower(self, *args: Any, **kwargs: Any) -> stages.Lowered:
        lowered: stages.Lowered = super().lower(*args, **kwargs)
        owner = _traced_owners.get(self.jaxpr)
        if owner is not None:
            with contextlib.suppress(AttributeError, TypeError):
                _module_owners[vars(lowered._lowering)["_hlo"]] = owner
        return lowered


def owned_traced(traced: Any, owner: CompileOwner) -> Any:
    """Charges what is compiled from this ``Traced`` to ``owner``."""
    _traced_owners[traced.jaxpr] = owner
    if type(traced) is stages.Traced:
        traced.__class__ = _OwnedTraced
    return traced


# --- tracebacks and dimensions ----------------------------------------------------


def without_own_frames(error: BaseException) -> None:
    """Drops the leading frames of this package from an exception in flight."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(
        (_PACKAGE, GENERATED)
    ):
        traceback = traceback.tb_next
    error.__traceback__ = traceback


def explicit_constraints(dimension: Any) -> tuple[str, ...]:
    """The constraints given with a symbolic dimension, as they were written."""
    scope = getattr(dimension, "scope", None)
    return tuple(
        str(constraint.debug_str)
        for constraint in getattr(scope, "_explicit_constraints", ())
    )
