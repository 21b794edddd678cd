"""What a StableHLO module consists of, found out where a crash harms nobody.

A worker loads this file by its path. MLIR's reader ends the process on some bytes that
no compiler has written (6 of 600 mutations of a valid module: four segmentation faults,
two endless loops), so that a module that others made is read here first.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import threading
from collections.abc import Iterator
from typing import Any

_LIBS = "mlir._mlir_libs"
# What JAX's own contexts know, by module and by the function that makes it known.
_DIALECTS = (
    ("_sdy", "register_dialect"),
    ("_sdyMpmd", "register_dialect"),
    ("_mlirHlo", "register_mhlo_dialect"),
    ("_chlo", "register_dialect"),
    ("_stablehlo", "register_dialect"),
)
# From JAX 0.11 on MLIR imports these when it meets one of their operations.
_MODULES = ("builtin", "chlo", "func", "mhlo", "mpmd", "sdy", "stablehlo")
# What lowers to code that we know, and to nothing else.
_ADMITTED = ("stablehlo.", "chlo.", "func.", "sdy.", "builtin.module")
_TRANSFERS = frozenset(
    {"stablehlo.infeed", "stablehlo.outfeed", "stablehlo.send", "stablehlo.recv"}
)
_CUSTOM_CALLS = frozenset({"stablehlo.custom_call", "mhlo.custom_call"})
_CALLED = ("callee", "decomposition", "called_computations")
_SYMBOL = re.compile(r'@(?:"((?:[^"\\]|\\.)*)"|([\w.$-]+))')
_TENSOR = re.compile(
    r"tensor<((?:(?:[0-9]+|\?)x)*)(?:complex<([a-z]+)([0-9]+)>|([^>,]*))"
)
_BITS = re.compile(r"[0-9]+")
_PASSES = "builtin.module(sdy-lift-inlined-meshes)"  # JAX runs it on each import

# Whoever reads the module later has more: what needs a deeper one ends here.
_STACK_BYTES = 1 << 20
_MOST = 1 << 62
_MOST_NAMES = 200
_MOST_TEXT = 200


def load() -> None:
    """Imports what is needed, before it can't be any more."""
    names = ["_jax", "mlir.ir", "mlir.passmanager", f"{_LIBS}._jax_mlir_ext"]
    names += [f"mlir.dialects.{name}" for name in _MODULES]
    names += [f"{_LIBS}.{name}" for name, _ in _DIALECTS]
    for name in names:
        importlib.import_module(f"jaxlib.{name}")


class Looker:
    """In the place of the compiler of a worker that looks only."""

    def __init__(self) -> None:
        self._xla: Any = importlib.import_module("jaxlib._jax")
        self._ir: Any = importlib.import_module("jaxlib.mlir.ir")

    def warm_up(self) -> None:
        """Reads one module, so that what confinement denies comes out now."""
        with self._context():
            module = self._ir.Module.parse("func.func @main() { return }")
            self._look(module, None)

    def options(self, given: bytes) -> int | None:
        """After how many operations not to look any further."""
        return int(given) if given else None

    def compile(self, module: bytes, most: int | None, ids: tuple[int, ...]) -> bytes:
        """What a module consists of, as JSON."""
        del ids
        found: list[Any] = []

        def run() -> None:
            try:
                found.append(self._read(module, most))
            except Exception as error:  # noqa: BLE001  raised again below
                found.append(error)

        before = threading.stack_size(_STACK_BYTES)
        thread = threading.Thread(target=run)
        thread.start()
        threading.stack_size(before)
        thread.join()
        if isinstance(found[0], Exception):
            raise found[0]
        return json.dumps(found[0]).encode()

    def _context(self) -> Any:
        context = self._ir.Context()
        context.enable_multithreading(False)  # noqa: FBT003
        registry = self._ir.DialectRegistry()
        extension = importlib.import_module(f"jaxlib.{_LIBS}._jax_mlir_ext")
        extension.register_dialects(registry)
        context.append_dialect_registry(registry)
        context.load_all_available_dialects()
        for name, function in _DIALECTS:
            module = importlib.import_module(f"jaxlib.{_LIBS}.{name}")
            getattr(module, function)(context)
        return context

    def _read(self, module: bytes, most: int | None) -> dict[str, Any]:
        with self._context():
            parsed = self._xla.mlir.deserialize_portable_artifact(module)
            parsed.operation.verify()
            return self._look(parsed, most)

    def _look(self, module: Any, most: int | None) -> dict[str, Any]:
        passes = importlib.import_module("jaxlib.mlir.passmanager")
        walk = _Walk(self._ir)
        walk.module(module, most)
        if not walk.stopped:
            passes.PassManager.parse(_PASSES).run(module.operation)
            module.operation.verify()
        return walk.report()


class _Function:
    """One function: how many operations it has itself, and whom it calls."""

    def __init__(self) -> None:
        self.operations = 0
        self.loops = 0
        self.calls: list[tuple[str, int]] = []  # whom, inside how many loops


