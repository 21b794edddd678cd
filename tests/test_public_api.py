"""What `safejax` exports: these names, documented with examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import json
import pickle
import re
from pathlib import Path

import pytest

import safejax

PUBLIC = {
    "CacheStats",
    "CompileCache",
    "CompileLimitError",
    "CompileMemoryError",
    "CompilePendingError",
    "CompileRate",
    "CompileTimeoutError",
    "ContractError",
    "Event",
    "FormatError",
    "GuardError",
    "Key",
    "KeyRing",
    "Limits",
    "LoadLimits",
    "PendingSave",
    "Policy",
    "Precompiled",
    "ProcessLimits",
    "ProcessStats",
    "ProgramRejectedError",
    "ProgramReport",
    "RollbackError",
    "SafeJaxError",
    "SafeJitFunction",
    "SignatureError",
    "SigningKeyError",
    "Spec",
    "Stats",
    "StorageError",
    "Violation",
    "WorkerError",
    "__version__",
    "compile_cache",
    "compile_status",
    "current_tenant",
    "freeze",
    "guard",
    "jit",
    "latest",
    "on_event",
    "powers_of_two",
    "precompile",
    "process_stats",
    "safe_jit",
    "set_compile_workers",
    "set_process_limits",
    "signed_dump",
    "signed_export",
    "signed_import",
    "signed_load",
    "signed_save",
    "signed_save_async",
    "spec",
    "tenant",
    "unsafe_unfreeze",
}
PACKAGE = Path(safejax.__file__ or "").parent
DOCUMENTED = sorted(PUBLIC - {"__version__"})
ERRORS = [
    value
    for value in (getattr(safejax, name) for name in DOCUMENTED)
    if isinstance(value, type) and issubclass(value, safejax.SafeJaxError)
]


def test_all_lists_the_public_names_in_order():
    assert set(safejax.__all__) == PUBLIC
    assert list(safejax.__all__) == sorted(safejax.__all__)


def test_stub_and_package_export_the_same():
    stub = (PACKAGE / "__init__.pyi").read_text(encoding="utf-8")
    imports = re.findall(r"^from (\S+) import (\w+) as (\w+)$", stub, re.MULTILINE)
    listed = ast.literal_eval(stub.partition("__all__ = ")[2])

    assert listed == safejax.__all__
    assert {name for _, _, name in imports} == PUBLIC
    for module, name, exported in imports:
        found = getattr(importlib.import_module(module), name)
        assert getattr(safejax, exported) is found, exported


def test_unknown_name_is_an_attribute_error_that_proposes_another():
    with pytest.raises(AttributeError, match="has no attribute 'gaurd'") as info:
        _ = safejax.gaurd  # type: ignore[attr-defined]

    assert (info.value.name, info.value.obj) == ("gaurd", safejax)
    assert "guard" in dir(safejax)


def test_every_other_name_of_the_package_is_private_or_a_module():
    loose = {
        name
        for name, value in vars(safejax).items()
        if not name.startswith("_")
        and name not in PUBLIC
        and not inspect.ismodule(value)
        and name != "annotations"
    }

    assert loose == set()


def test_version_is_that_of_the_distribution():
    assert safejax.__version__.count(".") == 2
    try:
        installed = importlib.metadata.version("safejax")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("safejax is imported from a checkout")
    assert safejax.__version__ == installed


def test_jit_is_another_name_of_safe_jit():
    assert safejax.jit is safejax.safe_jit


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_name_has_a_docstring_with_an_example(name: str):
    doc = inspect.getdoc(getattr(safejax, name)) or ""

    assert "Example:" in doc
    assert ">>> " in doc.partition("Example:")[2]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_example_of_public_name_runs(name: str):
    value = getattr(safejax, name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(value, name, module=False, globs={})
    runner.run(example)

    assert runner.tries > 0
    assert runner.failures == 0


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_name_says_where_to_import_it_from(name: str):
    """A traceback or a repr must not send its reader into a private module."""
    module = getattr(safejax, name).__module__

    assert module.partition(".")[0] == "safejax"
    assert not any(part.startswith("_") for part in module.split("."))


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_callable_takes_options_by_keyword_only(name: str):
    value = getattr(safejax, name)
    records = (Exception, safejax.Violation, safejax.SafeJitFunction)
    if isinstance(value, type) and any(base in value.__mro__ for base in records):
        pytest.skip("errors take a message; the others are records and a protocol")
    by_position = [
        parameter
        for parameter in inspect.signature(value).parameters.values()
        if parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]

    # A path and what is saved there are no options, nor are the ends of a range.
    saves = ("signed_dump", "signed_export", "signed_save", "signed_save_async")
    assert len(by_position) <= (2 if name in (*saves, "powers_of_two") else 1)


@pytest.mark.parametrize("error", ERRORS)
def test_error_is_a_safejax_error_and_a_builtin_kind(error: type[Exception]):
    assert issubclass(error, safejax.SafeJaxError)
    if error is not safejax.SafeJaxError:
        builtins = [base for base in error.__mro__ if base.__module__ == "builtins"]
        assert builtins[0] is not Exception


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", ERRORS)
def test_error_survives_a_pickle_round_trip(error: type, protocol: int):
    bare = error()
    full = error(
        lambda: "f() refused",
        code="SJ999",
        details=lambda: {"limit": 8},
        hint=lambda: "do this",
    )
    full.add_note("while serving")
    for given in (bare, full):
        copy = pickle.loads(pickle.dumps(given, protocol))

        assert type(copy) is error
        assert str(copy) == str(given)
        assert (copy.code, copy.details, copy.hint) == (
            given.code,
            given.details,
            given.hint,
        )
        assert getattr(copy, "__notes__", None) == getattr(given, "__notes__", None)


def test_violations_survive_a_pickle_round_trip():
    found = (safejax.Violation("x", "shape", "(b, 3)", "(2, 4)", "b=2 comes from y"),)
    copy = pickle.loads(pickle.dumps(safejax.ContractError("no", violations=found)))

    assert copy.violations == found
    assert json.loads(json.dumps(copy.details))["violations"][0]["path"] == "x"


def test_retry_after_survives_a_pickle_round_trip():
    error = safejax.CompileLimitError("no", retry_after_s=1.5)

    assert pickle.loads(pickle.dumps(error)).retry_after_s == 1.5
