"""The ``safejax`` command: it reads its arguments and hands over."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence

from safejax._version import __version__

_USAGE = 2
_INTERRUPTED = 130
_SEEDS = 2**32


@dataclasses.dataclass(frozen=True, slots=True)
class _Command:
    """A command: the module whose ``run`` does it, and what that module needs.

    Attributes:
        module: Imported when the command is asked for, so that ``--help`` and
            ``--version`` answer without JAX and without the extras.
        needs: Modules of the extras, with the names they are installed by.
    """

    module: str
    needs: Mapping[str, str]


_COMMANDS = {
    "demo": _Command("safejax.demo._run", {"rich": "rich", "sklearn": "scikit-learn"}),
}


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < _SEEDS:
        raise ValueError(text)
    return seed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="safejax",
        description="jax.jit for inputs you did not make.",
    )
    parser.add_argument("--version", action="version", version=f"safejax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a small model, attack it on plain JAX and here, compare",
        description=(
            "Trains a small classifier on handwritten digits, then plays attacks, "
            "each first against plain JAX and then against safejax. Takes about a "
            "minute. The exit status is 0 only if every attack succeeded on plain "
            "JAX and failed on safejax."
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
    return parser


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
    status: int = importlib.import_module(command.module).run(**options)
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
    try:
        return _dispatch(options.pop("command"), options)
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
