"""Imports go downwards only: the table below is the architecture, checked.

A module may import what stands before it in ``ROWS``: a lower row, or an earlier
module of its own row. Late imports count, and are refused besides. The last tests
feed bad sources to the check, because a guard that never fires looks like one that
works.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("safejax").submodule_search_locations[0])

# Lowest first. A folder's own name stands for its __init__.py, which is empty.
ROWS: tuple[tuple[str, ...], ...] = (
    ("_version",),
    ("errors",),
    ("limits",),
    ("_jax._dispatch", "_jax._programs", "_jax._checks", "_jax"),
    (
        "contract",
        "contract._grammar",
        "contract._dims",
        "contract._dtypes",
        "contract._axes",
        "contract._spec",
        "contract._annotations",
        "contract._contract",
        "contract._check",
        "contract._report",
        "contract._statics",
        "contract._tokens",
        "contract._values",
    ),
    (
        "compile",
        "compile._rows",
        "compile._explain",
        "compile._tenant",
        "compile._rates",
        "compile._backoff",
        "compile._events",
        "compile._deadline",
        "compile._job",
        "compile._protocol",
        "compile._confine",
        "compile._worker",
        "compile._child",
        "compile._staff",
        "compile._crew",
        "compile._pool",
        "compile._refusals",
        "compile._process",
        "compile._ledger",
        "compile._service",
        "compile._admission",
    ),
    (
        "jit",
        "jit._stats",
        "jit._settings",
        "jit._background",
        "jit._miss",
        "jit._precompile",
        "jit._plain",
        "jit._evict",
        "jit._gate",
        "jit._safe_jit",
    ),
    ("__init__",),
    (
        "demo",
        "demo._outcome",
        "demo._measure",
        "demo._digits",
        "demo._flood",
        "demo._inputs",
        "demo._compile_attacks",
        "demo._attacks",
        "demo._report",
        "demo._run",
    ),
    ("cli", "cli._main"),
)
ORDER = {name: i for i, name in enumerate(name for row in ROWS for name in row)}

# Auditable alone: no JAX, no NumPy, nothing but the standard library.
TRUSTED_CORE = ("_version", "errors", "limits")
CORE_MAY_IMPORT = {"typing_extensions", *sys.stdlib_module_names}

PRIVATE_JAX = (
    "jax._src",
    "jax._jax",
    "jax.core",
    "jax.interpreters",
    "jax.lib",
    "jaxlib",
)
# A worker imports jaxlib without JAX; the protocol has a field of that name.
MAY_USE_PRIVATE_JAX = (
    "_jax._checks",
    "_jax._dispatch",
    "_jax._programs",
    "compile._protocol",
    "compile._worker",
)
# Looks its commands' modules up by name, so that `--help` needs no JAX.
# A worker and its confinement load what may be absent, or must come late.
MAY_IMPORT_BY_NAME = ("cli._main", "compile._confine", "compile._worker")
LATE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.If)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def imported_names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The full dotted names that an import statement asks for."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif node.level:
        yield "."
    else:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name: str) -> str | None:
    """The module of ours that a dotted name is in, or None if it is another's."""
    if name != "safejax" and not name.startswith("safejax."):
        return None
    rest = name.removeprefix("safejax").removeprefix(".")
    while rest:
        if rest in ORDER:
            return rest
        rest = rest.rpartition(".")[0]
    return "__init__"


