"""NumPy's archives, never with pickle."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy

from safejax._file_errors import FormatError
from safejax._files import open_to_read
from safejax.convert._names import nested
from safejax.limits import LoadLimits

_HEADERS: Final[dict[tuple[int, int], Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
# NumPy's reader of headers lets the errors of Python's tokenizer and parser out.
_BAD: Final = (
    ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error,
    tokenize.TokenError, SyntaxError, TypeError, MemoryError,
)  # fmt: skip


def read(path: Path, limits: LoadLimits, separator: str) -> dict[str, Any]:
    """The arrays of an npz file.

    Raises:
        FormatError: It is none, holds pickled objects, or is larger than the limits
            admit, unpacked.
        StorageError: It can't be read.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    with open_to_read(path) as (fd, _), open(fd, "rb", closefd=False) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                _check(entries, limits)
                for entry in entries:
                    with archive.open(entry) as member:
                        name = entry.filename.removesuffix(".npy")
                        arrays[name] = _array(member, entry.file_size)
        except _BAD as error:
            raise FormatError(
                f"not a readable npz file: {type(error).__name__}",
                hint="objects in it need pickle, which runs code: save arrays only",
            ) from None
    return nested(arrays, separator)


def _array(member: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    """One array; no more memory is asked for than the archive says it takes."""
    shape, fortran, dtype = _HEADERS[npy.read_magic(member)](member)
    length = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or member.tell() + length != size:
        raise ValueError
    data = np.frombuffer(member.read(length), dtype, math.prod(shape))
    return data.reshape(shape, order="F" if fortran else "C")


def _check(entries: list[zipfile.ZipInfo], limits: LoadLimits) -> None:
    names = {entry.filename for entry in entries}
    if len(entries) > limits.max_leaves or len(names) != len(entries):
        raise FormatError("the archive has too many members, or one twice")
    if sum(entry.file_size for entry in entries) > limits.max_data_bytes:
        raise FormatError("the archive is larger than LoadLimits.max_data_bytes")
