"""The `safejax` command: what it prints, and the status it ends with."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import safejax
from safejax.cli import _main

# Runs the command with JAX out of reach; the package's own __init__ needs JAX, so an
# empty one stands in for it.
WITHOUT_JAX = """
import importlib.util, sys, types
root = importlib.util.find_spec("safejax").submodule_search_locations
package = types.ModuleType("safejax")
package.__path__ = list(root)
sys.modules.update(safejax=package, jax=None, numpy=None, rich=None, sklearn=None)
from safejax.cli._main import main
main(sys.argv[1:])
"""


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int]], None]:
    """Puts a function in the place of what `safejax demo` runs."""

    def put(run: Callable[..., int]) -> None:
        module = types.ModuleType("stand_in")
        module.run = run
        monkeypatch.setitem(sys.modules, "stand_in", module)
        command = _main._Command("stand_in", {})
        monkeypatch.setitem(_main._COMMANDS, "demo", command)

    return put


def python(code: str, *args: str, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def test_version_is_printed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        _main.main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"safejax {safejax.__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        _main.main(["--help"])

    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(name.split()[0] in printed for name in _main._COMMANDS)


def test_every_command_of_the_table_has_a_module_that_runs_it():
    for command in _main._COMMANDS.values():
        module = _main.importlib.import_module(command.module)
        assert callable(getattr(module, command.function))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["demo", "--nonsense"],
        ["demo", "extra"],
        ["demo", "--seed"],
        ["demo", "--seed", "x"],
        ["demo", "--seed", "-1"],
        ["demo", "--seed", str(2**32)],
        ["demo", "--serve", "--port", "65536"],
        ["demo", "--serve", "--port", "-1"],
    ],
    ids=" ".join,
)
def test_usage_error_ends_with_status_2_and_says_how(
    argv: list[str], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        _main.main(argv)

    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: safejax")


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_need_neither_jax_nor_the_extras(option: str):
    done = python(WITHOUT_JAX, option)

    assert (done.returncode, done.stderr) == (0, "")
    assert "safejax" in done.stdout


def test_module_runs_as_a_script():
    done = subprocess.run(
        [sys.executable, "-m", "safejax.cli._main", "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.stdout == f"safejax {safejax.__version__}\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["demo"], {"as_json": False, "seed": 0}),
        (["demo", "--json"], {"as_json": True, "seed": 0}),
        (["demo", "--seed", "7"], {"as_json": False, "seed": 7}),
    ],
)
@pytest.mark.parametrize("status", [0, 1])
def test_command_gets_its_options_and_its_status_is_returned(
    argv: list[str],
    options: dict[str, object],
    status: int,
    answer: Callable[[Callable[..., int]], None],
):
    asked = []

    def run(**given: object) -> int:
        asked.append(given)
        return status

    answer(run)

    assert _main.main(argv) == status
    assert asked == [options]


@pytest.mark.parametrize(
    ("module", "distribution"), [("rich", "rich"), ("sklearn", "scikit-learn")]
)
def test_missing_extra_is_one_sentence_with_the_command_to_run(
    module: str,
    distribution: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setitem(sys.modules, module, None)

    assert _main.main(["demo"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"safejax demo needs {distribution}: install with "
        f"`python -m pip install {distribution}`\n"
    )


def test_service_gets_its_own_options(monkeypatch: pytest.MonkeyPatch):
    asked = []
    module = types.ModuleType("stand_in")
    module.run = lambda **given: asked.append(given) or 0
    monkeypatch.setitem(sys.modules, "stand_in", module)
    command = _main._Command("stand_in", {})
    monkeypatch.setitem(_main._COMMANDS, "demo --serve", command)

    assert _main.main(["demo", "--serve"]) == 0
    argv = ["demo", "--serve", "--host", "::1", "--port", "0", "--seed", "4"]
    assert _main.main(argv) == 0
    assert asked == [
        {"host": "127.0.0.1", "port": 8000, "seed": 0},
        {"host": "::1", "port": 0, "seed": 4},
    ]


def test_service_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "uvicorn", None)

    assert _main.main(["demo", "--serve"]) == 2
    assert capsys.readouterr().err == (
        "safejax demo --serve needs uvicorn: install with "
        "`python -m pip install uvicorn`\n"
    )


def test_interruption_ends_with_status_130_and_one_line(
    answer: Callable[[Callable[..., int]], None],
    capsys: pytest.CaptureFixture[str],
):
    def run(**_: object) -> int:
        raise KeyboardInterrupt

    answer(run)

    assert _main.main(["demo"]) == 130
    assert capsys.readouterr().err == "safejax: interrupted\n"


def test_error_of_a_command_is_not_swallowed(
    answer: Callable[[Callable[..., int]], None],
):
    def run(**_: object) -> int:
        raise ZeroDivisionError

    answer(run)

    with pytest.raises(ZeroDivisionError):
        _main.main(["demo"])


def test_reader_that_leaves_early_gets_no_traceback():
    code = """
import sys, types
from safejax.cli import _main
module = types.ModuleType("stand_in")
def run(**options):
    for _ in range(100_000):
        sys.stdout.write("a line that nobody reads\\n")
    return 0
module.run = run
sys.modules["stand_in"] = module
_main._COMMANDS["demo"] = _main._Command("stand_in", {})
sys.exit(_main.main(["demo"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        complaint = process.stderr.read()

    assert process.returncode == 1
    assert complaint == ""


# --- the page about the commands ----------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


def sections() -> dict[str, set[str]]:
    """The options that the page has for each command."""
    parts = re.split(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {
        name: set(re.findall(r"`(--?[a-z][a-z-]*)`", text))
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def commands() -> dict[str, set[str]]:
    """The options that each command has, those of its actions included."""
    (action,) = [a for a in _main._parser()._actions if a.dest == "command"]
    return {
        name: options(parser) - {"-h", "--help"}
        for name, parser in action.choices.items()
    }


def options(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser and of those below it."""
    found = {option for a in parser._actions for option in a.option_strings}
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return found.union(*(options(p) for a in below for p in a.choices.values()))


def test_page_has_every_command_with_all_its_options():
    expected, listed = commands(), sections()

    assert len(expected) > 5
    assert {name: listed.get(name) for name in expected} == expected


def test_page_says_what_every_status_means():
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|", page, re.M)

    assert list(map(int, rows)) == [0, 1, _main._USAGE, _main._INTERRUPTED]
