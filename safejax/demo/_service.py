"""The digits service: a model behind HTTP, with a page to draw on.

``safejax demo --serve`` starts it. It is what the documentation recommends, in full:
limits on requests, a contract on their input, programs compiled ahead, then frozen.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from safejax.demo._classifier import Classifier, Model, trained
from safejax.demo._digits import BATCH, PIXELS, Images
from safejax.integrations import asgi, prometheus

# 64 images in JSON, with all the digits that a float may have.
LIMITS = asgi.RequestLimits(
    max_body_bytes=BATCH * PIXELS * 32,
    body_timeout_s=5.0,
    max_concurrent=128,
    max_concurrent_per_tenant=32,
    requests_per_s=200,
    refused_per_s=10,
)
_RAW = "application/octet-stream"


class NotImagesError(ValueError):
    """A body can't be read as a list of images."""


def images_of(body: bytes, content_type: str) -> Images:
    """The images of a request: raw ``float32``, or JSON with a list of lists.

    Raises:
        NotImagesError: There are none in it.
    """
    if content_type == _RAW:
        if len(body) % (4 * PIXELS):
            raise NotImagesError
        return np.frombuffer(body, "<f4").reshape(-1, PIXELS).astype(np.float32)
    try:
        # Too large a number becomes infinite, which the contract refuses.
        with np.errstate(over="ignore"):
            return np.array(json.loads(body)["images"], np.float32)
    except (ValueError, TypeError, LookupError, RecursionError):
        raise NotImagesError from None


def answer_of(model: Model, body: bytes, content_type: str, smooth: str) -> bytes:
    """The answer to one request, as JSON.

    Raises:
        NotImagesError: The body has no images, or the option is no number.
        ContractError: They are not what the model takes.
    """
    if not (smooth.isascii() and smooth.isdigit() and len(smooth) < 10):
        raise NotImagesError
    found = model.probabilities(images_of(body, content_type), int(smooth))
    digits = found.argmax(axis=1)
    answer = {"digits": digits.tolist(), "probabilities": found.tolist()}
    return json.dumps(answer).encode()


def _predict(model: Model) -> Any:
    async def predict(request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        smooth = request.query_params.get("smooth", "0")
        body = await request.body()
        # In a thread, so that others are served meanwhile.
        answer = await run_in_threadpool(answer_of, model, body, content_type, smooth)
        return Response(answer, media_type="application/json")

    return predict


async def _not_images(request: Request, error: Exception) -> Any:
    del request, error
    return asgi.Problem(status=400, code="malformed", detail="These are no images.")


async def _health(request: Request) -> Response:
    del request
    return PlainTextResponse("alive\n")


def _readiness(model: Classifier) -> Any:
    async def ready(request: Request) -> Response:
        del request
        if await run_in_threadpool(model.is_ready):
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready\n", status_code=503)

    return ready


def _metrics(registry: prometheus_client.CollectorRegistry) -> Any:
    async def metrics(request: Request) -> Response:
        del request
        text = await run_in_threadpool(prometheus_client.generate_latest, registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return metrics


def page() -> Response:
    """The page to draw on. What it may do is bound to what is in it."""
    text = resources.files("safejax.demo").joinpath("_page.html").read_text("utf-8")
    hashes = {
        tag: base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for tag in ("script", "style")
        for part in re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    }
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; "
        f"script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(text, headers=headers)


def routes(model: Model) -> list[Route]:
    """What serves predictions, for a model of any kind."""
    return [Route("/predict", _predict(model), methods=["POST"])]


def application(
    model: Classifier, *, registry: prometheus_client.CollectorRegistry
) -> Starlette:
    """The whole service as an ASGI application."""
    drawn = page()
    return Starlette(
        routes=[
            *routes(model),
            Route("/healthz", _health),
            Route("/readyz", _readiness(model)),
            Route("/metrics", _metrics(registry)),
            Route("/", lambda request: drawn),
        ],
        middleware=[Middleware(asgi.SafeJaxMiddleware, limits=LIMITS)],
        exception_handlers={NotImagesError: _not_images},
    )


def config(app: Any) -> uvicorn.Config:
    """How the server is set up: it believes no header and says little."""
    return uvicorn.Config(
        app,
        access_log=False,
        lifespan="off",
        limit_concurrency=500,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        ws="none",
    )


def run(*, host: str, port: int, seed: int) -> int:
    """Trains, then serves until Ctrl-C.

    Returns:
        0 after Ctrl-C, 1 if the address can't be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        sys.stderr.write(f"safejax demo: {host}:{port}: {error.strerror}\n")
        return 1
    with tempfile.TemporaryDirectory() as folder, listening:
        sys.stdout.write("training on handwritten digits\n")
        sys.stdout.flush()
        registry = prometheus_client.CollectorRegistry()
        prometheus.install(registry=registry)
        app = application(trained(Path(folder), seed), registry=registry)
        at = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"draw one at http://{at}:{listening.getsockname()[1]}/\n")
        sys.stdout.flush()
        try:
            uvicorn.Server(config(app)).run(sockets=[listening])
        except KeyboardInterrupt:
            sys.stdout.write("\n")
    return 0
