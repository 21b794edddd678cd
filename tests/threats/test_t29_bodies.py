"""T29: bodies without end, in size or in time, are cut off before they are parsed."""

from __future__ import annotations

import asyncio

import httpx
import jax
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from safejax.integrations import asgi

PIECE = b"\0" * 65_536
PIECES = 256  # 16 MiB

predict = jax.jit(lambda x: x.sum())


async def endpoint(request: Request) -> JSONResponse:
    x = np.frombuffer(await request.body(), np.float32)
    return JSONResponse(float(predict(x)))


PLAIN = Starlette(routes=[Route("/", endpoint, methods=["POST"])])


def safe(**limits):
    return asgi.SafeJaxMiddleware(PLAIN, limits=asgi.RequestLimits(**limits))


async def post(app, content) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/", content=content)


class Endless:
    """Pieces without a length; counts what the server has asked for."""

    def __init__(self) -> None:
        self.taken = 0

    async def __aiter__(self):
        for _ in range(PIECES):
            self.taken += 1
            yield PIECE


def test_plain_server_takes_whatever_comes():
    sent = Endless()
    response = asyncio.run(post(PLAIN, sent))

    assert response.status_code == 200
    assert sent.taken == PIECES


def test_body_beyond_the_limit_is_refused_after_the_limit():
    sent = Endless()
    response = asyncio.run(post(safe(max_body_bytes=2**20), sent))

    assert response.status_code == 413
    assert sent.taken <= 2**20 // len(PIECE) + 1


def test_small_body_is_served():
    response = asyncio.run(post(safe(), np.ones(4, np.float32).tobytes()))

    assert (response.status_code, response.json()) == (200, 4.0)


async def drops():
    while True:
        yield b"\0\0\0\0"
        await asyncio.sleep(0.01)


def test_plain_server_waits_for_a_slow_body_as_long_as_the_attacker_likes():
    async def run():
        await asyncio.wait_for(post(PLAIN, drops()), timeout=1.0)

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_slow_body_ends_at_its_time():
    async def run():
        app = safe(body_timeout_s=0.1)
        return await asyncio.wait_for(post(app, drops()), timeout=30.0)

    assert asyncio.run(run()).status_code == 408
