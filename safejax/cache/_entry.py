"""One entry of the compile cache: an executable and what it is good for, signed.

The MAC covers the executable together with every fact that decides whether it may be
loaded. An entry is good in one place only: under the name that these facts make.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from safejax._file_errors import FormatError
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._blob import seal, unseal
from safejax.signing._canonical import encode

PURPOSE: Final = "compile-cache"

# What was compiled elsewhere, or by another version, has another name.
_VERSION: Final = "1"
_FACTS: Final = (
    "program", "jax", "jaxlib", "xla", "platform", "device_kind", "options"
)  # fmt: skip
_FIELDS: Final = ("entry", *_FACTS, "name", "created", "compile_ms", "tried")
_INT: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_HEADER_BYTES: Final = 8 << 20
_SHOWN: Final = re.compile(r"[^A-Za-z0-9_.<>-]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of one cached program, without its bytes.

    Attributes:
        facts: What decides whether it may be loaded, as texts by name.
        name: Name of its module, for people.
        created: When it was compiled, in milliseconds since 1970.
        compile_ms: How long XLA took, in milliseconds.
        tried: Whether some process has loaded it; one that was not can crash.
    """

    facts: Mapping[str, str]
    name: str
    created: int
    compile_ms: int
    tried: bool

    @property
    def key(self) -> str:
        """The name under which it is good."""
        return key_of(self.facts)

    def as_json(self) -> dict[str, Any]:
        """The entry as plain data."""
        return {**dataclasses.asdict(self), "facts": dict(self.facts)}


def key_of(facts: Mapping[str, str]) -> str:
    """The name of the entry with these facts."""
    text = encode([_VERSION, *(facts[name] for name in _FACTS)])
    return hashlib.sha256(text).hexdigest()


def shown(name: str) -> str:
    """The name of a module, fit for a line of text."""
    return _SHOWN.sub("?", name.removeprefix("jit_"))[:80]


def pack(entry: Entry, executable: bytes, ring: KeyRing) -> bytes:
    """The signed file of an entry.

    Raises:
        SigningKeyError: The ring can't sign.
    """
    fields = {
        "entry": _VERSION,
        **{name: entry.facts[name] for name in _FACTS},
        "name": shown(entry.name),
        "created": str(entry.created),
        "compile_ms": str(entry.compile_ms),
        "tried": "yes" if entry.tried else "no",
    }
    return seal(executable, purpose=PURPOSE, ring=ring, fields=fields)


def unpack(data: bytes, ring: KeyRing) -> tuple[Entry, bytes]:
    """The entry and the executable of :func:`pack`, once they are verified.

    Raises:
        SignatureError: The bytes do not verify.
        FormatError: They are no signed file, or no entry of this version.
    """
    limits = LoadLimits(max_header_bytes=_HEADER_BYTES)
    executable, fields = unseal(data, purpose=PURPOSE, ring=ring, limits=limits)
    return entry_of(fields), executable


def entry_of(fields: Mapping[str, str]) -> Entry:
    """The entry that the verified fields of a signed file with ``PURPOSE`` describe.

    Raises:
        FormatError: They are not those of this version.
    """
    if (
        tuple(fields) != _FIELDS
        or fields["entry"] != _VERSION
        or fields["tried"] not in ("yes", "no")
        or not all(_INT.fullmatch(fields[name]) for name in ("created", "compile_ms"))
    ):
        raise FormatError("the entry of the compile cache is of another version")
    return Entry(
        facts={name: fields[name] for name in _FACTS},
        name=fields["name"],
        created=int(fields["created"]),
        compile_ms=int(fields["compile_ms"]),
        tried=fields["tried"] == "yes",
    )
