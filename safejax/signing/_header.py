"""The header of a signed file: what it says, and its bytes.

A signed file is a safetensors file whose header is canonical JSON. It begins with the
name of the key and the MAC, at fixed places, so that the MAC is found without a parser.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Final, NamedTuple

from safejax._file_errors import FormatError
from safejax.keys import DIGESTS, MAX_ID
from safejax.limits import LoadLimits
from safejax.signing._canonical import decode, encode
from safejax.signing._digests import DIGEST_BYTES, MAX_CHUNK, MIN_CHUNK, count_chunks

VERSION: Final = "1"
LENGTH_BYTES: Final = 8
ALIGNMENT: Final = 64

# Where the MAC stands in the header: the fields before it have fixed lengths.
MAC_AT: Final = 47 + MAX_ID
MAC_CHARS: Final = 64
_FIELDS: Final = ("safejax", "key", "mac", "purpose", "digest", "chunk", "digests")
_OPENING: Final = '{"__metadata__":'
_NUMBER: Final = r"(?:0|[1-9][0-9]{0,18})"
_ENTRY: Final = re.compile(
    r',"([^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*)":\{'
    r'"dtype":"([A-Z0-9_]+)",'
    rf'"shape":\[((?:{_NUMBER}(?:,{_NUMBER})*)?)\],'
    rf'"data_offsets":\[({_NUMBER}),({_NUMBER})\]\}}'
)
_GROUPS: Final = 1 + _ENTRY.groups
_decoder = json.JSONDecoder()
_MOST_AXES: Final = 64
_INT: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_HEX: Final = re.compile(r"[0-9a-f]*")

# The types of safetensors, with their size in bytes.
DTYPE_BYTES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8,
    "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 8, "F8_E4M3": 1,
    "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
}  # fmt: skip


class Tensor(NamedTuple):
    """Where one array lies in the data, and how safetensors describes it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a signed file says of itself.

    Attributes:
        purpose: What the file is for; a file for another purpose does not verify.
        digest: Algorithm of the digests.
        chunk_bytes: How much data each digest covers.
        digests: All digests, one after the other.
        fields: Texts, for whoever uses the file; their order is kept.
        tensors: The arrays, in the order of their data, without gaps.
    """

    purpose: str
    digest: str
    chunk_bytes: int
    digests: bytes
    fields: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    @property
    def data_bytes(self) -> int:
        """How much data follows the header."""
        return max((t.end for t in self.tensors.values()), default=0)


def encode_header(header: Header, key_id: str) -> bytes:
    """The header with its padding, and zeros where the MAC will stand.

    Raises:
        FormatError: A name or a text can't be written.
    """
    metadata = {
        "safejax": VERSION,
        "key": key_id.ljust(MAX_ID),
        "mac": "0" * MAC_CHARS,
        "purpose": header.purpose,
        "digest": header.digest,
        "chunk": str(header.chunk_bytes),
        "digests": header.digests.hex(),
        **header.fields,
    }
    entries: list[str] = []
    middles: dict[tuple[str, tuple[int, ...]], str] = {}
    for name, (dtype, shape, start, end) in header.tensors.items():
        middle = middles.get((dtype, shape))
        if middle is None:
            axes = ",".join(map(str, shape))
            middle = f':{{"dtype":"{dtype}","shape":[{axes}],"data_offsets":['
            middles[dtype, shape] = middle
        entries.append(f",{encode_basestring(name)}{middle}{start},{end}]}}")
    try:
        text = f"{_OPENING}{encode(metadata).decode()}{''.join(entries)}}}".encode()
    except UnicodeEncodeError:
        raise FormatError("the name of an array is no Unicode text") from None
    return text + b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)


def parse_header(raw: bytes, limits: LoadLimits) -> Header:
    """Reads a header strictly. Verify it first.

    Raises:
        FormatError: It is not what :func:`sign_header` writes.
    """
    text = raw[LENGTH_BYTES:].rstrip(b" ")
    if len(raw) != LENGTH_BYTES + len(text) + (-(LENGTH_BYTES + len(text)) % ALIGNMENT):
        raise FormatError("the header is not padded as it must be")
    metadata, tensors = _parts(text)
    if len(tensors) > limits.max_leaves:
        raise FormatError(
            f"the file has {len(tensors)} arrays, more than "
            f"LoadLimits.max_leaves={limits.max_leaves}"
        )
    data_bytes = max((t.end for t in tensors.values()), default=0)
    if data_bytes > limits.max_data_bytes:
        raise FormatError(
            f"the file has {data_bytes} bytes of data, more than "
            f"LoadLimits.max_data_bytes={limits.max_data_bytes}"
        )
    chunk = metadata["chunk"]
    digests = metadata["digests"]
    if (
        metadata["digest"] not in DIGESTS
        or not _INT.fullmatch(chunk)
        or not MIN_CHUNK <= int(chunk) <= MAX_CHUNK
        or not _HEX.fullmatch(digests)
        or len(digests) != 2 * DIGEST_BYTES * count_chunks(data_bytes, int(chunk))
    ):
        raise FormatError("the digests of the file are malformed")
    return Header(
        purpose=metadata["purpose"],
        digest=metadata["digest"],
        chunk_bytes=int(chunk),
        digests=bytes.fromhex(digests),
        fields={k: v for k, v in metadata.items() if k not in _FIELDS},
        tensors=tensors,
    )


def _parts(raw: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the arrays, of canonical text only."""
    try:
        text = raw.decode()
        metadata, end = _decoder.raw_decode(text, len(_OPENING))
    except (ValueError, RecursionError):
        raise FormatError("the header is not canonical JSON") from None
    if _OPENING + encode(metadata).decode() != text[:end]:
        raise FormatError("the header is not canonical JSON")
    if (
        type(metadata) is not dict
        or not all(type(value) is str for value in metadata.values())
        or tuple(metadata)[: len(_FIELDS)] != _FIELDS
    ):
        raise FormatError("the header lacks a field")
    return metadata, _tensors(text, end)