def is_within(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def dotted(node: ast.expr) -> str:
    """``jax._src.core`` for the expression of that form, else an empty string."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join((node.id, *reversed(parts)))


def late_imports(tree: ast.Module) -> Iterator[ast.AST]:
    for holder in ast.walk(tree):
        if isinstance(holder, LATE):
            for node in ast.walk(holder):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield node


def faults(name: str, source: str) -> list[str]:
    """What module `name` with this source does that the table does not allow."""
    tree = ast.parse(source)
    found = [f"line {node.lineno}: late import" for node in late_imports(tree)]
    if name not in ORDER:
        return [*found, f"{name} has no row"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for wanted in imported_names(node):
                fault = import_fault(name, wanted)
                if fault:
                    found.append(f"line {node.lineno}: {fault}")
        elif isinstance(node, ast.Attribute | ast.Name):
            fault = use_fault(name, dotted(node))
            if fault:
                found.append(f"line {node.lineno}: {fault}")
    return found


def use_fault(name: str, used: str) -> str:
    if is_within(used, PRIVATE_JAX) and name not in MAY_USE_PRIVATE_JAX:
        return f"reaches into {used}"
    by_name = used == "__import__" or used.endswith("import_module")
    if by_name and name not in MAY_IMPORT_BY_NAME:
        return f"imports by name: {used}"
    return ""


def import_fault(name: str, wanted: str) -> str:
    if wanted == ".":
        return "relative import"
    if is_within(wanted, PRIVATE_JAX) and name not in MAY_USE_PRIVATE_JAX:
        return f"imports private JAX: {wanted}"
    target = own_module(wanted)
    foreign = target is None and wanted.partition(".")[0] not in CORE_MAY_IMPORT
    if foreign and name in TRUSTED_CORE:
        return f"the trusted core imports {wanted}"
    if target is not None and ORDER[target] >= ORDER[name]:
        return f"imports {target}, which is not below it"
    return ""


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_file_has_exactly_one_row_and_every_row_a_file():
    rows = [name for row in ROWS for name in row]

    assert len(rows) == len(set(rows))
    assert {module_name(path) for path in FILES} == set(rows)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_module_imports_only_what_is_below_it(path: Path):
    assert faults(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_module_stays_small_enough_to_review(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("limits", "from safejax.jit import _api", "not below it"),
        ("limits", "import safejax.jit", "not below it"),
        ("limits", "from safejax import jit", "not below it"),
        ("limits", "import safejax", "not below it"),
        ("limits", "import safejax.limits", "not below it"),
        ("cli", "from . import _demo", "relative import"),
        ("cli", "def f():\n    import safejax", "late import"),
        ("cli", "async def f():\n    from json import loads", "late import"),
        ("cli", "if TYPE_CHECKING:\n    import safejax", "late import"),
        ("errors", "import jax", "trusted core"),
        ("limits", "from numpy import ndarray", "trusted core"),
        ("jit", "from jax._src import core", "private JAX"),
        ("jit", "import jax._src.core as core", "private JAX"),
        ("jit", "from jax import core", "private JAX"),
        ("jit", "import jaxlib.xla_client", "private JAX"),
        ("jit", "import jax\nx = jax._src.core.Primitive", "reaches into"),
        ("jit", "import jax\ndef f():\n    return jax.core.Tracer", "reaches into"),
        ("jit", "import importlib\nimportlib.import_module('safejax')", "by name"),
        ("jit", "__import__('safejax')", "by name"),
        ("contract._dims", "from safejax.contract import _spec", "not below it"),
        ("contract._dims", "from safejax.contract._spec import spec", "not below it"),
        ("jit._plain", "from safejax import safe_jit", "not below it"),
        ("compile._new", "import json", "no row"),
    ],
)
def test_the_check_refuses(name: str, source: str, fault: str):
    assert any(fault in found for found in faults(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("_jax._checks", "from jax._src import core\nimport jaxlib"),
        ("jit", "from safejax.errors import ContractError\nimport jax.export"),
        ("errors", "import dataclasses\nfrom typing_extensions import override"),
        ("cli", "try:\n    import rich\nexcept ImportError:\n    rich = None"),
        ("cli", "import safejax"),
        ("contract._spec", "from safejax.contract import _dims"),
        ("contract._spec", "from safejax.contract._dims import DimError"),
    ],
)
def test_the_check_admits(name: str, source: str):
    assert faults(name, source) == []
