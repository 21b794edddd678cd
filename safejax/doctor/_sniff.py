"""What runs code when it is loaded, told by its first bytes: nothing here loads it."""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final

HEAD: Final = 16 << 10  # bytes; NumPy refuses headers longer than 10,000
_DIRECTORY: Final = 1 << 20  # bytes of an archive's directory that are looked at
_MEMBERS: Final = 200  # members of an archive that are looked into
_LZMA_MEMORY: Final = 64 << 20

_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")
_FRAMED: Final = re.compile(rb"\x80[\x04\x05]\x95.{8}", re.DOTALL)
# torch.save before 1.6 began with a number of its own.
_OLD_TORCH: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLED: Final = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")
_TORCH: Final = (".pt", ".pth")
_PACKED: Final = (".gz", ".z", ".bz2", ".xz", ".lzma")
_END: Final = b"PK\x05\x06"
_END_64: Final = b"PK\x06\x06"
_SEE_64: Final = 0xFFFFFFFF
_ENTRY: Final = b"PK\x01\x02"
_LOCAL: Final = b"PK\x03\x04"
_NPY: Final = b"\x93NUMPY"
# A type in NumPy's header, not a field of that name. NumPy's own reader of headers is
# not asked: it tokenizes what it finds, and lets that module's errors out.
_OBJECT: Final = re.compile(
    rb"""(?:["']descr["']:|,)\s*["'](?:[|<>=]?O\d*|object_?)["']"""
)


def _gunzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=47).decompress(data, HEAD)


def _unxz(data: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(data, HEAD)


def _bunzip(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, HEAD)


_PACKERS: Final[tuple[tuple[bytes, Callable[[bytes], bytes]], ...]] = (
    (b"\x1f\x8b", _gunzip),
    (b"\x78\x01", _gunzip),
    (b"\x78\x5e", _gunzip),
    (b"\x78\x9c", _gunzip),
    (b"\x78\xda", _gunzip),
    (b"BZh", _bunzip),
    (b"\xfd7zXZ\x00", _unxz),
    (b"\x5d\x00\x00", _unxz),
)


def what_runs_code(file: IO[bytes], size: int, name: str) -> str:
    """What is in the file that runs code when it is loaded, or an empty string.

    Reads a bounded part of it: some kilobytes, and an archive's directory.

    Args:
        file: The file, open to be read.
        size: How long it is, in bytes.
        name: Its name, which decides where the bytes don't.
    """
    head = file.read(HEAD)
    suffixes = tuple(f".{part}" for part in name.lower().split(".")[1:])
    if head.startswith(_LOCAL):
        return _in_archive(file, size)
    if head.startswith(_NPY):
        return "an array of objects, which NumPy pickles" if _has_objects(head) else ""
    file.seek(max(0, size - 1))
    if _is_pickle(head, file.read(1), suffixes):
        return "a pickle"
    for magic, unpack in _PACKERS:
        if head.startswith(magic) and _is_pickle(
            _unpacked(unpack, head), b"", suffixes
        ):
            return "a compressed pickle"
    return ""


def _is_pickle(head: bytes, last: bytes, suffixes: tuple[str, ...]) -> bool:
    if _FRAMED.match(head) or head.startswith(_OLD_TORCH):
        return True
    named = any(suffix in _PICKLED + _TORCH for suffix in suffixes)
    if _PICKLE.match(head):
        # Protocols 2 and 3 have no more than this to tell them by: every pickle ends
        # with a full stop.
        return last == b"." or named
    # Protocols 0 and 1 are text or close to it.
    return named and last == b"." and suffixes[-1] not in _PACKED


def _unpacked(unpack: Callable[[bytes], bytes], head: bytes) -> bytes:
    try:
        return unpack(head)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return b""


def _has_objects(head: bytes) -> bool:
    return _OBJECT.search(head.partition(b"}")[0]) is not None


# --- archives -----------------------------------------------------------------------


def _in_archive(file: IO[bytes], size: int) -> str:
    """``torch.save`` and ``numpy.savez`` write ZIP archives."""
    for number, (name, at, method) in enumerate(_entries(file, size)):
        if name == b"data.pkl" or name.endswith((b"/data.pkl", b".pkl", b".pickle")):
            return "an archive with a pickle in it, as torch.save makes"
        if name.endswith(b".npy") and number < _MEMBERS:
            head = _member(file, at, method)
            if head.startswith(_NPY) and _has_objects(head):
                return "an archive with an array of objects, which NumPy pickles"
    return ""


def _entries(file: IO[bytes], size: int) -> Iterator[tuple[bytes, int, int]]:
    """Names of the members, where each begins, and how it is compressed."""
    start = max(0, size - (64 << 10) - 22)
    file.seek(start)
    tail = file.read(size - start)
    end = tail.rfind(_END)
    if end < 0 or end + 22 > len(tail):
        return
    length, at = struct.unpack_from("<II", tail, end + 12)
    large = tail.rfind(_END_64, 0, end)
    if _SEE_64 in (length, at) and large >= 0 and large + 56 <= len(tail):
        length, at = struct.unpack_from("<QQ", tail, large + 40)
    if at + length > size:
        return
    file.seek(at)
    directory = file.read(min(length, _DIRECTORY))
    place = 0
    while directory.startswith(_ENTRY, place) and place + 46 <= len(directory):
        method = struct.unpack_from("<H", directory, place + 10)[0]
        name, extra, comment = struct.unpack_from("<HHH", directory, place + 28)
        offset = struct.unpack_from("<I", directory, place + 42)[0]
        yield directory[place + 46 : place + 46 + name], offset, method
        place += 46 + name + extra + comment


def _member(file: IO[bytes], at: int, method: int) -> bytes:
    """The first bytes of a member, unpacked."""
    file.seek(at)
    local = file.read(30)
    if not local.startswith(_LOCAL) or len(local) < 30:
        return b""
    name, extra = struct.unpack_from("<HH", local, 26)
    file.seek(at + 30 + name + extra)
    data = file.read(HEAD)
    if method == 0:
        return data
    return _unpacked(
        lambda packed: zlib.decompressobj(-15).decompress(packed, HEAD), data
    )
