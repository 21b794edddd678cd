"""What the pool and its workers say to each other: frames with a length, never pickle.

The worker loads this file by its path, so it imports the standard library only.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from collections.abc import Mapping, Sequence

VERSION = 1
MAX_HELLO_BYTES = 16 << 10
MAX_ERROR_BYTES = 8 << 10

_MAGIC = b"SJXC"
_HEADER = struct.Struct("<4sHHQ")  # magic, version, kind, bytes that follow
_REQUEST = struct.Struct("<QQII")  # id, memory limit, devices, bytes of options
_ANSWER = struct.Struct("<QdQ")  # id, seconds, peak resident bytes

# What a worker tries at its start, and must fail at where it is confined.
PROBES = ("open", "write", "socket", "exec", "ptrace", "signal")
# Measures that must be in force besides.
MEASURES = ("no_new_privs", "rlimits", "undumpable", "landlock", "seccomp")


class ProtocolError(Exception):
    """The other side sent what no worker of ours would send."""


class Kind(enum.IntEnum):
    """What a frame holds."""

    HELLO = 1
    COMPILE = 2
    EXECUTABLE = 3
    ERROR = 4
    LOAD = 5


# What each side accepts, and how long it may be, without the body's own header.
def answer_limits(max_bytes: int) -> dict[Kind, int]:
    """What the pool takes from a worker: the longest body of each kind."""
    return {
        Kind.HELLO: MAX_HELLO_BYTES,
        Kind.EXECUTABLE: _ANSWER.size + max_bytes,
        Kind.ERROR: _ANSWER.size + MAX_ERROR_BYTES,
    }


def request_limits(max_bytes: int) -> dict[Kind, int]:
    """What a worker takes from the pool."""
    return {Kind.COMPILE: max_bytes, Kind.LOAD: max_bytes}


def unconfined(report: Mapping[str, bool | str]) -> list[str]:
    """What a worker with this report could do, or lacks; empty if it is confined."""
    allowed = [name for name in PROBES if report.get(name) != "denied"]
    missing = [name for name in MEASURES if report.get(name) is not True]
    return allowed + missing


@dataclasses.dataclass(frozen=True, slots=True)
class Hello:
    """What a worker says of itself once it can compile."""

    jaxlib: str
    pid: int
    confinement: Mapping[str, bool | str]

    @property
    def unconfined(self) -> list[str]:
        """What the worker could do, or lacks, that a confined one could not."""
        return unconfined(self.confinement)


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """One program to compile, or an executable to load, as it travels."""

    id: int
    module: bytes
    options: bytes
    devices: tuple[int, ...]
    memory_bytes: int  # 0: no limit
    is_trial: bool = False  # of loading an executable, which ``module`` then is


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a worker made of an order."""

    id: int
    ok: bool
    payload: bytes
    seconds: float
    peak_bytes: int


def frame(kind: Kind, *parts: bytes) -> list[bytes]:
    """The buffers to write, in order; large parts are not copied."""
    length = sum(map(len, parts))
    return [_HEADER.pack(_MAGIC, VERSION, kind, length), *parts]


class FrameReader:
    """Takes bytes as they come and gives whole frames.

    It never holds more than was received, whatever length a header claims.

    Args:
        limits: The kinds of frame to accept, each with its greatest length.
    """

    def __init__(self, limits: Mapping[Kind, int]) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._head: tuple[Kind, int] | None = None

    @property
    def midway(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer) or self._head is not None

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        """The frames that ``data`` completes.

        Raises:
            ProtocolError: For a wrong header, an unexpected kind, or one too long.
        """
        self._buffer += data
        frames = []
        while (got := self._next()) is not None:
            frames.append(got)
        return frames

    def _next(self) -> tuple[Kind, bytes] | None:
        if self._head is None:
            if len(self._buffer) < _HEADER.size:
                return None
            self._head = self._parse(bytes(self._buffer[: _HEADER.size]))
            del self._buffer[: _HEADER.size]
        kind, length = self._head
        if len(self._buffer) < length:
            return None
        with memoryview(self._buffer) as view:
            body = bytes(view[:length])
        del self._buffer[:length]
        self._head = None
        return kind, body

    def _parse(self, header: bytes) -> tuple[Kind, int]:
        magic, version, number, length = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise ProtocolError("a frame does not begin as frames do")
        if version != VERSION:
            raise ProtocolError(f"protocol version {version}, expected {VERSION}")
        kind = next((kind for kind in self._limits if kind == number), None)
        if kind is None:
            raise ProtocolError(f"unexpected kind of frame, number {number}")
        if length > self._limits[kind]:
            limit = self._limits[kind]
            raise ProtocolError(f"a frame of {length} bytes, limit {limit}")
        return kind, length


