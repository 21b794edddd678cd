"""``safejax cache ls``, ``verify`` and ``prune``."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterator
from typing import Any, Literal

from safejax._file_errors import FormatError, SignatureError, StorageError
from safejax.cache import _room
from safejax.cache._entry import Entry, unpack
from safejax.cache._place import Found, Place, UnfitError, open_place
from safejax.cli._keys import find_ring, need_ring
from safejax.cli._sealed import printable
from safejax.errors import SafeJaxError
from safejax.keys import Digest, KeyRing

_REFUSED = 1
_USAGE = 2
_MOST_BYTES = 2**40


def run(
    *,
    action: Literal["ls", "verify", "prune"],
    directory: str,
    key_file: str | None,
    key_env: str | None,
    digest: Digest,
    **options: Any,
) -> int:
    """Does what one of the three commands says.

    Returns:
        The exit status: 0, 1 where an entry does not verify, 2 for another error.
    """
    try:
        place = open_place(directory, create=False)
        if action == "prune":
            return _prune(place, **options)
        if action == "verify":
            return _verify(place, need_ring(key_file, key_env, digest))
        return _list(place, find_ring(key_file, key_env, digest), **options)
    except SafeJaxError as error:
        text = "\n".join(map(printable, str(error).split("\n")))
        print(f"safejax cache {action}: {text}", file=sys.stderr)
        return _USAGE


def _checked(place: Place, ring: KeyRing | None) -> Iterator[tuple[Found, Any]]:
    """Each entry, newest use first, with what it says or why it is not genuine."""
    found = sorted(place.entries(), key=lambda entry: entry.used, reverse=True)
    for one in found:
        yield one, None if ring is None else _entry(place, one, ring)


def _entry(place: Place, found: Found, ring: KeyRing) -> Entry | str:
    try:
        data = place.read(found.key, _MOST_BYTES)
        if data is None:
            return "removed"
        entry = unpack(data, ring)[0]
    except UnfitError as error:
        return error.reason
    except SignatureError:
        return "signature"
    except FormatError:
        return "format"
    return entry if entry.key == found.key else "mismatch"


def _list(place: Place, ring: KeyRing | None, *, as_json: bool) -> int:
    rows = list(_checked(place, ring))
    if as_json:
        print(json.dumps([_plain(*row) for row in rows]))
    else:
        for found, entry in rows:
            print(_line(found, entry))
        total = sum(found.size for found, _ in rows)
        print(f"{len(rows)} entries, {total:,} bytes")
        if ring is None:
            print("not verified: no key was given")
    return _REFUSED if any(isinstance(entry, str) for _, entry in rows) else 0


def _plain(found: Found, entry: Entry | str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {**found._asdict(), "verified": isinstance(entry, Entry)}
    if isinstance(entry, Entry):
        return {**facts, **entry.as_json()}
    return {**facts, "rejected": entry}


def _line(found: Found, entry: Entry | str | None) -> str:
    used = dt.datetime.fromtimestamp(found.used, dt.UTC)
    pin = "pinned" if found.pinned else ""
    line = f"{found.key[:16]}  {found.size:>12,}  {used:%Y-%m-%d %H:%M}  {pin:6}"
    if isinstance(entry, Entry):
        facts = entry.facts
        line += (
            f"  {entry.name:<24}  {entry.compile_ms / 1e3:8.2f} s  "
            f"{facts['platform']}  jax {facts['jax']}"
        )
    elif entry is not None:
        line += f"  REJECTED: {entry}"
    return printable(line).rstrip()


def _verify(place: Place, ring: KeyRing) -> int:
    good, bad = 0, 0
    for found, entry in _checked(place, ring):
        if isinstance(entry, str):
            print(f"{found.key}: rejected: {entry}")
            bad += 1
        else:
            good += 1
    print(f"{good} entries verified, {bad} rejected")
    return _REFUSED if bad else 0


def _prune(place: Place, *, max_bytes: int | None, unpin: bool) -> int:
    if unpin:
        count = sum(
            place.pin(found.key, pinned=False)
            for found in list(place.entries())
            if found.pinned
        )
        print(f"{count} entries are no longer pinned")
    try:
        leftovers = _room.clean(place)
        removed = 0 if max_bytes is None else _room.shrink(place, max_bytes)
    except UnfitError as error:
        why = {
            "full": "what is pinned does not fit; see --unpin",
            "busy": "another process is writing",
        }[error.reason]
        raise StorageError(f"can't prune {place.path}: {why}") from None
    except OSError as error:
        raise StorageError(f"can't prune {place.path}: {error.strerror}") from error
    print(f"{removed} entries and {leftovers} other files removed")
    return 0
