"""The `safejax` command: what it prints, and the status it ends with."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable

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
    assert all(name in printed for name in _main._COMMANDS)


def test_every_command_of_the_table_has_a_module_that_runs_it():
    for command in _main._COMMANDS.values():
        assert callable(_main.importlib.import_module(command.module).run)


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
