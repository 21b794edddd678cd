"""``safejax inspect``, ``verify`` and ``resign``."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from safejax.checkpoint._copy import resign
from safejax.checkpoint._inspect import Inspection, inspect_path
from safejax.checkpoint._read import Progress
from safejax.checkpoint._root import is_folder_checkpoint
from safejax.checkpoint._verify import verify_path
from safejax.cli import _sealed
from safejax.cli._keys import find_ring, need_ring
from safejax.cli._sealed import printable
from safejax.errors import SafeJaxError
from safejax.keys import Digest, KeyRing
from safejax.limits import LoadLimits
from safejax.signing._origin import Wanted

_REFUSED = 1
_USAGE = 2
_BAR = 30


def bar(label: str) -> Progress | None:
    """A bar on the standard error; None where nobody watches it."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        filled = _BAR * done // max(total, 1)
        end = "\n" if done >= total else "\r"
        percent = 100 * done // max(total, 1)
        line = f"{label} [{'#' * filled:<{_BAR}}] {percent:3d} %"
        print(line, end=end, file=sys.stderr, flush=True)

    return show


def run_inspect(
    *,
    path: str,
    as_json: bool,
    key_file: str | None,
    key_env: str | None,
    digest: Digest,
) -> int:
    """Prints what a signed file says of itself.

    Returns:
        The exit status: 0, 1 where it does not verify, 2 where it can't be read.
    """
    place = Path(path)
    try:
        ring = find_ring(key_file, key_env, digest)
        if _sealed.other_kind(place):
            text = json.dumps(_sealed.as_json(place, ring)) if as_json else ""
            print(text or "\n".join(_sealed.table(place, ring)))
            return 0
        found = inspect_path(place, ring)
    except SafeJaxError as error:
        return _failed("inspect", path, error)
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        print("\n".join(_table(path, found)))
    return 0


def _table(path: str, found: Inspection) -> list[str]:
    origin = found.content.origin
    made = dt.datetime.fromtimestamp(origin.created / 1000, dt.UTC)
    total = sum(leaf.stored for leaf in found.leaves.values())
    head = [
        printable(path),
        "  signature  "
        + (
            f"verified, key {found.key_id} (the data was not read: see verify)"
            if found.verified
            else f"NOT VERIFIED: no key was given. Anyone may have written this "
            f"(says: key {found.key_id})"
        ),
        f"  context    {printable(origin.context) or '-'}",
        f"  step       {'-' if origin.step is None else origin.step}",
        f"  run        {printable(origin.run_id) or '-'}",
        f"  created    {made:%Y-%m-%d %H:%M:%S} UTC",
        f"  metadata   {printable(json.dumps(origin.metadata))}",
        f"  leaves     {len(found.leaves)}, {total:,} bytes",
        "",
    ]
    width = min(60, max((len(name) for name in found.leaves), default=0))
    return head + [
        f"  {printable(name):<{width}}  {found.leaves[name].describe():<24}  "
        f"{found.leaves[name].stored:>14,}"
        for name in found.content.names
    ]


def run_verify(
    *,
    paths: Sequence[str],
    context: str | None,
    min_step: int | None,
    key_file: str | None,
    key_env: str | None,
    digest: Digest,
) -> int:
    """Verifies signed files with all their data.

    Returns:
        The exit status: 0 if all verify, 1 if one does not, 2 for another error.
    """
    try:
        ring = need_ring(key_file, key_env, digest)
    except SafeJaxError as error:
        return _failed("verify", "", error)
    wanted = Wanted(context=context, min_step=min_step)
    status = 0
    for path in _expand(paths):
        try:
            what = _verified(path, ring, wanted)
        except SafeJaxError as error:
            status = max(status, _failed("verify", str(path), error))
            continue
        print(f"{printable(str(path))}: verified, {what}")
    return status


def _verified(path: Path, ring: KeyRing, wanted: Wanted) -> str:
    if _sealed.other_kind(path):
        return _sealed.verify(path, ring, wanted)
    origin = verify_path(path, ring, LoadLimits(), progress=bar(path.name)).origin
    wanted.check(origin)
    step = "" if origin.step is None else f", step {origin.step}"
    return f"context {printable(origin.context) or '-'}{step}"


def _expand(paths: Sequence[str]) -> list[Path]:
    """Files and checkpoint folders as they are; of other folders, what is in them."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir() and not is_folder_checkpoint(path):
            inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            found.extend(p for p in inside if p.is_file() or is_folder_checkpoint(p))
        else:
            found.append(path)
    return found


def run_resign(
    *,
    paths: Sequence[str],
    key_file: str | None,
    key_env: str | None,
    digest: Digest,
) -> int:
    """Verifies checkpoints and signs them with the ring's primary key.

    Returns:
        The exit status: 0 if all were signed, 1 if one does not verify, 2 for another
        error.
    """
    try:
        ring = need_ring(key_file, key_env, digest)
    except SafeJaxError as error:
        return _failed("resign", "", error)
    status = 0
    for path in _expand(paths):
        try:
            resign(path, ring)
        except SafeJaxError as error:
            status = max(status, _failed("resign", str(path), error))
            continue
        print(f"{printable(str(path))}: signed by {ring.primary.id}")
    return status


def _failed(command: str, path: str, error: SafeJaxError) -> int:
    where = f"{printable(path)}: " if path else ""
    print(f"safejax {command}: {where}{printable_lines(str(error))}", file=sys.stderr)
    return _USAGE if error.code in ("SJ504", "SJ505") else _REFUSED


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))
