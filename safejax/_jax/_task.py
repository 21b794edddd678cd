"""One compilation that JAX has asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src.interpreters import mlir
from jax._src.lib import _jax  # type: ignore[attr-defined]

from safejax._jax import _caching


def name_of(module: Any) -> str:
    """Name of a StableHLO module, such as ``"jit_predict"``."""
    # Not its str(), which escapes what is not ASCII: the function would be no one's.
    return str(module.operation.attributes["sym_name"].value)


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
        self._loaded: bytes | None = None

    @property
    def name(self) -> str:
        """Name of the module, such as ``"jit_predict"``."""
        return name_of(self._module)

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
        loaded = self._backend.deserialize_executable(
            executable, self._devices, self._options
        )
        self._loaded = executable
        return loaded

    @functools.cached_property
    def uncached_because(self) -> str | None:
        """Why the program must not come from disk, or ``None``."""
        return _caching.uncached_because(
            self._backend, self.bytecode, self._host_callbacks
        )

    @functools.cached_property
    def facts(self) -> _caching.ProgramFacts | None:
        """What a program from disk must agree in."""
        return _caching.facts_of(
            self._backend, self._module, self._devices, self._options
        )

    def serialized(self, executable: Any) -> tuple[bytes, bool]:
        """The bytes of an executable, and whether they were loaded here."""
        if self._loaded is not None:
            return self._loaded, True
        return bytes(executable.serialize()), False

    def refused(self, text: str) -> Exception:
        """XLA's own refusal, as JAX raises it."""
        error: Exception = _jax.JaxRuntimeError(text)
        return error
