"""What ``inspect`` and ``verify`` do with signed files that are no checkpoints."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from safejax._file_errors import FormatError
from safejax.keys import KeyRing
from safejax.signing._canonical import decode
from safejax.signing._origin import Origin, Wanted, read_origin
from safejax.signing._verify import SignedFile, kind_of, look_at, verify_file

_CHECKPOINT: Final = "checkpoint"
_WHENCE: Final = ("context", "step", "run_id", "created", "metadata", "expires")
_MOST_TEXT: Final = 2000


def other_kind(path: Path) -> bool:
    """Whether a file says that it is signed, and no checkpoint."""
    try:
        return path.is_file() and kind_of(path) != _CHECKPOINT
    except FormatError:
        return False  # for what reads checkpoints to say so


def printable(text: str) -> str:
    """Text from a file, without what would steer a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def verify(path: Path, ring: KeyRing, wanted: Wanted) -> str:
    """Verifies a file with all its data; what to say of it.

    Raises:
        SignatureError: It does not verify.
        RollbackError: It is another one than wanted.
        FormatError: It is no signed file.
        StorageError: It can't be read.
    """
    found = verify_file(path, key=ring)
    origin = _origin(found.fields)
    if origin is None:
        if wanted != Wanted(context=None):
            raise FormatError(f"a file of kind {found.kind} has no context and no step")
        return found.kind
    wanted.check(origin, found.kind)
    step = "" if origin.step is None else f", step {origin.step}"
    return f"{found.kind}, context {printable(origin.context) or '-'}{step}"


def _origin(fields: Mapping[str, str]) -> Origin | None:
    return read_origin(fields) if "context" in fields else None


def as_json(path: Path, ring: KeyRing | None) -> dict[str, Any]:
    """What a file says of itself, for machines.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed file.
        StorageError: It can't be read.
    """
    found = look_at(path, ring)
    return {
        "verified": found.verified,
        "kind": found.kind,
        "key": found.key_id,
        "data_bytes": found.data_bytes,
        **{name: _value(text) for name, text in found.fields.items()},
    }


def _value(text: str) -> Any:
    if not text.startswith(("{", "[")):
        return text
    try:
        return decode(text, "field")
    except FormatError:
        return text


def table(path: Path, ring: KeyRing | None) -> list[str]:
    """The same as lines to read.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed file.
        StorageError: It can't be read.
    """
    found = look_at(path, ring)
    rows = {
        "signature": f"verified, key {found.key_id} (the data was not read: see verify)"
        if found.verified
        else "NOT VERIFIED: no key was given. Anyone may have written this "
        f"(says: key {found.key_id})",
        "kind": found.kind,
        "data": f"{found.data_bytes:,} bytes",
        **dict(_whence(found)),
    }
    for name, text in found.fields.items():
        if name not in _WHENCE:
            value = _value(text)
            parts = value.items() if isinstance(value, dict) else [(name, value)]
            rows |= {key: _short(part) for key, part in parts}
    width = max(map(len, rows))
    lines = (f"  {printable(k):<{width}}  {printable(v)}" for k, v in rows.items())
    return [printable(str(path)), *lines]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def _whence(found: SignedFile) -> Iterator[tuple[str, str]]:
    origin = _origin(found.fields)
    if origin is None:
        return
    yield "context", origin.context or "-"
    yield "step", "-" if origin.step is None else str(origin.step)
    yield "run", origin.run_id or "-"
    yield "created", _date(origin.created)
    if origin.expires is not None:
        yield "expires", _date(origin.expires)
    yield "metadata", json.dumps(origin.metadata, ensure_ascii=False)


def _date(milliseconds: int) -> str:
    try:
        made = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms since 1970"
    return f"{made:%Y-%m-%d %H:%M:%S} UTC"
