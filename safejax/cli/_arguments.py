"""The arguments of the commands about keys, checkpoints and the compile cache."""

from __future__ import annotations

import argparse
from typing import Any

_FORMATS = ("safetensors", "npz", "flax", "orbax")
_KEYS = (
    "The key comes from --key-file or --key-env, or from the variable SAFEJAX_KEY. "
    "The exit status is 1 where something does not verify, 2 for another error."
)


def _add(commands: Any, name: str, text: str, more: str = "") -> Any:
    command = commands.add_parser(name, help=text, description=f"{more}{_KEYS}")
    keys = command.add_mutually_exclusive_group()
    keys.add_argument("--key-file", metavar="FILE", help="a file of keygen's")
    keys.add_argument("--key-env", metavar="NAME", help="an environment variable")
    command.add_argument(
        "--digest",
        choices=("sha256", "blake3"),
        default="sha256",
        help="the digest that files have (default: sha256)",
    )
    return command


def add_checkpoint_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds ``keygen``, ``inspect``, ``verify``, ``resign`` and ``convert``."""
    keygen = commands.add_parser("keygen", help="make a signing key")
    keygen.add_argument(
        "-o", "--output", metavar="FILE", help="a file with mode 0600; else printed"
    )
    keygen.add_argument("--name", metavar="NAME", help="the key's name")
    keygen.add_argument("--overwrite", action="store_true", help="replace the file")

    inspect = _add(commands, "inspect", "show what a signed file says of itself")
    inspect.add_argument("path", metavar="FILE")
    inspect.add_argument("--json", dest="as_json", action="store_true")

    verify = _add(commands, "verify", "check signatures and all data")
    verify.add_argument("paths", metavar="PATH", nargs="+", help="a file or a folder")
    verify.add_argument("--context", metavar="TEXT", help="the context it must have")
    verify.add_argument("--min-step", type=int, metavar="N")

    resign = _add(
        commands,
        "resign",
        "sign again with the primary key, after a rotation",
        "Verifies with any key of the ring, then signs with its primary key. ",
    )
    resign.add_argument("paths", metavar="PATH", nargs="+", help="a file or a folder")
    _add_convert(commands)


def add_cache_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds ``cache ls``, ``cache verify`` and ``cache prune``."""
    cache = commands.add_parser("cache", help="look after a compile cache")
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    ls = _add(actions, "ls", "list the entries, those used last first")
    ls.add_argument("directory", metavar="DIR")
    ls.add_argument("--json", dest="as_json", action="store_true")

    verify = _add(actions, "verify", "check every entry, and list what is rejected")
    verify.add_argument("directory", metavar="DIR")

    prune = _add(
        actions,
        "prune",
        "remove leftovers, rejected files, and entries for room",
        "Needs no key. ",
    )
    prune.add_argument("directory", metavar="DIR")
    prune.add_argument(
        "--max-bytes",
        type=_count,
        metavar="N",
        help="remove the entries used longest ago until the others take no more",
    )
    prune.add_argument(
        "--unpin", action="store_true", help="let pinned entries be removed, too"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _add_convert(commands: Any) -> None:
    convert = _add(
        commands,
        "convert",
        "sign a checkpoint of another format, or write a plain one",
        "Reads safetensors, npz (never with pickle), Flax msgpack and Orbax. ",
    )
    convert.add_argument("source", metavar="SOURCE")
    convert.add_argument("target", metavar="TARGET")
    convert.add_argument("--from", dest="kind", choices=_FORMATS, help="if not plain")
    convert.add_argument(
        "--to",
        choices=("signed", "safetensors"),
        default="signed",
        help="safetensors: verify SOURCE, write it without a signature",
    )
    convert.add_argument(
        "--separator",
        default="",
        metavar="TEXT",
        help="split names into nested dicts here, as in '/' or '.'",
    )
    convert.add_argument("--step", type=int, metavar="N")
    convert.add_argument("--context", default="", metavar="TEXT")
    convert.add_argument("--overwrite", action="store_true", help="replace TARGET")