class _Walk:
    """One pass over a module. Nothing recurses."""

    def __init__(self, ir: Any) -> None:
        self._ir = ir
        self._sizes: dict[str, int] = {}
        self._functions: dict[str, _Function] = {}
        self._targets: dict[str, None] = {}
        self._foreign: dict[str, None] = {}
        self._main: Any = None
        self._constants = self._largest_constant = self._largest = 0
        self._written = self._depth = 0
        self.stopped = False

    def module(self, module: Any, most: int | None) -> None:
        for operation in module.body:
            name = operation.operation.name
            function = _Function()
            if name == "func.func":
                symbol = self._text(operation, "sym_name")
                self._functions[symbol] = function
                if symbol == "main":
                    self._main = operation.operation
            self._function(operation.operation, function, most)
            if self.stopped:
                return

    def _function(self, root: Any, function: _Function, most: int | None) -> None:
        stack = [(root, 0, 0)]
        while stack:
            operation, depth, loops = stack.pop()
            self._written += 1
            if most is not None and self._written > most:
                self.stopped = True
                return
            function.operations += 1
            self._depth = max(self._depth, depth)
            name = operation.name
            self._operation(operation, name)
            loops += name == "stablehlo.while"
            function.loops = max(function.loops, loops)
            for field in _CALLED:
                if field in operation.attributes:
                    text = str(operation.attributes[field])
                    for quoted, bare in _SYMBOL.findall(text):
                        function.calls.append((quoted or bare, loops))
            for region in operation.regions:
                for block in region:
                    stack.extend((o.operation, depth + 1, loops) for o in block)

    def _operation(self, operation: Any, name: str) -> None:
        if not name.startswith(_ADMITTED):
            self._note(self._foreign, name)
        elif name in _TRANSFERS:
            self._note(self._targets, name)
        if name in _CUSTOM_CALLS:
            self._note(self._targets, self._text(operation, "call_target_name"))
        for result in operation.results:
            size = self._size(result.type)
            self._largest = max(self._largest, size)
            if name == "stablehlo.constant":
                self._constants += size
                self._largest_constant = max(self._largest_constant, size)

    @staticmethod
    def _note(names: dict[str, None], name: str) -> None:
        # Beyond, one name stands for all: it is on no list of admitted ones.
        names[name[:_MOST_TEXT] if len(names) < _MOST_NAMES else "(more)"] = None

    def _text(self, operation: Any, field: str) -> str:
        return str(self._ir.StringAttr(operation.attributes[field]).value)

    def _size(self, kind: Any) -> int:
        text = str(kind)
        if text not in self._sizes:
            self._sizes[text] = sum(
                _bytes_of(axes, bits) for axes, bits in _parts(text)
            )
        return self._sizes[text]

    def report(self) -> dict[str, Any]:
        inputs, outputs = self._signature()
        operations, loops, endless = self._expanded()
        return {
            "operations": max(operations, self._written),
            "stopped": self.stopped,
            "endless": endless,
            "loops": loops,
            "depth": self._depth,
            "constant_bytes": self._constants,
            "largest_constant_bytes": self._largest_constant,
            "largest_bytes": self._largest,
            "argument_bytes": sum(map(self._size, inputs)),
            "result_bytes": sum(map(self._size, outputs)),
            "targets": list(self._targets),
            "foreign": list(self._foreign),
            "inputs": [str(kind)[:_MOST_TEXT] for kind in inputs],
            "outputs": [str(kind)[:_MOST_TEXT] for kind in outputs],
            "has_main": self._main is not None,
        }

    def _signature(self) -> tuple[list[Any], list[Any]]:
        if self._main is None:
            return [], []
        attribute = self._ir.TypeAttr(self._main.attributes["function_type"])
        kind = self._ir.FunctionType(attribute.value)
        return list(kind.inputs), list(kind.results)

    def _expanded(self) -> tuple[int, int, bool]:
        """Operations and loops of main with its calls written out; whether endless.

        Fifty functions that each call the one before twice are 50 small ones and
        2**50 operations.
        """
        totals: dict[str, tuple[int, int]] = {}
        open_now: dict[str, Iterator[tuple[str, int]]] = {}
        names = ["main"] if "main" in self._functions else []
        while names:
            name = names[-1]
            function = self._functions[name]
            to_visit = open_now.setdefault(name, iter(function.calls))
            called = next((c for c, _ in to_visit if c in self._functions), None)
            if called in open_now and called not in totals:
                return _MOST, 0, True
            if called is not None:
                if called not in totals:
                    names.append(called)
                continue
            names.pop()
            total, loops = function.operations, function.loops
            for callee, around in function.calls:
                inner = totals.get(callee, (1, 0))
                total = min(_MOST, total + inner[0])
                loops = max(loops, around + inner[1])
            totals[name] = (total, loops)
        return *totals.get("main", (0, 0)), False


def _parts(text: str) -> Iterator[tuple[str, int]]:
    """The axes and the bits of an element of each tensor in a type."""
    for axes, of, width, element in _TENSOR.findall(text):
        found = _BITS.search(element)
        bits = 2 * int(width) if of else int(found[0]) if found else 64
        yield axes, bits


def _bytes_of(axes: str, bits: int) -> int:
    # A size that is not known yet is one at least.
    sizes = [1 if axis == "?" else int(axis) for axis in axes.split("x")[:-1]]
    return math.prod(sizes) * max(1, bits // 8)
