"""The messages of one request: its body, read with limits, and the answer to it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Generator
from typing import Any

from safejax.integrations._problems import Message, Problem, Receive, Scope, Send

TOO_LARGE = Problem(
    status=413, code="body-too-large", detail="The body is too large.", closes=True
)
TOO_SLOW = Problem(
    status=408, code="body-too-slow", detail="The body took too long.", closes=True
)
MALFORMED = Problem(
    status=400, code="malformed", detail="Content-Length is malformed.", closes=True
)

# An answer of 500 is held back so far: frameworks send it before they raise.
_MAX_HELD_BYTES = 65_536


def declared(scope: Scope, max_bytes: int) -> Problem | None:
    """Refuses by what the headers say, before a byte of the body is read."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            # int() takes signs, spaces and digits of other scripts.
            if not value.isdigit():
                return MALFORMED
            if len(value) > 20 or int(value) > max_bytes:
                return TOO_LARGE
    return None


def has_body(scope: Scope) -> bool:
    """Whether more than the headers is on its way, as far as they tell."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def read_body(
    receive: Receive, *, max_bytes: int, timeout_s: float
) -> bytes | Problem | None:
    """The whole body, or why not; ``None`` where the client has left."""
    reading = _read(receive, max_bytes)
    whole: bytes | Problem | None
    try:
        waited = reading.send(None)
    except StopIteration as done:
        # It is all there: a timer would cost as much as the rest of the middleware.
        whole = done.value
        return whole
    try:
        async with asyncio.timeout(timeout_s):
            whole = await _Begun(reading, waited)
            return whole
    except TimeoutError:
        return TOO_SLOW
    finally:
        reading.close()


class _Begun:
    """What is left of a coroutine that was run up to where it waits first."""

    __slots__ = ("_coroutine", "_waited")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waited: Any) -> None:
        self._coroutine = coroutine
        self._waited = waited

    def __await__(self) -> Generator[Any, Any, Any]:
        waited = self._waited
        while True:
            try:
                value = yield waited
            except BaseException as error:  # noqa: BLE001  it is the coroutine's
                step = functools.partial(self._coroutine.throw, error)
            else:
                step = functools.partial(self._coroutine.send, value)
            try:
                waited = step()
            except StopIteration as done:
                return done.value


async def _read(receive: Receive, max_bytes: int) -> bytes | Problem | None:
    message = await receive()
    # One array and no list of pieces: a piece of one byte would weigh fifty.
    whole = bytearray()
    while message["type"] == "http.request":
        body: bytes = message.get("body", b"")
        if len(whole) + len(body) > max_bytes:
            return TOO_LARGE
        if not message.get("more_body", False):
            return bytes(whole + body) if whole else body
        whole += body
        message = await receive()
    return None


def is_there(receive: Receive, max_bytes: int) -> bool:
    """Whether the whole body came with the headers; if so, nothing is left of it."""
    reading = _read(receive, max_bytes)
    try:
        reading.send(None)
    except StopIteration as done:
        return isinstance(done.value, bytes)
    finally:
        reading.close()
    return False


def replay(body: bytes, receive: Receive) -> Receive:
    """Hands out a body that was read already, then what the server says."""
    waiting = True

    async def replayed() -> Message:
        nonlocal waiting
        if waiting:
            waiting = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


class Reply:
    """Passes an answer on, and holds one of 500 back until its application is done.

    A framework that catches an exception answers 500 and raises it again. By then it
    would be too late to say what was wrong.
    """

    __slots__ = ("_held", "_held_bytes", "_send", "started", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self._held_bytes = 0
        self.started = False
        self.status = 0

    async def send(self, message: Message) -> None:
        """What the application gets as its ``send``."""
        if self.started:
            await self._send(message)
            return
        is_start = message["type"] == "http.response.start"
        self._held_bytes += len(message.get("body", b""))
        held = message["status"] == 500 if is_start else bool(self._held)
        if held and self._held_bytes <= _MAX_HELD_BYTES:
            self._held.append(message)
            return
        await self.release()
        if is_start:
            self.started = True
            self.status = message["status"]
        await self._send(message)

    def drop(self) -> None:
        """Forgets what is held back: something better will be said."""
        self._held.clear()

    async def release(self) -> None:
        """Sends what is held back."""
        held, self._held = self._held, []
        self.started = self.started or bool(held)
        for message in held:
            await self._send(message)
