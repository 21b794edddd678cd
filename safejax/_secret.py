"""Bytes that never show, what is derived from them, and the text they are kept in.

The secret stands in an object whose representation is empty, and in no local variable
of a function that can raise: trackers print the variables of each frame.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, NoReturn

from typing_extensions import override

from safejax._file_errors import SigningKeyError

MIN_KEY_BYTES: Final = 32
HINT: Final = "make one with `safejax keygen`, or KeyRing.generate()"

_MAX_KEY_BYTES: Final = 4096
_LEAST_DISTINCT: Final = 8
_SALT: Final = b"safejax/1"
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2})+")
_ROLES: Final = (b"primary", b"verify")


class Secret:
    """Bytes that no representation shows."""

    __slots__ = ("_bytes",)

    def __init__(self, value: bytes) -> None:
        self._bytes = value

    def reveal(self) -> bytes:
        """The bytes. Use them in an expression; do not give them a name."""
        return self._bytes

    @override
    def __repr__(self) -> str:
        return "<secret>"

    @override
    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError("a secret can't be pickled or copied")


def derive(secret: Secret, purpose: str) -> Secret:
    """32 bytes by HKDF-SHA256 (RFC 5869): extract, then the first block of expand."""
    return Secret(
        hmac.digest(
            hmac.digest(_SALT, secret.reveal(), "sha256"),
            purpose.encode() + b"\x01",
            "sha256",
        )
    )


def fault_of(secret: object) -> str:
    """Why this is no key, or an empty string."""
    if not isinstance(secret, bytes):
        return f"must be bytes, got {type(secret).__name__}"
    if not MIN_KEY_BYTES <= len(secret) <= _MAX_KEY_BYTES:
        return f"must have {MIN_KEY_BYTES} to {_MAX_KEY_BYTES} bytes, got {len(secret)}"
    if len(set(secret)) < _LEAST_DISTINCT:
        return "repeats a few bytes; it must be random"
    return ""


class Line(NamedTuple):
    """One key of a key file; a revoked one has no secret."""

    id: str | None
    role: str
    secret: Secret | None


def read_lines(text: Secret, source: str) -> Iterator[Line]:
    """The keys of a key file's text; ``source`` is for the error.

    Raises:
        SigningKeyError: A line is malformed.
    """
    for number, raw in enumerate(_split(text), 1):
        words = _words(raw)
        line = _line(words)
        if line is not None:
            yield line
        elif words:
            raise SigningKeyError(
                f"{source}, line {number}: expected `NAME primary HEX`, "
                "`NAME verify HEX`, `NAME revoked`, or HEX alone",
                hint=HINT,
            )


def _split(text: Secret) -> list[Secret]:
    return [Secret(line) for line in text.reveal().splitlines()]


def _words(line: Secret) -> list[Secret]:
    return [Secret(word) for word in line.reveal().partition(b"#")[0].split()]


def _line(words: list[Secret]) -> Line | None:
    if len(words) == 1:
        key = _from_hex(words[0])
        return Line(None, "primary", key) if key else None
    if len(words) == 2 and words[1].reveal() == b"revoked":
        return Line(words[0].reveal().decode("ascii", "replace"), "revoked", None)
    if len(words) == 3 and words[1].reveal() in _ROLES:
        key = _from_hex(words[2])
        name = words[0].reveal().decode("ascii", "replace")
        return Line(name, words[1].reveal().decode(), key) if key else None
    return None


def _from_hex(word: Secret) -> Secret | None:
    if not _HEX.fullmatch(word.reveal()):
        return None
    return Secret(bytes.fromhex(word.reveal().decode()))
