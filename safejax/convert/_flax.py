"""Flax's msgpack files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flax import serialization

from safejax._file_errors import FormatError
from safejax._files import read_small
from safejax.limits import LoadLimits


def read(path: Path, limits: LoadLimits, separator: str) -> Any:
    """The tree of a msgpack file that Flax wrote.

    Raises:
        FormatError: It is none.
        StorageError: It can't be read, or is larger than the limits admit.
    """
    del separator  # it has a tree already
    data, _ = read_small(path, min(limits.max_data_bytes, 1 << 40))
    try:
        return serialization.msgpack_restore(data)
    except Exception as error:  # noqa: BLE001  msgpack has several of its own
        raise FormatError(
            f"not a msgpack file of Flax's: {type(error).__name__}"
        ) from None
