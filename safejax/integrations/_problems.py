"""What a client is told about a request that was refused: problem details (RFC 9457).

Only what is the client's own travels: violations of its input, which hold shapes,
dtypes and counts. Texts of other errors stay here, because they name functions, files
and sizes that other callers sent.
"""

from __future__ import annotations

import dataclasses
import http
import json
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from safejax.errors import (
    CompileLimitError,
    CompileMemoryError,
    CompileTimeoutError,
    ContractError,
    GuardError,
    ProgramRejectedError,
    SafeJaxError,
    WorkerError,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# A caller who names the leaves of a tree chooses how long the answer would be.
_MAX_VIOLATIONS = 20
_MAX_CHARS = 200

# Seconds after which another try makes sense, where the error does not know.
_RETRY_S = 1.0

_INPUT = "The input breaks the contract of this service."
_PROGRAM = "The program that this request needs is not admitted here."
_UNPREPARED = "This service is not prepared for an input of this form."
_OFTEN = "This client needs new programs too often."
_LATER = "The program that this request needs is not ready."
_FULL = "This service can't prepare for an input of this form now."

_BY_CODE = {
    "SJ101": (422, _INPUT),
    "SJ203": (429, _OFTEN),
    "SJ204": (422, _UNPREPARED),
    "SJ207": (429, _OFTEN),
    "SJ410": (503, "There is no memory left for this request now."),
}
_BY_CLASS: tuple[tuple[type[SafeJaxError], int, str], ...] = (
    (CompileLimitError, 503, _FULL),
    (CompileTimeoutError, 503, _LATER),
    (CompileMemoryError, 403, _PROGRAM),
    (GuardError, 403, _PROGRAM),
    (ProgramRejectedError, 403, _PROGRAM),
    (WorkerError, 503, _LATER),
)
# Waiting does not make room for another program.
_NO_RETRY = ("SJ201", "SJ202", "SJ207")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A refusal as a client sees it; an ASGI application that answers with it.

    Attributes:
        status: The HTTP status.
        code: The error's code, as in ``"SJ101"``, or the reason in one word.
        detail: What is wrong, one sentence, the same for everybody.
        retry_after_s: Seconds for the header ``Retry-After``, or ``None``.
        violations: Where the input breaks its contract, at most 20.
        left_out: How many more violations there are.
        closes: Whether the connection ends, because the rest of a body is not read.

    Example:
        >>> import safejax
        >>> from safejax.integrations import asgi
        >>> asgi.problem_of(safejax.CompilePendingError(retry_after_s=0.2)).as_dict()
        {'title': 'Service Unavailable', 'status': 503, 'code': 'SJ206',
         'detail': "This service can't prepare for an input of this form now.",
         'retry_after_s': 1}
    """

    status: int
    code: str
    detail: str
    retry_after_s: float | None = None
    violations: tuple[dict[str, str], ...] = ()
    left_out: int = 0
    closes: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The members of the problem, as plain JSON-able data."""
        members: dict[str, Any] = {
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.retry_after_s is not None:
            members["retry_after_s"] = self._whole_seconds()
        if self.violations:
            members["violations"] = list(self.violations)
        if self.left_out:
            members["violations_left_out"] = self.left_out
        return members

    def closing(self) -> Problem:
        """The same, after which the connection is closed."""
        return dataclasses.replace(self, closes=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request, or closes a WebSocket that is not accepted yet."""
        del receive
        if scope["type"] == "websocket":
            # 1013: try again later; 1008: not admitted.
            code = 1013 if self.retry_after_s is not None else 1008
            await send({"type": "websocket.close", "code": code})
            return
        body = json.dumps(self.as_dict()).encode("ascii")
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self._whole_seconds()))
        if self.closes:
            headers.append((b"connection", b"close"))
        start = {"type": "http.response.start", "status": self.status}
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _whole_seconds(self) -> int:
        return max(1, math.ceil(self.retry_after_s or 0.0))


def problem_of(error: SafeJaxError) -> Problem:
    """What a client may know about an error.

    A broken contract is 422 and brings its violations. What this client does too
    often is 429; what may be better later is 503; a program that is not admitted is
    403. Everything else is 500 and says nothing.

    Args:
        error: An error of safejax.

    Example:
        >>> import safejax
        >>> from safejax.integrations import asgi
        >>> asgi.problem_of(safejax.GuardError("open() in model.py:3")).detail
        'The program that this request needs is not admitted here.'
    """
    status, detail = _status_of(error)
    retry_after_s: float | None = None
    if status in (429, 503) and error.code not in _NO_RETRY:
        known = getattr(error, "retry_after_s", None)
        retry_after_s = _RETRY_S if known is None else known
    shown, left_out = _shown(error) if status == 422 else ((), 0)
    return Problem(
        status=status,
        code=error.code if status != 500 else "internal",
        detail=detail,
        retry_after_s=retry_after_s,
        violations=shown,
        left_out=left_out,
    )


def _status_of(error: SafeJaxError) -> tuple[int, str]:
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    for kind, status, detail in _BY_CLASS:
        if isinstance(error, kind):
            return status, detail
    return 500, "The service failed."


def _shown(error: SafeJaxError) -> tuple[tuple[dict[str, str], ...], int]:
    if not isinstance(error, ContractError):
        return (), 0
    found = error.violations
    shown = tuple(
        {
            field.name: getattr(violation, field.name)[:_MAX_CHARS]
            for field in dataclasses.fields(violation)
        }
        for violation in found[:_MAX_VIOLATIONS]
    )
    return shown, len(found) - len(shown)
