"""XLA programs: who answers for their compilation, and which are still alive."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jaxlib.version
from jax._src import compiler, source_info_util, stages, traceback_util
from jax._src.interpreters import mlir
from jax._src.lib import _jax  # type: ignore[attr-defined]
from typing_extensions import override

from safejax._jax._dispatch import PACKAGE

jaxlib_version: str = jaxlib.version.__version__


class CompileTask:
    """One backend compilation that JAX has asked for, and the ways to carry it out."""

    def __init__(
        self,
        original: Callable[..., Any],
        backend: Any,
        module: Any,
        devices: Any,
        options: Any,
        host_callbacks: Sequence[Any],
    ) -> None:
        self._original = original
        self._backend = backend
        self._module = module
        self._devices = devices
        self._options = options
        self._host_callbacks = host_callbacks
        self._bytecode: bytes | None = None

    @property
    def platform(self) -> str:
        """The platform of the backend, such as ``"cpu"``."""
        return str(getattr(self._backend, "platform", ""))

    @property
    def bytecode(self) -> bytes:
        """The program as StableHLO bytecode."""
        if self._bytecode is None:
            self._bytecode = bytes(mlir.module_to_bytecode(self._module))
        return self._bytecode

    @property
    def options(self) -> bytes:
        """The compile options, serialized."""
        return bytes(self._options.SerializeAsString())

    @property
    def device_ids(self) -> tuple[int, ...]:
        """Ids of the devices the program will run on, in order."""
        return tuple(int(device.id) for device in self._devices)

    @property
    def device_count(self) -> int:
        """How many devices the backend has."""
        return int(self._backend.device_count())

    def stays_because(self) -> str | None:
        """Why the program can't be compiled in another process, or ``None``."""
        if self.platform != "cpu" or not hasattr(self._backend, "live_executables"):
            return f"it is for the backend {self.platform!r}"
        if self._backend.process_index() != 0 or jax.process_count() > 1:
            return "it runs in several processes"
        # A callback's address in this process is part of the program.
        if self._host_callbacks or b"python_cpu_callback" in self.bytecode:
            return "it calls back into Python"
        return None

    def in_process(self) -> Any:
        """Compiles here and now; nothing can interrupt it."""
        return self._original(
            self._backend,
            self._module,
            self._devices,
            self._options,
            self._host_callbacks,
        )

    def load(self, executable: bytes) -> Any:
        """Loads a serialized executable."""
        return self._backend.deserialize_executable(
            executable, self._devices, self._options
        )

    def refused(self, text: str) -> Exception:
        """XLA's own refusal, as JAX raises it."""
        error: Exception = _jax.JaxRuntimeError(text)
        return error


class CompileOwner(Protocol):
    """Whoever answers for the XLA compilations of one ``safe_jit`` function."""

    def begin_compile(self) -> None:
        """Admits one compilation, or raises."""

    def carry_out(self, task: CompileTask) -> Any:
        """Compiles, wherever that is wise, and returns the loaded executable."""

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


class _Hook:
    """Whether JAX's compilations are routed through the owners yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.installed = False


_hook = _Hook()
_current = threading.local()
_module_owners: weakref.WeakKeyDictionary[Any, CompileOwner] = (
    weakref.WeakKeyDictionary()
)
_traced_owners: weakref.WeakKeyDictionary[Any, CompileOwner] = (
    weakref.WeakKeyDictionary()
)


@contextlib.contextmanager
def compiling_for(owner: CompileOwner, module: str) -> Iterator[None]:
    """Charges the compilations of this thread to ``owner`` while the block runs.

    Args:
        owner: Who answers for them.
        module: Name of the modules to charge. Others are not the function's: JAX makes
            programs of its own, to reshard an input for example, and under a
            transformation a user's function may compile while it is traced.
    """
    before = getattr(_current, "owner", None)
    _current.owner = (owner, module)
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
    with _hook.lock:
        if _hook.installed:
            return
        compiler.compile_or_get_cached = _routed(
            compiler.compile_or_get_cached, on_reused_id
        )
        compiler.backend_compile_and_load = _carried_out(
            compiler.backend_compile_and_load
        )
        traceback_util.register_exclusion(PACKAGE)
        source_info_util.register_exclusion(PACKAGE)
        _hook.installed = True


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
            with _obtaining(owner):
                executable = original(backend, computation, *args, **kwargs)
            on_reused_id(id(executable))
            seconds = time.perf_counter() - start
            program = Program(id(executable), executable.client, seconds)
        finally:
            owner.end_compile(program)
        return executable

    return compile_or_get_cached


@contextlib.contextmanager
def _obtaining(owner: CompileOwner) -> Iterator[None]:
    before = getattr(_current, "obtaining", None)
    _current.obtaining = owner
    try:
        yield
    finally:
        _current.obtaining = before


def _carried_out(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def backend_compile_and_load(
        backend: Any, module: Any, devices: Any, options: Any, host_callbacks: Any
    ) -> Any:
        owner: CompileOwner | None = getattr(_current, "obtaining", None)
        if owner is None:
            return original(backend, module, devices, options, host_callbacks)
        task = CompileTask(original, backend, module, devices, options, host_callbacks)
        return owner.carry_out(task)

    return backend_compile_and_load


def _owner_of(computation: Any) -> CompileOwner | None:
    owner = _module_owners.get(computation)
    if owner is not None:
        return owner
    current: tuple[CompileOwner, str] | None = getattr(_current, "owner", None)
    if current is None:
        return None
    name = str(computation.operation.attributes["sym_name"]).strip('"')
    return current[0] if name.strip("_") == current[1] else None


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


# Users see the type of jax.jit(f).trace(...).
_OwnedTraced.__name__ = stages.Traced.__name__
_OwnedTraced.__qualname__ = stages.Traced.__qualname__
_OwnedTraced.__module__ = stages.Traced.__module__


def owned_traced(traced: Any, owner: CompileOwner) -> Any:
    """Charges what is compiled from this ``Traced`` to ``owner``."""
    _traced_owners[traced.jaxpr] = owner
    if type(traced) is stages.Traced:
        traced.__class__ = _OwnedTraced
    return traced
