"""A process that compiles: it reads programs from a pipe and answers with executables.

Run as a script, isolated, by the pool. It imports the standard library and jaxlib, not
JAX and not this package: it must start fast and hold nothing worth stealing.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Room for what the resident size does not show: thread stacks, the allocator's arenas.
_HEADROOM_BYTES = 512 << 20
# A program to compile before the first one counts: LLVM sets itself up, and if the
# confinement denied what compiling needs, that comes out now.
_WARM_UP = b"""module @warm attributes {
  mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32
} {
  func.func public @main(%x: tensor<8xf32>) -> tensor<8xf32> {
    %0 = stablehlo.sine %x : tensor<8xf32>
    %1 = stablehlo.add %0, %x : tensor<8xf32>
    return %1 : tensor<8xf32>
  }
}"""


def _load(name: str) -> ModuleType:
    """Loads a sibling by path: the package itself would import JAX."""
    path = os.path.join(os.path.dirname(__file__), f"{name}.py")  # noqa: PTH118, PTH120
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class _Memory:
    """This process's memory, read from files opened before they can't be."""

    def __init__(self) -> None:
        try:
            self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not Linux
            self._status = -1
        self._hard = resource.getrlimit(resource.RLIMIT_DATA)[1]

    def read(self, field: str) -> int:
        """A size in bytes; 0 where it is not known."""
        if self._status < 0:
            return 0
        for line in os.pread(self._status, 8192, 0).decode().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) << 10
        return 0

    def limit(self, growth: int) -> None:
        """Has allocation fail far past ``growth``; 0 lifts the limit.

        The pool watches the resident size and kills sooner; this holds even while the
        pool's process can't run Python.
        """
        soft = self._hard
        if growth:
            most = self.read("VmData") + growth + growth // 4 + _HEADROOM_BYTES
            soft = most if soft == resource.RLIM_INFINITY else min(most, soft)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, self._hard))


class _Compiler:
    """XLA's compiler for CPU, set up as JAX sets it up."""

    def __init__(self, modules: list[ModuleType], devices: int) -> None:
        self._xla: Any = modules[0]
        for module in modules[1:]:
            self._register(module)
        self._backend = self._xla.make_cpu_client(num_devices=devices)
        self._devices = {device.id: device for device in self._backend.local_devices()}

    def _register(self, module: Any) -> None:
        for platform, targets in module.registrations().items():
            for name, value, api_version in targets:
                self._xla.register_custom_call_target(
                    name, value, platform=platform, api_version=api_version
                )
        # Without these, a sharded decomposition would be partitioned differently.
        for name in getattr(module, "batch_partitionable_targets", list)():
            self._xla.register_custom_call_as_batch_partitionable(name)

    def compile(self, module: bytes, options: Any, ids: tuple[int, ...]) -> bytes:
        chosen = tuple(self._devices[number] for number in ids)
        program = self._backend.compile_and_load(
            module, self._xla.DeviceList(chosen), options
        )
        return bytes(self._backend.serialize_executable(program))

    def load(self, executable: bytes, options: Any, ids: tuple[int, ...]) -> None:
        """Loads an executable and drops it. This process may end of it."""
        chosen = tuple(self._devices[number] for number in ids)
        self._backend.deserialize_executable(
            executable, self._xla.DeviceList(chosen), options
        )

    def options(self, serialized: bytes) -> Any:
        return self._xla.CompileOptions.ParseFromString(serialized)

    def warm_up(self) -> None:
        options = self._xla.CompileOptions()
        numpy: Any = importlib.import_module("numpy")  # jaxlib has imported it
        first = numpy.zeros((1, 1), numpy.int32)
        options.device_assignment = self._xla.DeviceAssignment.create(first)
        self.compile(_WARM_UP, options, (0,))


class _Worker:
    """The conversation with the pool."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._protocol: Any = _load("_protocol")
        self._settings = settings
        self._memory = _Memory()

    def start(self) -> None:
        confine: Any = _load("_confine")
        confine.die_with_parent(self._settings["parent"])
        sys.path.extend(self._settings["paths"])
        # Imported first: finding libseccomp starts a program, which XLA should not see.
        extras = confine.load_extras()
        make_compiler = self._load_compiler()
        version = importlib.import_module("jaxlib.version").__version__
        # After the last import and before the first thread.
        report = confine.confine(extras)
        threading.Thread(target=self._live_with_parent, daemon=True).start()
        self._compiler = make_compiler()
        self._compiler.warm_up()
        hello = self._protocol.Hello(version, os.getpid(), report)
        self._write(self._protocol.hello_frame(hello))

    def _load_compiler(self) -> Callable[[], Any]:
        """Imports what answers orders: a compiler, or what looks into modules only."""
        if self._settings["looks"]:
            look: Any = _load("_look")
            look.load()
            return look.Looker  # type: ignore[no-any-return]
        names = ("xla_client", "lapack", "cpu_sparse")
        modules = [importlib.import_module(f"jaxlib.{name}") for name in names]
        return lambda: _Compiler(modules, self._settings["devices"])

    def _live_with_parent(self) -> None:
        """Ends the process when the pool's does: nothing is ever written here.

        Also in the middle of a compilation, during which XLA does not hold the GIL.
        """
        os.read(self._settings["lifeline"], 1)
        os._exit(0)

    def serve(self) -> None:
        limits = self._protocol.request_limits(self._settings["max_request_bytes"])
        reader = self._protocol.FrameReader(limits)
        while data := os.read(self._settings["requests"], 1 << 20):
            for kind, body in reader.feed(data):
                order = self._protocol.parse_order(body, kind)
                del body
                self._write(self._protocol.answer_frame(self._answer(order)))

    def _answer(self, order: Any) -> Any:
        peak = self._memory.read("VmHWM")
        start = time.perf_counter()
        self._memory.limit(order.memory_bytes)
        try:
            options = self._compiler.options(order.options)
            payload = self._carried_out(order, options)
            ok = True
        except Exception as error:  # noqa: BLE001 - whatever XLA raises is its answer
            payload, ok = str(error).encode(errors="replace"), False
        self._memory.limit(0)
        seconds = time.perf_counter() - start
        # The high-water mark is the process's; where this program did not raise it, the
        # present size is the better figure.
        reached = self._memory.read("VmHWM")
        peak = reached if reached > peak else self._memory.read("VmRSS")
        return self._protocol.Answer(order.id, ok, payload, seconds, peak)

    def _carried_out(self, order: Any, options: Any) -> bytes:
        if order.is_trial:
            self._compiler.load(order.module, options, order.devices)
            return b""
        return bytes(self._compiler.compile(order.module, options, order.devices))

    def _write(self, parts: list[bytes]) -> None:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(self._settings["answers"], view) :]


def main() -> None:
    """Starts, says hello, and compiles until the pool closes the pipe."""
    worker = _Worker(json.loads(sys.argv[1]))
    worker.start()
    worker.serve()
    # XLA's destructors have nothing left to save, and take their time.
    os._exit(0)


if __name__ == "__main__":
    main()
