"""A signed file around bytes that are not arrays: programs, cache entries, JSON."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from safejax._files import open_to_read, read_exactly
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._digests import DIGEST_BYTES, chunk_bytes_for, digest_chunks
from safejax.signing._header import Header, Tensor
from safejax.signing._seal import (
    Draft,
    Signed,
    header_of,
    read_header,
    refused,
    verify_header,
)

_NAME: Final = "payload"


def seal(
    payload: bytes, *, purpose: str, ring: KeyRing, fields: Mapping[str, str]
) -> bytes:
    """The bytes of a signed file that holds the payload.

    Args:
        payload: What to sign.
        purpose: What for: :func:`unseal` must be given the same.
        ring: Its primary key signs.
        fields: Texts that are signed with it.
    """
    size = len(payload)
    chunk = chunk_bytes_for(size)
    header = Header(
        purpose=purpose,
        digest=ring.digest,
        chunk_bytes=chunk,
        digests=digest_chunks(payload, chunk, ring.digest),
        fields=fields,
        tensors={_NAME: Tensor("U8", (size,), 0, size)},
    )
    return Draft(header, ring).sign(header.digests) + payload


def unseal(
    data: bytes, *, purpose: str, ring: KeyRing, limits: LoadLimits
) -> tuple[bytes, Mapping[str, str]]:
    """The payload and the fields of :func:`seal`, once they are verified.

    Raises:
        SignatureError: The bytes do not verify for this purpose.
        FormatError: They are no signed file, or not one that the limits admit.
    """
    raw = header_of(data, limits)
    signed = verify_header(raw, len(data), ring, purpose, limits)
    header, payload = signed.header, data[signed.data_at :]
    found = digest_chunks(payload, header.chunk_bytes, header.digest)
    if tuple(header.tensors) != (_NAME,) or not hmac.compare_digest(
        found, header.digests
    ):
        raise refused()
    return payload, header.fields


def read_sealed(
    path: Path, *, purpose: str, ring: KeyRing, limits: LoadLimits
) -> tuple[bytes, Mapping[str, str]]:
    """The same of a file, of which no more is read than its signed header admits.

    Raises:
        SignatureError: The file does not verify for this purpose.
        FormatError: It is no signed file, or not one that the limits admit.
        StorageError: It can't be read.
    """
    with open_to_read(path) as (fd, known):
        signed = read_header(fd, known, ring, purpose, limits)
        if tuple(signed.header.tensors) != (_NAME,):
            raise refused()
        payload = b"".join(data for _, data in verified_chunks(fd, signed))
    return payload, signed.header.fields


def verified_chunks(fd: int, signed: Signed) -> Iterator[tuple[int, bytes]]:
    """The data of an open file, chunk by chunk, each with its place in the data.

    Raises:
        SignatureError: A chunk is not what was signed.
    """
    header = signed.header
    size = header.chunk_bytes
    for i, start in enumerate(range(0, header.data_bytes, size)):
        length = min(size, header.data_bytes - start)
        data = read_exactly(fd, signed.data_at + start, length)
        digest = header.digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]
        if data is None or not hmac.compare_digest(
            digest_chunks(data, size, header.digest), digest
        ):
            raise refused()
        yield start, data
