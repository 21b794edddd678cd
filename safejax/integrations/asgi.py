"""A middleware for servers: who asks, how much, and what a refusal looks like.

It speaks ASGI alone and imports no framework: Starlette, FastAPI, Litestar, Quart and
a bare application are the same to it. It needs the event loop of ``asyncio``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from safejax.compile._rates import RateBook
from safejax.compile._tenant import tenant
from safejax.errors import SafeJaxError
from safejax.integrations._identify import (
    Identify,
    by_address,
    by_api_key,
    by_header,
    key_digest,
)
from safejax.integrations._messages import (
    Reply,
    declared,
    has_body,
    is_there,
    read_body,
    replay,
)
from safejax.integrations._places import Places
from safejax.integrations._problems import (
    App,
    Problem,
    Receive,
    Scope,
    Send,
    problem_of,
)
from safejax.limits import CompileRate, check_count, check_seconds

__all__ = [
    "Problem",
    "RequestLimits",
    "SafeJaxMiddleware",
    "by_address",
    "by_api_key",
    "by_header",
    "handle_error",
    "key_digest",
    "problem_of",
]

_NOBODY = Problem(
    status=401, code="unknown-client", detail="This request names no known client."
)
_BUSY = Problem(
    status=503,
    code="busy",
    detail="Too many requests of this client are under way, or of all together.",
    retry_after_s=1.0,
)
_TOO_OFTEN = Problem(
    status=429,
    code="too-many-requests",
    detail="This client sends requests too often.",
)
_REFUSED = Problem(
    status=429,
    code="refused-too-often",
    detail="Too many requests of this client were refused.",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """What requests may cost before the application sees them.

    Attributes:
        max_body_bytes: How large the body of a request may be, in bytes. It is read
            before the application is called, so this times ``max_concurrent`` is
            what bodies can take of the memory.
        body_timeout_s: How many seconds a body may take to arrive.
        max_concurrent: How many requests may be under way at once. A tenant may hold
            as many as are left free: alone half of them.
        max_concurrent_per_tenant: How many of them one tenant may hold at most.
        requests_per_s: How many requests a second one tenant may send in the long
            run; ``None`` for no limit.
        request_burst: How many it may send at once after a quiet time;
            ``requests_per_s`` if ``None``.
        refused_per_s: How many answers of 4xx a second one tenant may get in the long
            run, and at once; what it sends beyond them gets 429 unread. A refusal costs
            as much as an answer, so a flood of bad input is to be ended at the door.
            ``None`` for no limit.
        max_tenants: How many tenants are told apart by their rate. Further ones share
            one rate until another has been quiet long enough.

    Raises:
        TypeError: A limit has the wrong type.
        ValueError: A limit is out of range, or there is a ``request_burst`` without
            ``requests_per_s``.

    Example:
        >>> from safejax.integrations import asgi
        >>> asgi.RequestLimits(max_body_bytes=65_536).max_concurrent
        64
    """

    max_body_bytes: int = 2**20
    body_timeout_s: float = 10.0
    max_concurrent: int = 64
    max_concurrent_per_tenant: int = 16
    requests_per_s: int | None = None
    request_burst: int | None = None
    refused_per_s: int | None = None
    max_tenants: int = 10_000

    def __post_init__(self) -> None:
        owner = "RequestLimits"
        check_count(owner, "max_body_bytes", self.max_body_bytes, least=0)
        check_seconds(owner, "body_timeout_s", self.body_timeout_s)
        for name in ("max_concurrent", "max_concurrent_per_tenant", "max_tenants"):
            check_count(owner, name, getattr(self, name), least=1)
        for name in ("requests_per_s", "request_burst", "refused_per_s"):
            if getattr(self, name) is not None:
                check_count(owner, name, getattr(self, name), least=1)
        if self.request_burst is not None and self.requests_per_s is None:
            raise ValueError(
                "RequestLimits(request_burst=...) needs requests_per_s=..."
            )


class SafeJaxMiddleware:
    """Bounds requests, opens their tenant, and answers errors with problem details.

    In the order of what is cheapest: who asks, how often, how large the body says it
    is, a place among the requests under way, the body itself, and only then the
    application. In the application :func:`safejax.current_tenant` is the client.

    An error of safejax that the application raises becomes the answer that
    :func:`problem_of` names, whether the framework answered 500 first or not. Where a
    framework handles exceptions of the classes ``TypeError``, ``RuntimeError`` or
    ``Exception`` before they reach a middleware, register :func:`handle_error` for
    ``safejax.SafeJaxError`` as well. Errors that are not ours pass through.

    Args:
        app: The application.
        identify: Tells who sends a request: :func:`by_address`, :func:`by_header`,
            :func:`by_api_key`, or a function of the scope that returns a name or
            ``None``. By default the address of the connection.
        limits: What requests may cost; see :class:`RequestLimits`.

    Example:
        >>> import asyncio, safejax
        >>> from safejax.integrations import asgi
        >>> async def app(scope, receive, send):
        ...     raise safejax.CompilePendingError("not yet", retry_after_s=0.5)
        >>> async def ask(app):
        ...     sent = []
        ...     async def receive():
        ...         return {"type": "http.request"}
        ...     async def send(message):
        ...         sent.append(message)
        ...     await app({"type": "http", "headers": []}, receive, send)
        ...     return sent[0]["status"]
        >>> asyncio.run(ask(asgi.SafeJaxMiddleware(app)))
        503
    """

    def __init__(
        self,
        app: App,
        *,
        identify: Identify | None = None,
        limits: RequestLimits | None = None,
    ) -> None:
        self._app = app
        self._identify = by_address() if identify is None else identify
        self._limits = RequestLimits() if limits is None else limits
        self._places = Places(
            self._limits.max_concurrent, self._limits.max_concurrent_per_tenant
        )
        self._rates = _rates(
            self._limits, self._limits.requests_per_s, self._limits.request_burst
        )
        self._refused = _rates(self._limits, self._limits.refused_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves or refuses one request; hands anything else to the application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        name = self._identify(scope)
        refusal = _NOBODY if name is None else self._refusal(scope, name)
        if name is None or refusal is not None:
            refusal = refusal or _NOBODY
            # What is not read now must not be read later, to be thrown away.
            if self._leaves_a_body(refusal, scope, receive):
                refusal = refusal.closing()
            await refusal(scope, receive, send)
            return
        try:
            with tenant(name):
                if scope["type"] == "http":
                    status = await self._serve(scope, receive, send)
                    if self._refused is not None and 400 <= status < 500:
                        self._refused.wait_s(name)
                else:
                    await self._app(scope, receive, send)
        finally:
            self._places.give_back(name)

    def _leaves_a_body(self, refusal: Problem, scope: Scope, receive: Receive) -> bool:
        if scope["type"] != "http" or not has_body(scope):
            return False
        # To open another connection costs more than to take in what is there.
        is_small = refusal.status in (429, 503)
        return not (is_small and is_there(receive, self._limits.max_body_bytes))

    def _refusal(self, scope: Scope, name: str) -> Problem | None:
        """Refuses by what is known before the body; else a place is taken."""
        if self._rates is not None:
            wait_s = self._rates.wait_s(name)
            if wait_s is not None:
                return dataclasses.replace(_TOO_OFTEN, retry_after_s=wait_s)
        if self._refused is not None:
            wait_s = self._refused.due_s(name)
            if wait_s is not None:
                return dataclasses.replace(_REFUSED, retry_after_s=wait_s)
        refusal = declared(scope, self._limits.max_body_bytes)
        if refusal is None and not self._places.take(name):
            return _BUSY
        return refusal

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answers one request; the status, or 0 where nobody was there any more."""
        limits = self._limits
        body = await read_body(
            receive, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s
        )
        if body is None:
            return 0
        if isinstance(body, Problem):
            await body(scope, receive, send)
            return body.status
        reply = Reply(send)
        try:
            await self._app(scope, replay(body, receive), reply.send)
        except (SafeJaxError, ExceptionGroup) as error:
            ours = _own(error)
            if ours is None or reply.started:
                raise
            reply.drop()
            problem = problem_of(ours)
            await problem(scope, receive, send)
            if problem.status == 500:
                raise  # for the server's log
            return problem.status
        finally:
            await reply.release()
        return reply.status


