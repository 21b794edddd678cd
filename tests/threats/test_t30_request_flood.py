"""T30: one client's requests take all threads of the server; here, its share."""

from __future__ import annotations

import asyncio
import threading

import httpx
import jax
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from safejax.integrations import asgi

FLOOD = 60  # Starlette runs plain functions in 40 threads

predict = jax.jit(lambda x: x.sum())


class Server:
    """An application whose requests to ``/long`` take until ``done`` is set."""

    def __init__(self) -> None:
        self.done = threading.Event()
        routes = [Route("/long", self.long), Route("/short", self.short)]
        self.app = Starlette(routes=routes)

    def long(self, request: Request) -> JSONResponse:
        self.done.wait(60)
        return JSONResponse("late")

    def short(self, request: Request) -> JSONResponse:
        return JSONResponse(float(predict(np.ones(4, np.float32))))


async def get(app, path: str, address: str) -> int:
    transport = httpx.ASGITransport(app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return (await client.get(path)).status_code


async def under_flood(server: Server, app, patience_s: float):
    """What an honest client gets beside the flood, and what the flood gets."""
    flood = [asyncio.create_task(get(app, "/long", "192.0.2.66")) for _ in range(FLOOD)]
    await asyncio.sleep(0.1)
    try:
        async with asyncio.timeout(patience_s):
            honest = await get(app, "/short", "192.0.2.1")
    except TimeoutError:
        honest = None
    finally:
        server.done.set()
    return honest, await asyncio.gather(*flood)


def test_plain_server_keeps_an_honest_client_waiting():
    server = Server()
    honest, flood = asyncio.run(under_flood(server, server.app, 1.0))

    assert honest is None
    assert flood == [200] * FLOOD


def test_flood_gets_its_share_and_the_honest_client_an_answer():
    server = Server()
    app = asgi.SafeJaxMiddleware(server.app)
    honest, flood = asyncio.run(under_flood(server, app, 30.0))

    assert honest == 200
    assert flood.count(200) == 16
    assert flood.count(503) == FLOOD - 16


def test_rate_of_the_client_ends_a_flood_of_short_requests():
    server = Server()
    limits = asgi.RequestLimits(requests_per_s=1, request_burst=5)
    app = asgi.SafeJaxMiddleware(server.app, limits=limits)

    async def run(app):
        flood = [await get(app, "/short", "192.0.2.66") for _ in range(20)]
        return flood, await get(app, "/short", "192.0.2.1")

    assert asyncio.run(run(server.app)) == ([200] * 20, 200)
    flood, honest = asyncio.run(run(app))
    assert flood.count(200) <= 7
    assert set(flood[7:]) == {429}
    assert honest == 200
