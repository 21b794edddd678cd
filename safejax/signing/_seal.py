"""The signature of a file: made last, and verified before anything is parsed.

The MAC covers every byte of the header but itself, the header's length and the file's.
The header holds the digests of all data. So one comparison decides over the whole file.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
import re
from typing import Final

from safejax._file_errors import FormatError, SignatureError
from safejax._files import read_exactly
from safejax.keys import MAX_ID, KeyRing
from safejax.limits import LoadLimits
from safejax.signing._digests import DIGEST_BYTES, count_chunks
from safejax.signing._header import (
    LENGTH_BYTES,
    MAC_AT,
    MAC_CHARS,
    VERSION,
    Header,
    encode_header,
    parse_header,
)

_START: Final = b'{"__metadata__":{"safejax":"1","key":"'
_TO_MAC: Final = b'","mac":"'
_AFTER_MAC: Final = b'","purpose":"'
PREAMBLE_BYTES: Final = MAC_AT + MAC_CHARS + len(_AFTER_MAC)

_DIGESTS: Final = b',"digests":"'
_DOMAIN: Final = b"safejax-signed-file-v1\0"
_PURPOSE: Final = re.compile(rb'([a-z][a-z0-9-]{0,31})","')
_KEY_FIELD: Final = re.compile(rb"[A-Za-z0-9._-]{1,32} *")

FAILED: Final = "signature verification failed"
_FAILED_HINT: Final = (
    "the file was changed or damaged, or it was not signed by a key of this ring for "
    "this purpose; do not use it"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Signed:
    """A verified header.

    Attributes:
        header: What it says.
        key_id: The key that signed it.
        mac: The MAC itself, by which another file can name this one.
        data_at: Where the data begins in the file.
    """

    header: Header
    key_id: str
    mac: str
    data_at: int


def refused() -> SignatureError:
    """The one error for everything that does not verify."""
    return SignatureError(FAILED, hint=_FAILED_HINT)


class Draft:
    """A header whose length is known, and whose digests and MAC are not yet.

    Args:
        header: What it says; its digests are ignored.
        ring: Its primary key will sign.

    Raises:
        FormatError: A name or a text can't be written.
        SigningKeyError: The ring can't sign.
    """

    def __init__(self, header: Header, ring: KeyRing) -> None:
        self._key = ring.primary
        self._purpose, self._data_bytes = header.purpose, header.data_bytes
        count = count_chunks(header.data_bytes, header.chunk_bytes)
        blank = dataclasses.replace(header, digests=bytes(DIGEST_BYTES * count))
        self._body = bytearray(encode_header(blank, self._key.id))
        # Only our own purpose stands before: the first is the field.
        self._digests_at = self._body.index(_DIGESTS) + len(_DIGESTS)
        self._digest_bytes = len(blank.digests)

    @property
    def data_at(self) -> int:
        """Where the data begins in the file."""
        return LENGTH_BYTES + len(self._body)

    @property
    def mac(self) -> str:
        """The MAC, once it was signed."""
        return self._body[MAC_AT : MAC_AT + MAC_CHARS].decode()

    def sign(self, digests: bytes) -> bytes:
        """The bytes that stand before the data.

        Raises:
            ValueError: There are too many or too few digests.
        """
        if len(digests) != self._digest_bytes:
            raise ValueError("the digests are not those of the announced data")
        end = self._digests_at + 2 * len(digests)
        self._body[self._digests_at : end] = digests.hex().encode()
        self._body[MAC_AT : MAC_AT + MAC_CHARS] = b"0" * MAC_CHARS
        length = len(self._body).to_bytes(LENGTH_BYTES, "little")
        size = self.data_at + self._data_bytes
        mac = self._key.mac(self._purpose, (_prefix(length, size), self._body))
        self._body[MAC_AT : MAC_AT + MAC_CHARS] = mac.hex().encode()
        return length + bytes(self._body)


def _prefix(length: bytes, size: int) -> bytes:
    return _DOMAIN + length + size.to_bytes(LENGTH_BYTES, "little")


# --- reading ----------------------------------------------------------------------


def read_header(
    fd: int, known: os.stat_result, ring: KeyRing, purpose: str, limits: LoadLimits
) -> Signed:
    """Verifies the header of an open file, and only then parses it.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed file, or not one that the limits admit.
    """
    raw = read_unverified(fd, known, limits)
    return verify_header(raw, known.st_size, ring, purpose, limits)


def read_unverified(fd: int, known: os.stat_result, limits: LoadLimits) -> bytes:
    """The bytes of the header with its length before it; nothing is known of them.

    Raises:
        FormatError: The file can't be a signed one, or its header is too long.
    """
    head = read_exactly(fd, 0, min(LENGTH_BYTES + PREAMBLE_BYTES, known.st_size)) or b""
    length = _span(head, known.st_size, limits)
    rest = read_exactly(fd, len(head), LENGTH_BYTES + length - len(head))
    if rest is None:
        raise _no_signed_file()
    return head + rest


def header_of(data: bytes, limits: LoadLimits) -> bytes:
    """The same of a file that is in memory.

    Raises:
        FormatError: As for :func:`read_unverified`.
    """
    return data[: LENGTH_BYTES + _span(data, len(data), limits)]


def _span(head: bytes, size: int, limits: LoadLimits) -> int:
    """How long the header is, once it looks like one of ours."""
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    if len(head) < LENGTH_BYTES + PREAMBLE_BYTES:
        raise _no_signed_file()
    _preamble(head)
    if not PREAMBLE_BYTES <= length <= size - LENGTH_BYTES:
        raise _no_signed_file()
    if length > limits.max_header_bytes:
        raise FormatError(
            f"the header has {length} bytes, more than "
            f"LoadLimits.max_header_bytes={limits.max_header_bytes}"
        )
    return length


def _no_signed_file() -> FormatError:
    return FormatError(
        f"not a signed file of format version {VERSION}, or cut off",
        hint="`safejax convert` signs a checkpoint of another format",
    )


def _preamble(raw: bytes) -> tuple[str, bytes]:
    """Key name and MAC, from their fixed places.

    Raises:
        FormatError: The fixed text around them is another.
    """
    body = raw[LENGTH_BYTES : LENGTH_BYTES + PREAMBLE_BYTES]
    key_field = body[len(_START) : len(_START) + MAX_ID]
    mac = body[MAC_AT : MAC_AT + MAC_CHARS]
    around = body[: len(_START)], body[MAC_AT - len(_TO_MAC) : MAC_AT]
    after = body[MAC_AT + MAC_CHARS :]
    if (*around, after) != (_START, _TO_MAC, _AFTER_MAC):
        raise _no_signed_file()
    if not _KEY_FIELD.fullmatch(key_field):
        raise refused()
    return key_field.decode().rstrip(), mac


def key_of(raw: bytes) -> str:
    """The name of the key that is said to have signed a header.

    Raises:
        FormatError: It is no header of ours.
    """
    return _preamble(raw)[0]


def purpose_of(raw: bytes) -> str:
    """What a header says that its file is for; whether it is true, its MAC tells.

    Raises:
        FormatError: It is no header of ours.
    """
    _preamble(raw)
    found = _PURPOSE.match(raw, LENGTH_BYTES + PREAMBLE_BYTES)
    if found is None:
        raise _no_signed_file()
    return found[1].decode()


def verify_header(
    raw: bytes, size: int, ring: KeyRing, purpose: str, limits: LoadLimits
) -> Signed:
    """Checks the MAC of a header, then reads it.

    Args:
        raw: The header with its length before it.
        size: How long the whole file is.
        ring: The keys that may have signed it.
        purpose: What the file must be for.
        limits: What it may contain.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed file, or not one that the ring or limits admit.
    """
    key_id, mac = _preamble(raw)
    key = ring.find(key_id)
    if key is None:
        raise refused()
    view = memoryview(raw)
    at = LENGTH_BYTES + MAC_AT
    parts = (
        _prefix(raw[:LENGTH_BYTES], size),
        view[LENGTH_BYTES:at],
        b"0" * MAC_CHARS,
        view[at + MAC_CHARS :],
    )
    if not hmac.compare_digest(key.mac(purpose, parts).hex().encode(), mac):
        raise refused()
    header = parse_header(raw, limits)
    if header.purpose != purpose or len(raw) + header.data_bytes != size:
        raise refused()
    if header.digest != ring.digest:
        raise FormatError(
            f"the file has {header.digest} digests, the ring admits {ring.digest}",
            hint=f"KeyRing(..., digest={header.digest!r}), if that is what you signed",
        )
    return Signed(header, key_id, mac.decode(), len(raw))