def _tensors(text: str, at: int) -> dict[str, Tensor]:
    """The entries of all arrays, from where the metadata ends.

    One expression admits an entry as we write it, and nothing else; between entries
    nothing may stand. It takes a third of the time of a JSON parser, and leaves no room
    for another reading. Columns, because 20,000 tuples more would have Python look for
    garbage all the while.
    """
    parts = _ENTRY.split(text[at:])
    names, dtypes, axes, starts, ends = (parts[i::_GROUPS] for i in range(1, _GROUPS))
    if parts.pop() != "}" or any(parts[::_GROUPS]):
        raise _malformed()
    known = {kind: _kind(*kind) for kind in set(zip(dtypes, axes, strict=True))}
    found = [known[kind] for kind in zip(dtypes, axes, strict=True)]
    offsets = list(itertools.accumulate((size for *_, size in found), initial=0))
    # Both are texts of the one form that a number has.
    if starts != ["0", *ends][:-1] or offsets[1:] != list(map(int, ends)):
        raise _malformed()
    if text.find("\\", at) >= 0:
        names = [decode(f'"{name}"', "name of an array") for name in names]
    rows = zip(names, found, offsets[:-1], strict=True)
    tensors = {
        name: Tensor(dtype, shape, start, start + size)
        for name, (dtype, shape, size), start in rows
    }
    if len(tensors) != len(names):
        raise _malformed()
    return tensors


def _malformed() -> FormatError:
    return FormatError("an array of the header is malformed, or stands twice")


def _kind(dtype: str, axes: str) -> tuple[str, tuple[int, ...], int]:
    """What arrays of one dtype and shape have in common, with their length in bytes."""
    shape = tuple(map(int, axes.split(","))) if axes else ()
    if len(shape) > _MOST_AXES:
        raise FormatError("an array of the header has too many axes")
    if dtype not in DTYPE_BYTES:
        raise _malformed()
    return dtype, shape, math.prod(shape) * DTYPE_BYTES[dtype]
