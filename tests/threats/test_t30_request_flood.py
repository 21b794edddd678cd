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
        self.looked_at = 0
        routes = [
            Route("/long", self.long),
            Route("/short", self.short),
            Route("/bad", self.bad),
        ]
        self.app = Starlette(routes=routes)

    def long(self, request: Request) -> JSONResponse:
        self.done.wait(60)
        return JSONResponse("late")

    def bad(self, request: Request) -> JSONResponse:
        self.looked_at += 1
        ok = bool(np.isfinite(np.full(4096, np.nan)).all())
        return JSONResponse("bad", status_code=200 if ok else 422)

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


async def in_turn(app, path: str) -> tuple[list[int], int]:
    """What twenty requests of one client get, and then an honest one."""
    flood = [await get(app, path, "192.0.2.66") for _ in range(20)]
    return flood, await get(app, "/short", "192.0.2.1")


def test_plain_server_answers_a_flood_of_short_requests_one_by_one():
    assert asyncio.run(in_turn(Server().app, "/short")) == ([200] * 20, 200)


def test_rate_of_the_client_ends_a_flood_of_short_requests():
    limits = asgi.RequestLimits(requests_per_s=1, request_burst=5)
    app = asgi.SafeJaxMiddleware(Server().app, limits=limits)
    flood, honest = asyncio.run(in_turn(app, "/short"))

    assert flood.count(200) <= 7
    assert set(flood[7:]) == {429}
    assert honest == 200


def test_plain_server_looks_at_every_bad_input_of_a_flood():
    server = Server()
    flood, _ = asyncio.run(in_turn(server.app, "/bad"))

    assert flood == [422] * 20
    assert server.looked_at == 20


def test_client_whose_input_is_bad_again_and_again_is_refused_unheard():
    server = Server()
    limits = asgi.RequestLimits(refused_per_s=2)
    app = asgi.SafeJaxMiddleware(server.app, limits=limits)
    flood, honest = asyncio.run(in_turn(app, "/bad"))

    assert server.looked_at == flood.count(422) <= 5
    assert set(flood) == {422, 429}
    assert honest == 200
