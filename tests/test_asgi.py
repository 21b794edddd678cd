"""The ASGI middleware: what it refuses, what a refusal says, what it lets through."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator

import fastapi
import httpx
import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

import safejax
from safejax.integrations import asgi
from safejax.integrations._places import Places

SECRET = "hunter2"  # not a credential: the word that must never be seen


@safejax.safe_jit(contract={"x": safejax.spec("f32[b<=8, 3]", finite=True)})
def total(x):
    return x.sum(axis=1)


def raising(error: BaseException):
    async def app(scope, receive, send):
        raise error

    return app


async def echo(scope, receive, send):
    """Answers with who is served and what the body was."""
    message = await receive()
    body = json.dumps([safejax.current_tenant(), len(message["body"])]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def protected(app=echo, identify=None, **limits):
    return asgi.SafeJaxMiddleware(
        app, identify=identify, limits=asgi.RequestLimits(**limits)
    )


async def fetch(app, method="POST", path="/", **options) -> httpx.Response:
    address = options.pop("client", ("192.0.2.1", 1))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=address)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


def ask(app, **options) -> httpx.Response:
    return asyncio.run(fetch(app, **options))


def problem(response: httpx.Response) -> dict:
    """The body of an answer that must be a problem and not be cached."""
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    found = response.json()
    assert found["status"] == response.status_code
    return found


# --- what errors become


def refused_call(x) -> safejax.ContractError:
    with pytest.raises(safejax.ContractError) as caught:
        total(x)
    return caught.value


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (safejax.ContractError(), 422, None),
        (safejax.CompileLimitError(code="SJ201"), 503, None),
        (safejax.CompileLimitError(code="SJ202"), 503, None),
        (safejax.CompileLimitError(code="SJ203", retry_after_s=2.1), 429, "3"),
        (safejax.CompileLimitError(code="SJ204"), 422, None),
        (safejax.CompileLimitError(code="SJ205", retry_after_s=0.1), 503, "1"),
        (safejax.CompilePendingError(retry_after_s=0.5), 503, "1"),
        (safejax.CompileLimitError(code="SJ207"), 429, None),
        (safejax.CompileLimitError(code="SJ208"), 503, "1"),
        (safejax.CompileLimitError(code="SJ209", retry_after_s=1.0), 503, "1"),
        (safejax.CompileTimeoutError(), 503, "1"),
        (safejax.CompileMemoryError(), 403, None),
        (safejax.WorkerError(), 503, "1"),
        (safejax.GuardError(), 403, None),
        (safejax.ProgramRejectedError(code="SJ401"), 403, None),
        (safejax.ProgramRejectedError(code="SJ407"), 403, None),
        (safejax.ProgramRejectedError(code="SJ410"), 503, "1"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_error_becomes_a_problem(error, status, retry):
    response = ask(protected(raising(error)))

    assert response.status_code == status
    assert response.headers.get("retry-after") == retry
    assert problem(response)["code"] == error.code


@pytest.mark.parametrize(
    "error",
    [
        safejax.ContractError(SECRET, code="SJ102"),
        safejax.SignatureError(SECRET),
        safejax.SigningKeyError(SECRET),
        safejax.StorageError(SECRET),
        safejax.SafeJaxError(SECRET, code="SJ001"),
    ],
    ids=lambda value: value.code,
)
def test_every_other_error_of_ours_is_500_without_text_and_reaches_the_log(error):
    app = protected(raising(error))
    transport = httpx.ASGITransport(app)

    async def raised():
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as c:
            with pytest.raises(safejax.SafeJaxError) as caught:
                await c.get("/")
        return caught.value

    assert asyncio.run(raised()) is error
    response = ask(app)
    assert response.status_code == 500
    assert problem(response)["code"] == "internal"
    assert SECRET not in response.text
    assert error.code not in response.text


def test_broken_contract_lists_its_violations_and_no_values():
    bad = np.full((2, 3), 7531, np.float32)
    bad[0, 0] = np.nan
    response = ask(protected(raising(refused_call(bad))))

    assert problem(response)["violations"] == [
        {
            "path": "x",
            "rule": "value",
            "expected": "finite",
            "got": "1 of 6 that is not",
            "note": "",
        }
    ]
    assert "7531" not in response.text
    assert "total" not in response.text


def test_answer_stays_short_whatever_the_caller_sent():
    many = [safejax.Violation("x" * 5000, "shape", "a", "b") for _ in range(1000)]
    response = ask(protected(raising(safejax.ContractError("", violations=many))))

    assert len(problem(response)["violations"]) == 20
    assert response.json()["violations_left_out"] == 980
    assert len(response.content) < 10_000


def test_error_of_a_call_that_others_shaped_says_nothing_about_them():
    capped = safejax.safe_jit(
        lambda x: x.sum(), limits=safejax.Limits(max_compiles=1, warn_compiles=9)
    )
    capped(np.ones(7531, np.float32))
    with pytest.raises(safejax.CompileLimitError) as caught:
        capped(np.ones(3, np.float32))
    assert "7531" in str(caught.value)  # there is something to leak
    response = ask(protected(raising(caught.value)))

    assert "7531" not in response.text


def test_error_inside_a_group_of_one_is_found():
    error = ExceptionGroup("tasks", [ExceptionGroup("", [safejax.GuardError()])])

    assert ask(protected(raising(error))).status_code == 403


@pytest.mark.parametrize(
    "error",
    [
        ValueError("theirs"),
        TypeError("theirs"),
        ExceptionGroup("two", [safejax.GuardError(), safejax.GuardError()]),
    ],
)
def test_error_of_others_passes_through_untouched(error):
    app = protected(raising(error))

    async def call():
        await app({"type": "http", "headers": []}, lambda: body(b""), None)

    with pytest.raises(type(error)) as caught:
        asyncio.run(call())
    assert caught.value is error


async def body(data: bytes, more: bool = False):
    return {"type": "http.request", "body": data, "more_body": more}


def test_error_after_the_answer_has_begun_is_raised_again():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise safejax.GuardError("too late")

    sent = []

    async def send(message):
        sent.append(message)

    with pytest.raises(safejax.GuardError):
        asyncio.run(
            protected(app)({"type": "http", "headers": []}, lambda: body(b""), send)
        )
    assert [message["status"] for message in sent] == [200]


# --- frameworks


async def endpoint(request):
    return JSONResponse(float(total(np.ones((9, 3), np.float32))[0]))


def starlette(*, debug=False, handlers=None, inside=True):
    middleware = [Middleware(asgi.SafeJaxMiddleware)] if inside else []
    app = Starlette(
        debug=debug,
        routes=[Route("/", endpoint, methods=["GET", "POST"])],
        middleware=middleware,
        exception_handlers=handlers,
    )
    return app if inside else asgi.SafeJaxMiddleware(app)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("inside", [True, False])
def test_starlette_answers_with_the_problem(inside: bool, debug: bool):
    response = ask(starlette(inside=inside, debug=debug))

    assert response.status_code == 422
    assert problem(response)["violations"][0]["path"] == "x"


async def own_handler(request, error):
    return PlainTextResponse("the framework's", status_code=500)


@pytest.mark.parametrize("inside", [True, False])
def test_handler_for_every_exception_comes_second(inside: bool):
    app = starlette(inside=inside, handlers={Exception: own_handler})

    assert ask(app).status_code == 422


def test_handler_for_type_errors_needs_ours_beside_it():
    handlers = {TypeError: own_handler}
    assert ask(starlette(handlers=handlers)).text == "the framework's"

    handlers[safejax.SafeJaxError] = asgi.handle_error
    assert problem(ask(starlette(handlers=handlers)))["code"] == "SJ101"


def test_handler_raises_what_is_not_ours():
    error = ValueError("theirs")

    with pytest.raises(ValueError, match="theirs"):
        asyncio.run(asgi.handle_error(None, error))


@pytest.mark.parametrize("as_handler", [True, False])
def test_fastapi_answers_with_the_problem(as_handler: bool):
    app = fastapi.FastAPI()
    if as_handler:
        app.add_exception_handler(safejax.SafeJaxError, asgi.handle_error)
    else:
        app.add_middleware(asgi.SafeJaxMiddleware)

    @app.post("/")
    def predict(rows: list[list[float]]) -> list[float]:
        return np.asarray(total(np.array(rows, np.float32))).tolist()

    assert ask(app, json=[[1.0, 2.0, 3.0]]).json() == [6.0]
    assert problem(ask(app, json=[[1.0, 2.0]]))["violations"][0]["rule"] == "shape"
    assert ask(app, json="nonsense").json()["detail"][0]["type"] == "list_type"


def test_tenant_reaches_an_endpoint_that_runs_in_a_thread():
    app = fastapi.FastAPI()
    app.add_middleware(asgi.SafeJaxMiddleware)

    @app.get("/")
    def who() -> str | None:
        assert threading.current_thread() is not threading.main_thread()
        return safejax.current_tenant()

    assert ask(app, method="GET").json() == "address:192.0.2.1"
    assert safejax.current_tenant() is None


def test_500_of_the_application_itself_passes():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        for _ in range(40):
            chunk = {"type": "http.response.body", "body": b"x" * 4000}
            await send({**chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})

    response = ask(protected(app))

    assert response.status_code == 500
    assert response.text == "x" * 160_000 + "end"


@pytest.mark.parametrize("size", [1, 100_000])
def test_held_answer_is_bounded_and_an_error_after_it_passes_if_it_has_gone(size):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * size})
        raise safejax.GuardError

    assert ask(protected(app)).status_code == (403 if size == 1 else 500)


def test_lifespan_is_the_applications_own():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(protected(app)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


# --- who asks


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "address:192.0.2.7"),
        ("2001:db8::1:2:3:4", "address:2001:db8::/64"),
        ("2001:db8::9", "address:2001:db8::/64"),
        ("fe80::1%eth0", "address:fe80::/64"),
        ("::ffff:192.0.2.7", "address:192.0.2.7"),
        ("testclient", "address:"),
    ],
)
def test_client_is_its_address_or_its_network(address, name):
    assert ask(protected(), client=(address, 5)).json()[0] == name


def test_client_of_a_unix_socket_has_no_address():
    assert asgi.by_address()({"client": None, "headers": []}) == "address:"


def test_forwarded_header_is_not_believed_unless_told():
    headers = {"x-forwarded-for": "198.51.100.9"}

    assert ask(protected(), headers=headers).json()[0] == "address:192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded", "proxies", "name"),
    [
        ("198.51.100.9", 1, "address:198.51.100.9"),
        ("1.2.3.4, 198.51.100.9", 1, "address:198.51.100.9"),
        ("1.2.3.4, 198.51.100.9, 10.0.0.1", 2, "address:198.51.100.9"),
        ("198.51.100.9", 2, "address:192.0.2.1"),
        ("not an address", 1, "address:192.0.2.1"),
    ],
)
def test_forwarded_address_is_the_one_that_our_proxy_appended(forwarded, proxies, name):
    app = protected(identify=asgi.by_address(trusted_proxies=proxies))

    assert ask(app, headers={"x-forwarded-for": forwarded}).json()[0] == name


def test_header_names_the_tenant():
    app = protected(identify=asgi.by_header("X-Tenant"))

    assert ask(app, headers={"x-tenant": "team-7"}).json()[0] == "team-7"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-tenant", "")],
        [("x-tenant", "two words")],
        [("x-tenant", "x" * 129)],
        [("x-tenant", "ümlaut".encode())],
        [("x-tenant", "a"), ("x-tenant", "b")],
    ],
)
def test_header_that_names_nobody_is_401(headers):
    app = protected(identify=asgi.by_header("X-Tenant"))

    assert problem(ask(app, headers=headers))["code"] == "unknown-client"


KEY = "k-" + "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "headers", [{"x-api-key": KEY}, {"authorization": f"bearer {KEY}"}]
)
def test_api_key_names_the_tenant(headers):
    app = protected(identify=asgi.by_api_key({asgi.key_digest(KEY): "team-7"}))

    assert ask(app, headers=headers).json()[0] == "team-7"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": asgi.key_digest(KEY)},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer " + "x" * 5000},
        {"x-api-key": KEY, "authorization": f"Bearer {KEY}"},
    ],
)
def test_request_without_a_known_key_is_401_and_repeats_nothing(headers):
    app = protected(identify=asgi.by_api_key({asgi.key_digest(KEY): "team-7"}))
    response = ask(app, headers=headers)

    assert response.status_code == 401
    assert KEY[:8] not in response.text


@pytest.mark.parametrize("tenants", [{KEY: "team"}, {"0" * 64: ""}, {"0" * 64: "a\n"}])
def test_keys_themselves_and_odd_names_are_refused(tenants):
    with pytest.raises(ValueError, match="key_digest"):
        asgi.by_api_key(tenants)


def test_negative_number_of_proxies_is_refused():
    with pytest.raises(ValueError, match="got -1"):
        asgi.by_address(trusted_proxies=-1)


# --- the body


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("size", "status"), [(99, 200), (100, 200), (101, 413)])
def test_body_at_its_limit_is_served_and_one_byte_more_is_not(size, status, streamed):
    app = protected(max_body_bytes=100)
    response = ask(app, content=pieces(size, 1) if streamed else b"x" * size)

    assert response.status_code == status
    if status == 200:
        assert response.json()[1] == size
    else:
        assert problem(response)["code"] == "body-too-large"
        assert response.headers["connection"] == "close"


def test_body_that_says_it_is_too_large_is_not_read():
    async def receive():
        raise AssertionError("read")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"content-length", b"1000000000000")]}
    asyncio.run(protected()(scope, receive, send))
    assert sent[0]["status"] == 413


@pytest.mark.parametrize("value", [b"-1", b"+1", b" 1", b"1e3", b"", "٣".encode()])
def test_malformed_length_is_400(value):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"content-length", value)]}
    asyncio.run(protected()(scope, None, send))
    assert sent[0]["status"] == 400


def test_body_that_does_not_arrive_is_408_and_frees_its_place():
    async def slow():
        yield b"x"
        await asyncio.sleep(60)

    app = protected(body_timeout_s=0.05, max_concurrent=1)

    assert problem(ask(app, content=slow()))["code"] == "body-too-slow"
    assert app._places.taken == 0
    assert ask(app).status_code == 200


def test_client_that_leaves_before_its_body_is_complete_is_not_served():
    messages = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive():
        return messages.pop(0)

    app = protected(raising(AssertionError("served")))
    asyncio.run(app({"type": "http", "headers": []}, receive, None))
    assert messages == []
    assert app._places.taken == 0


def test_application_hears_that_the_client_has_left():
    heard = []

    async def app(scope, receive, send):
        heard.extend([await receive(), await receive()])

    messages = [{"type": "http.request", "body": b"abc"}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    asyncio.run(protected(app)({"type": "http", "headers": []}, receive, None))
    assert [message["type"] for message in heard] == [
        "http.request",
        "http.disconnect",
    ]


# --- how many at once, and how often


async def late() -> AsyncIterator[bytes]:
    """A body that is not there when its request is."""
    yield b"x"
    await asyncio.sleep(0.01)
    yield b"y"


def test_tenant_gets_half_alone_and_a_newcomer_still_finds_a_place():
    places = Places(8, 8)
    taken = [places.take("flood") for _ in range(8)]

    assert sum(taken) == 4
    assert places.take("honest")
    places.give_back("flood")
    assert places.take("flood")
    assert places.taken == 5


def test_many_tenants_leave_a_place_for_one_more():
    places = Places(16, 16)
    for _ in range(16):
        for name in "abcdef":
            places.take(name)

    assert places.take("newcomer")


def test_cap_of_a_tenant_holds_and_nobody_is_remembered_for_nothing():
    places = Places(100, 3)
    assert [places.take("a") for _ in range(4)] == [True, True, True, False]
    for _ in range(3):
        places.give_back("a")
    assert places._held == {}
    for i in range(1000):
        places.take(f"t{i}")
        places.give_back(f"t{i}")
    assert places._held == {}


def test_tenant_that_holds_its_places_gets_503_and_others_are_served():
    async def run():
        free = asyncio.Event()

        async def app(scope, receive, send):
            if scope["path"] == "/wait":
                await free.wait()
            await echo(scope, receive, send)

        guarded = protected(app, max_concurrent=64, max_concurrent_per_tenant=2)
        held = [
            asyncio.create_task(fetch(guarded, path="/wait", client=("a", 1)))
            for _ in range(2)
        ]
        while guarded._places.taken < 2:
            await asyncio.sleep(0)
        over = await fetch(guarded, client=("a", 1), content=late())
        other = await fetch(guarded, client=("192.0.2.2", 1))
        free.set()
        served = await asyncio.gather(*held)
        after = await fetch(guarded, client=("a", 1))
        return over, other, served, after

    over, other, served, after = asyncio.run(run())

    assert problem(over)["code"] == "busy"
    assert over.headers["retry-after"] == "1"
    assert over.headers["connection"] == "close"
    assert [r.status_code for r in (other, *served, after)] == [200] * 4


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError()])
def test_place_is_given_back_whatever_ends_the_application(error):
    app = protected(raising(error), max_concurrent=1)
    for _ in range(3):
        with pytest.raises(type(error)):
            asyncio.run(app({"type": "http", "headers": []}, lambda: body(b""), None))
    assert app._places.taken == 0


def test_rate_of_a_tenant_is_429_with_the_time_to_wait():
    app = protected(requests_per_s=1, request_burst=3)
    answers = [ask(app) for _ in range(5)]

    assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
    assert problem(answers[-1])["code"] == "too-many-requests"
    assert answers[-1].headers["retry-after"] == "1"
    assert ask(app, client=("192.0.2.2", 1)).status_code == 200


def test_tenant_whose_requests_are_refused_is_not_heard_for_a_while():
    heard = []

    async def app(scope, receive, send):
        heard.append(scope["client"][0])
        if scope["path"] == "/broken":
            raise refused_call(np.ones((2, 2), np.float32))
        status = 400 if scope["path"] == "/malformed" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"said"})

    guarded = protected(app, refused_per_s=3)
    paths = ["/broken", "/", "/malformed", "/", "/broken", "/broken", "/"]
    answers = [ask(guarded, path=path, content=b"x") for path in paths]
    other = ask(guarded, client=("192.0.2.2", 1))

    assert [a.status_code for a in answers] == [422, 200, 400, 200, 422, 429, 429]
    assert problem(answers[-1])["code"] == "refused-too-often"
    assert answers[-1].headers["retry-after"] == "1"
    assert (len(heard), other.status_code) == (6, 200)
    time.sleep(0.4)
    assert ask(guarded).status_code == 200


def test_nobody_is_remembered_for_requests_that_were_not_refused():
    guarded = protected(refused_per_s=3)
    for i in range(20):
        ask(guarded, client=(f"192.0.2.{i}", 1))

    assert guarded._refused.tenants() == 0


@pytest.mark.parametrize("is_late", [False, True])
def test_connection_stays_where_the_body_of_a_refused_request_was_there(is_late):
    app = protected(requests_per_s=1, request_burst=1)
    ask(app)
    refused = ask(app, content=late() if is_late else b"x")

    assert refused.status_code == 429
    assert refused.headers.get("connection") == ("close" if is_late else None)


def test_refused_websocket_is_closed_and_a_served_one_knows_its_tenant():
    seen = []

    async def app(scope, receive, send):
        seen.append(safejax.current_tenant())

    async def send(message):
        seen.append(message)

    scope = {"type": "websocket", "headers": [], "client": ("192.0.2.1", 1)}
    guarded = protected(app, requests_per_s=1, request_burst=1)
    asyncio.run(guarded(scope, None, send))
    asyncio.run(guarded(scope, None, send))

    assert seen == ["address:192.0.2.1", {"type": "websocket.close", "code": 1013}]


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_body_bytes": -1}, ValueError),
        ({"max_body_bytes": 1.5}, TypeError),
        ({"body_timeout_s": 0}, ValueError),
        ({"body_timeout_s": "1"}, TypeError),
        ({"max_concurrent": 0}, ValueError),
        ({"max_concurrent_per_tenant": 0}, ValueError),
        ({"requests_per_s": 0}, ValueError),
        ({"request_burst": 5}, ValueError),
        ({"refused_per_s": 0}, ValueError),
        ({"max_tenants": 0}, ValueError),
    ],
)
def test_limits_are_checked_when_they_are_made(limits, error):
    with pytest.raises(error, match=next(iter(limits))):
        asgi.RequestLimits(**limits)


# --- a real server


@contextlib.contextmanager
def served(app) -> Iterator[int]:
    """The application under uvicorn on a free port of this machine."""
    config = uvicorn.Config(
        app, port=0, log_level="critical", proxy_headers=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def test_behind_uvicorn_honest_requests_are_served_and_others_answered():
    app = starlette(inside=False)
    app._limits = asgi.RequestLimits(max_body_bytes=1000)
    with served(app) as port:
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base) as client:
            broken = client.post("/", content=b"x" * 1000)
            large = client.post("/", content=b"x" * 1_000_000)
            again = client.get("/")

    assert problem(broken)["code"] == "SJ101"
    assert large.status_code == 413
    assert again.status_code == 422


def test_behind_uvicorn_a_slow_body_ends_its_connection():
    with served(protected(body_timeout_s=0.2)) as port:
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc"

        async def run() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            answer = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            return answer

        answer = asyncio.run(run())

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_module_imports_no_framework():
    import ast
    from pathlib import Path

    import safejax.integrations as package

    folder = Path(package.__file__).parent
    parts = ["asgi", "_problems", "_identify", "_places", "_messages"]
    for part in parts:
        tree = ast.parse((folder / f"{part}.py").read_text(encoding="utf-8"))
        roots = {
            name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
        }
        assert not roots & {"starlette", "fastapi", "uvicorn", "httpx"}
