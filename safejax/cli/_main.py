"""The ``safejax`` command: it reads its arguments and hands over."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from safejax._version import __version__
from safejax.cli._arguments import add_cache_commands, add_checkpoint_commands

_USAGE = 2
_INTERRUPTED = 130
_SEEDS = 2**32
_PORTS = 2**16


@dataclasses.dataclass(frozen=True, slots=True)
class _Command:
    """A command: the module and the function that do it, and what they need.

    Attributes:
        module: Imported when the command is asked for, so that ``--help`` and
            ``--version`` answer without JAX and without the extras.
        needs: Modules of the extras, with the names they are installed by.
        function: In that module; takes the options by keyword.
    """

    module: str
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    function: str = "run"


_COMMANDS = {
    "demo": _Command(
        "safejax.demo._run",
        {"flatbuffers": "flatbuffers", "rich": "rich", "sklearn": "scikit-learn"},
    ),
    "demo --serve": _Command(
        "safejax.demo._service",
        {
            "prometheus_client": "prometheus-client",
            "sklearn": "scikit-learn",
            "starlette": "starlette",
            "uvicorn": "uvicorn",
        },
    ),
    "review": _Command("safejax.cli._review", {"jax": "jax"}),
    "keygen": _Command("safejax.cli._keygen"),
    "inspect": _Command("safejax.cli._checkpoints", function="run_inspect"),
    "verify": _Command("safejax.cli._checkpoints", function="run_verify"),
    "resign": _Command("safejax.cli._checkpoints", function="run_resign"),
    "convert": _Command("safejax.cli._convert"),
    "doctor": _Command("safejax.cli._doctor", {"jax": "jax"}),
    "cache": _Command("safejax.cli._cache", {"jax": "jax"}),
}


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < _SEEDS:
        raise ValueError(text)
    return seed


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < _PORTS:
        raise ValueError(text)
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="safejax",
        description="jax.jit for inputs you did not make.",
    )
    parser.add_argument("--version", action="version", version=f"safejax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_review(commands)
    add_checkpoint_commands(commands)
    _add_doctor(commands)
    add_cache_commands(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="train a small model, attack it on plain JAX and here, compare",
        description=(
            "Trains a small classifier on handwritten digits, then plays attacks, "
            "each first against plain JAX and then against safejax. Takes some "
            "minutes. The exit status is 0 only if every attack succeeded on plain "
            "JAX and failed on safejax. With --serve, starts a web service with a page "
            "to draw digits on, until Ctrl-C."
        ),
    )
    demo.add_argument(
        "--json",
        dest="as_json",
        action="store_true",
        help="print one JSON document instead of the table",
    )
    demo.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="seed of the model and of the data's split (default: 0)",
    )
    demo.add_argument(
        "--serve", action="store_true", help="serve the model, with a page to draw on"
    )
    demo.add_argument(
        "--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1)"
    )
    demo.add_argument(
        "--port",
        type=_port,
        default=8000,
        metavar="N",
        help="port to serve at, 0 for a free one (default: 8000)",
    )


def _add_review(commands: Any) -> None:
    review = commands.add_parser(
        "review",
        help="say what the program of a function would cost, without compiling it",
        description=(
            "Imports a module, which runs its code, traces one of its functions with "
            "arrays of the given types, and reports on the program: memory at the "
            "peak, operations, loops, and what a strict policy would refuse. The "
            "exit status is 0 if nothing is refused, 1 if something is, 2 after a "
            "usage error."
        ),
    )
    review.add_argument(
        "target", metavar="MODULE:FUNCTION", help="the function, as in model:predict"
    )
    review.add_argument(
        "--spec",
        dest="specs",
        action="append",
        default=[],
        metavar="NAME=TYPE",
        help="an argument, as in 'x=f32[8,64]' or 'params[w]=f32[64,3]'; repeat it",
    )
    review.add_argument("--html", metavar="FILE", help="write a page with a plot")
    review.add_argument(
        "--json",
        dest="as_json",
        action="store_true",
        help="print one JSON document instead of the table",
    )


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="find what makes safejax worth less here",
        description=(
            "Examines versions, what safejax relies on in JAX, the confinement of "
            "compile workers, settings that give something away, and files that run "
            "code when they are loaded. Nothing it finds is loaded. The exit status is "
            "0 if there is no problem, 1 if there is one, 2 after a usage error."
        ),
    )
    doctor.add_argument(
        "paths", metavar="PATH", nargs="*", help="a file or a folder to look through"
    )
    doctor.add_argument(
        "--import",
        dest="module",
        metavar="MODULE",
        help="import a module first, which runs its code and sets JAX up as it does",
    )
    doctor.add_argument(
        "--json",
        dest="as_json",
        action="store_true",
        help="print one JSON document instead of the table",
    )
    doctor.add_argument(
        "--strict", action="store_true", help="count warnings as problems"
    )


def _missing(command: _Command) -> list[str]:
    return [
        distribution
        for module, distribution in command.needs.items()
        if importlib.util.find_spec(module) is None
    ]


def _dispatch(name: str, options: Mapping[str, object]) -> int:
    command = _COMMANDS[name]
    missing = _missing(command)
    if missing:
        print(
            f"safejax {name} needs {' and '.join(missing)}: install with "
            f"`python -m pip install {' '.join(missing)}`",
            file=sys.stderr,
        )
        return _USAGE
    # The one import at run time: the table above names a module for each command.
    function = getattr(importlib.import_module(command.module), command.function)
    status: int = function(**options)
    sys.stdout.flush()
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the ``safejax`` command.

    Args:
        argv: The arguments after the command's name; those of the process if absent.

    Returns:
        The exit status: what the command returns, 2 where it lacks a package, 130
        where it was interrupted.

    Raises:
        SystemExit: With status 0 after ``--help`` and ``--version``, with 2 after a
            usage error.
    """
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    if command == "demo":
        # Two commands in one: each takes its own options.
        served = options.pop("serve")
        for name in ("as_json",) if served else ("host", "port"):
            del options[name]
        command = "demo --serve" if served else command
    try:
        return _dispatch(command, options)
    except KeyboardInterrupt:
        print("safejax: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left. Nothing more may be written to it, not
        # even when the interpreter flushes it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
