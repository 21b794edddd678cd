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

# Lowest first. A folder's own name stands for its __init__.py, which is empty but for
# that of _jax and of signing.
ROWS: tuple[tuple[str, ...], ...] = (
    ("_version",),
    ("errors",),
    ("limits",),
    ("_file_errors", "_secret", "_files", "keys"),
    (
        "signing._canonical",
        "signing._digests",
        "signing._header",
        "signing._seal",
        "signing._origin",
        "signing._blob",
        "signing._folder",
        "signing._verify",
        "signing._data",
        "signing",
    ),
    (
        "_jax._dispatch",
        "_jax._guarding",
        "_jax._caching",
        "_jax._task",
        "_jax._programs",
        "_jax._inspect",
        "_jax._budget",
        "_jax._transfer",
        "_jax._checks",
        "_jax._distributed",
        "_jax._settings",
        "_jax",
    ),
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
        "buckets",
        "buckets._sizes",
        "buckets._padding",
        "buckets._layout",
        "buckets._mask",
        "buckets._outputs",
        "buckets._samples",
        "buckets._verdict",
        "buckets._probe",
        "buckets._refused",
    ),
    (
        "guard",
        "guard._policy",
        "guard._row",
        "guard._table",
        "guard._state",
        "guard._callers",
        "guard._decide",
        "guard._monitor",
        "guard._replace",
        "guard._resolve",
        "guard._options",
        "guard._audit",
        "guard._inherit",
        "guard._watch",
        "guard._scope",
    ),
    (
        "review",
        "review._admitted",
        "review._walk",
        "review._shapes",
        "review._sources",
        "review._log",
        "review._refused",
        "review._flops",
        "review._bounds",
        "review._flow",
        "review._sharding",
        "review._books",
        "review._memory",
        "review._judge",
        "review._modules",
        "review._text",
        "review._html",
        "review._records",
        "review._advice",
        "review._report",
        "review._conditions",
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
        "compile._look",
        "compile._worker",
        "compile._child",
        "compile._staff",
        "compile._crew",
        "compile._pool",
        "compile._trial",
        "compile._refusals",
        "compile._forked",
        "compile._process",
        "compile._room",
        "compile._flights",
        "compile._ledger",
        "compile._service",
        "compile._inquiry",
        "compile._admission",
    ),
    (
        "jit",
        "jit._stats",
        "jit._settings",
        "jit._background",
        "jit._miss",
        "jit._precompile",
        "jit._function",
        "jit._plain",
        "jit._evict",
        "jit._gate",
        "jit._serving",
        "jit._padding_options",
        "jit._proving",
        "jit._bucketed",
        "jit._bucket_ahead",
        "jit._safe_jit",
    ),
    (
        "export",
        "export._schema",
        "export._flat",
        "export._facts",
        "export._interface",
        "export._judge",
        "export._terms",
        "export._assemble",
        "export._specs",
        "export._save",
        "export._load",
    ),
    (
        "cache",
        "cache._entry",
        "cache._place",
        "cache._room",
        "cache._tally",
        "cache._store",
        "cache._cache",
    ),
    (
        "checkpoint",
        "checkpoint._dtypes",
        "checkpoint._tree",
        "checkpoint._leaves",
        "checkpoint._manifest",
        "checkpoint._memory",
        "checkpoint._read",
        "checkpoint._place",
        "checkpoint._like",
        "checkpoint._snapshot",
        "checkpoint._write",
        "checkpoint._pieces",
        "checkpoint._root",
        "checkpoint._verify",
        "checkpoint._directory",
        "checkpoint._pending",
        "checkpoint._save_shards",
        "checkpoint._save",
        "checkpoint._load_shards",
        "checkpoint._load",
        "checkpoint._copy",
        "checkpoint._inspect",
    ),
    ("orbax",),
    (
        "convert",
        "convert._names",
        "convert._safetensors",
        "convert._npz",
        "convert._flax",
        "convert._orbax",
    ),
    (
        "integrations",
        "integrations._problems",
        "integrations._identify",
        "integrations._places",
        "integrations._messages",
        "integrations.asgi",
        "integrations._measures",
        "integrations.prometheus",
        "integrations.opentelemetry",
    ),
    (
        "doctor",
        "doctor._sniff",
        "doctor._scan",
        "doctor._folder",
        "doctor._records",
        "doctor._checks",
        "doctor._gather",
    ),
    ("__init__",),
    (
        "demo",
        "demo._outcome",
        "demo._measure",
        "demo._digits",
        "demo._classifier",
        "demo._service",
        "demo._flood",
        "demo._inputs",
        "demo._compile_attacks",
        "demo._program_attacks",
        "demo._checkpoint_attacks",
        "demo._cache_attacks",
        "demo._export_attacks",
        "demo._attacks",
        "demo._report",
        "demo._run",
    ),
    (
        "cli",
        "cli._arguments",
        "cli._keys",
        "cli._keygen",
        "cli._sealed",
        "cli._checkpoints",
        "cli._cache",
        "cli._convert",
        "cli._review",
        "cli._doctor",
        "cli._main",
    ),
)
ORDER = {name: i for i, name in enumerate(name for row in ROWS for name in row)}

# Auditable alone: no JAX, no NumPy, nothing but the standard library.
TRUSTED_CORE = (
    "_version",
    "errors",
    "limits",
    "_file_errors",
    "_secret",
    "_files",
    "keys",
    "signing",
    "signing._canonical",
    "signing._digests",
    "signing._header",
    "signing._seal",
    "signing._origin",
    "signing._blob",
    "signing._folder",
    "signing._verify",
    "signing._data",
)
# blake3 is a digest, and absent unless it was asked for.
CORE_MAY_IMPORT = {"typing_extensions", "blake3", *sys.stdlib_module_names}

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
    "_jax._budget",
    "_jax._caching",
    "_jax._checks",
    "_jax._dispatch",
    "_jax._distributed",
    "_jax._guarding",
    "_jax._inspect",
    "_jax._programs",
    "_jax._settings",
    "_jax._task",
    "_jax._transfer",
    "compile._protocol",
    "compile._worker",
)
# The package loads what it exports when it is asked for.
# Looks its commands' modules up by name, so that `--help` needs no JAX.
# A worker and its confinement load what may be absent, or must come late.
MAY_IMPORT_BY_NAME = (
    "__init__",
    "cli._main",
    "cli._convert",
    "cli._doctor",
    "cli._review",
    "compile._confine",
    "compile._look",
    "compile._worker",
)
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


# What the package exports stands in a stub, as imports.
FILES = [PACKAGE / "__init__.pyi", *sorted(PACKAGE.rglob("*.py"))]


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
