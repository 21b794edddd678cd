"""JSON with one spelling: what our encoder would not write is not read.

Duplicate keys, other spaces, escapes, number formats, NaN and infinities all come out
different when they are encoded again, and so are refused by one comparison.
"""

from __future__ import annotations

import json
from typing import Any

from safejax._file_errors import FormatError

_encoder = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=True
)


def encode(value: Any) -> bytes:
    """The canonical text of plain data.

    Raises:
        FormatError: It is not plain data: a NaN, a lone surrogate, another class.
    """
    try:
        return _encoder.encode(value).encode()
    except (TypeError, ValueError, RecursionError):
        raise FormatError(
            "not plain data: only dict, list, str, int, finite float, bool and None"
        ) from None


def decode(text: bytes | str, what: str) -> Any:
    """Reads what :func:`encode` writes; ``what`` is for the error.

    Raises:
        FormatError: It is not what the encoder would write for any value.
    """
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    try:
        value = json.loads(raw.decode())
        same = _encoder.encode(value).encode() == raw
    except (ValueError, RecursionError):
        same = False
        value = None
    if not same:
        raise FormatError(f"the {what} is not canonical JSON")
    return value
