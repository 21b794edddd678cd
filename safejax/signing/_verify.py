"""Any signed file checked, whatever its kind, without reading what it holds.

For processes that have no JAX and need none: what fetches, mirrors or admits files.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from safejax._file_errors import FormatError
from safejax._files import open_to_read
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._blob import verified_chunks
from safejax.signing._header import parse_header
from safejax.signing._seal import (
    key_of,
    purpose_of,
    read_unverified,
    verify_header,
)

# Enough for tables; what nobody has verified gets little room.
UNVERIFIED: Final = LoadLimits(max_header_bytes=16 << 20, max_leaves=100_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignedFile:
    """What a signed file says of itself.

    Attributes:
        kind: What it is for: ``"checkpoint"``, ``"program"``, ``"data"`` and others.
        key_id: The key that signed it, or is said to have.
        verified: Whether its signature was checked. If not, nothing here can be relied
            on.
        fields: The texts that were signed with it, such as ``context`` and ``step``.
        data_bytes: How much data it holds.
    """

    kind: str
    key_id: str
    verified: bool
    fields: Mapping[str, str]
    data_bytes: int


def verify_file(
    path: str | os.PathLike[str],
    *,
    key: KeyRing,
    kind: str | None = None,
    limits: LoadLimits | None = None,
) -> SignedFile:
    """Checks the signature of a file and all of its data.

    Args:
        path: The file; of a checkpoint of many processes, one file of its folder.
        key: The keys that may have signed.
        kind: What it must be for; None for any kind.
        limits: How large it may be.

    Returns:
        What it says of itself. Whether it is the one you want, its ``fields`` tell.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed file, of another kind, or not one that the limits
            admit.
        StorageError: It can't be read.

    Example:
        >>> import tempfile, safejax, safejax.signing
        >>> path, ring = tempfile.mkdtemp() + "/labels", safejax.KeyRing.generate()
        >>> safejax.signed_dump(path, ["cat", "dog"], key=ring, context="labels")
        >>> safejax.signing.verify_file(path, key=ring).fields["context"]
        'labels'
    """
    within = limits or LoadLimits()
    with open_to_read(Path(path)) as (fd, known):
        raw = read_unverified(fd, known, within)
        purpose = purpose_of(raw)
        signed = verify_header(raw, known.st_size, key, purpose, within)
        if kind not in (None, purpose):
            raise FormatError(
                f"a signed file of kind {purpose!r}, expected {kind!r}",
                details={"expected": kind, "got": purpose},
            )
        for _ in verified_chunks(fd, signed):
            pass
    return SignedFile(
        kind=purpose,
        key_id=signed.key_id,
        verified=True,
        fields=MappingProxyType(dict(signed.header.fields)),
        data_bytes=signed.header.data_bytes,
    )


def look_at(path: Path, ring: KeyRing | None) -> SignedFile:
    """What the header of a file says, verified where there is a ring.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed file, or its header is too long.
        StorageError: It can't be read.
    """
    with open_to_read(path) as (fd, known):
        raw = read_unverified(fd, known, UNVERIFIED)
    purpose = purpose_of(raw)
    header = (
        parse_header(raw, UNVERIFIED)
        if ring is None
        else verify_header(raw, known.st_size, ring, purpose, UNVERIFIED).header
    )
    return SignedFile(
        kind=purpose,
        key_id=key_of(raw),
        verified=ring is not None,
        fields=header.fields,
        data_bytes=header.data_bytes,
    )


def kind_of(path: Path) -> str:
    """What a file says that it is for; whether it is true, its signature tells.

    Raises:
        FormatError: It is no signed file.
        StorageError: It can't be read.
    """
    with open_to_read(path) as (fd, known):
        return purpose_of(read_unverified(fd, known, LoadLimits()))


SignedFile.__module__ = verify_file.__module__ = "safejax.signing"