def hello_frame(hello: Hello) -> list[bytes]:
    """A worker's first frame."""
    return frame(Kind.HELLO, json.dumps(dataclasses.asdict(hello)).encode())


def parse_hello(body: bytes) -> Hello:
    """Reads a worker's first frame.

    Raises:
        ProtocolError: Where it is anything but what :func:`hello_frame` writes.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError("the hello is not JSON") from None
    if not isinstance(fields, dict) or set(fields) != {"jaxlib", "pid", "confinement"}:
        raise ProtocolError("the hello has other fields than expected")
    report = fields["confinement"]
    if (
        not isinstance(fields["jaxlib"], str)
        or type(fields["pid"]) is not int
        or not isinstance(report, dict)
        or not all(isinstance(value, bool | str) for value in report.values())
    ):
        raise ProtocolError("the hello has a field of the wrong type")
    return Hello(fields["jaxlib"], fields["pid"], report)


def order_length(module: bytes, options: bytes, devices: Sequence[int]) -> int:
    """How long the body of an order is."""
    return _REQUEST.size + 4 * len(devices) + len(options) + len(module)


def order_frame(order: Order) -> list[bytes]:
    """What a worker is to do."""
    ids = struct.pack(f"<{len(order.devices)}i", *order.devices)
    head = _REQUEST.pack(
        order.id, order.memory_bytes, len(order.devices), len(order.options)
    )
    kind = Kind.LOAD if order.is_trial else Kind.COMPILE
    return frame(kind, head + ids, order.options, order.module)


def parse_order(body: bytes, kind: Kind = Kind.COMPILE) -> Order:
    """Reads what :func:`order_frame` writes.

    Raises:
        ProtocolError: Where the lengths inside do not add up.
    """
    if len(body) < _REQUEST.size:
        raise ProtocolError("an order is too short")
    order_id, memory_bytes, count, options_bytes = _REQUEST.unpack_from(body)
    options_at = _REQUEST.size + 4 * count
    module_at = options_at + options_bytes
    if module_at > len(body):
        raise ProtocolError("the lengths in an order do not add up")
    devices = struct.unpack_from(f"<{count}i", body, _REQUEST.size)
    options = body[options_at:module_at]
    module = body[module_at:]
    is_trial = kind is Kind.LOAD
    return Order(order_id, module, options, devices, memory_bytes, is_trial)


def answer_frame(answer: Answer) -> list[bytes]:
    """An executable, or XLA's words, cut to what the pool takes."""
    kind = Kind.EXECUTABLE if answer.ok else Kind.ERROR
    payload = answer.payload if answer.ok else answer.payload[:MAX_ERROR_BYTES]
    head = _ANSWER.pack(answer.id, answer.seconds, answer.peak_bytes)
    return frame(kind, head, payload)


def parse_answer(kind: Kind, body: bytes) -> Answer:
    """Reads what :func:`answer_frame` writes.

    Raises:
        ProtocolError: Where it is no answer, or its numbers can't be.
    """
    if kind not in (Kind.EXECUTABLE, Kind.ERROR) or len(body) < _ANSWER.size:
        raise ProtocolError("expected an answer")
    order_id, seconds, peak_bytes = _ANSWER.unpack_from(body)
    if not 0 <= seconds < float("inf"):  # also refuses NaN
        raise ProtocolError("an answer took an impossible time")
    payload = body[_ANSWER.size :]
    return Answer(order_id, kind is Kind.EXECUTABLE, payload, seconds, peak_bytes)