def _rates(
    limits: RequestLimits, per_s: int | None, burst: int | None = None
) -> RateBook | None:
    if per_s is None:
        return None
    rate = CompileRate(compiles=per_s, per_s=1.0, burst=burst)
    return RateBook(tenant_rate=rate, max_tenants=limits.max_tenants)


def _own(error: Exception) -> SafeJaxError | None:
    """Our error, also where a task group has wrapped it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, SafeJaxError) else None


async def handle_error(request: Any, error: Exception) -> Problem:
    """A handler of exceptions for Starlette and FastAPI.

    ``app.add_exception_handler(safejax.SafeJaxError, asgi.handle_error)``: for
    applications that have handlers of their own for built-in classes of exceptions,
    or that use no :class:`SafeJaxMiddleware`.

    Args:
        request: The request; not looked at.
        error: The error that was raised.

    Returns:
        An answer, as these frameworks expect it.

    Raises:
        Exception: The error itself, where it is not one of safejax.

    Example:
        >>> import asyncio, safejax
        >>> from safejax.integrations import asgi
        >>> asyncio.run(asgi.handle_error(None, safejax.ContractError())).status
        422
    """
    del request
    if not isinstance(error, SafeJaxError):
        raise error
    return problem_of(error)


# The name users know them by.
for _public in (Problem, by_address, by_api_key, by_header, key_digest, problem_of):
    _public.__module__ = __name__
