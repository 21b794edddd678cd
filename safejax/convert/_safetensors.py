"""Plain safetensors files, read strictly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from safejax._file_errors import FormatError
from safejax._files import open_to_read, read_exactly, read_into
from safejax.checkpoint._dtypes import DTYPES, NATIVE
from safejax.convert._names import nested
from safejax.limits import LoadLimits
from safejax.signing._header import DTYPE_BYTES, LENGTH_BYTES, Tensor

_ENTRY: Final = ("dtype", "shape", "data_offsets")
_MOST_AXES: Final = 64
_NAMES: Final = {code: name for name, code in NATIVE.items()}


def read(path: Path, limits: LoadLimits, separator: str) -> dict[str, Any]:
    """The arrays of a safetensors file.

    Raises:
        FormatError: It is none, or not one that the limits admit.
        StorageError: It can't be read.
    """
    with open_to_read(path) as (fd, known):
        head = read_exactly(fd, 0, min(LENGTH_BYTES, known.st_size)) or b""
        length = int.from_bytes(head, "little")
        if len(head) < LENGTH_BYTES or length > known.st_size - LENGTH_BYTES:
            raise FormatError("not a safetensors file, or cut off")
        if length > limits.max_header_bytes:
            raise FormatError("the header is longer than LoadLimits.max_header_bytes")
        tensors = _tensors(read_exactly(fd, LENGTH_BYTES, length) or b"", limits)
        size = max((tensor.end for tensor in tensors.values()), default=0)
        if LENGTH_BYTES + length + size != known.st_size:
            raise FormatError("the arrays and the file are not of one length")
        if size > limits.max_data_bytes:
            raise FormatError("the file is larger than LoadLimits.max_data_bytes")
        arrays = {}
        for name, tensor in tensors.items():
            array = np.empty(tensor.shape, DTYPES[_NAMES[tensor.dtype]])
            view = array.reshape(-1).view(np.uint8).data
            if not read_into(fd, LENGTH_BYTES + length + tensor.start, [view]):
                raise FormatError("not a safetensors file, or cut off")
            arrays[name] = array
    return nested(arrays, separator)


def _tensors(header: bytes, limits: LoadLimits) -> dict[str, Tensor]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        document = json.loads(header.decode(), object_pairs_hook=unique)
        document.pop("__metadata__", None)
        entries = sorted(
            document.items(), key=lambda entry: tuple(entry[1]["data_offsets"])
        )
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        raise FormatError("the header is no safetensors header") from None
    if len(entries) > limits.max_leaves:
        raise FormatError("the file has more arrays than LoadLimits.max_leaves")
    tensors, end = {}, 0
    for name, entry in entries:
        ordered = {key: entry[key] for key in _ENTRY if key in entry}
        tensor = _tensor(ordered) if len(ordered) == len(entry) else None
        if tensor is None or tensor.start != end:
            raise FormatError(f"array {name!r} is malformed, or of an unknown dtype")
        tensors[name], end = tensor, tensor.end
    return tensors


def _tensor(entry: Any) -> Tensor | None:
    """An entry of a header; None for a malformed one."""
    if type(entry) is not dict or tuple(entry) != _ENTRY:
        return None
    dtype, shape, offsets = entry.values()
    if type(dtype) is not str or dtype not in DTYPE_BYTES:
        return None
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        return None
    start, end = offsets
    if end - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        return None
    return Tensor(dtype, tuple(shape), start, end)


def _is_sizes(value: object) -> bool:
    if type(value) is not list or len(value) > _MOST_AXES:
        return False
    for number in value:
        if type(number) is not int or not 0 <= number < (1 << 63):
            return False
    return True
