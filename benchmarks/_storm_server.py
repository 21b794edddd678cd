"""A digits service of one of three kinds, for the storm.

``python -m benchmarks._storm_server KIND FOLDER`` serves on a free port of this
machine, which it prints, until its standard input closes. All three have the same
routes, run the model in a thread, and are warmed up for what the honest client sends.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import safejax
from safejax.demo import _classifier, _digits, _measure, _service
from safejax.integrations import asgi

KINDS = {
    "plain": "jax.jit",
    "checked": "jax.jit, a shape check, chex",
    "safejax": "safejax",
}
SEED = 0
HONEST_SIZES = (1, 8)


class Plain:
    """The model under ``jax.jit``, its parameters in an ``.npz`` file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "current"
        digits = _digits.load(SEED)
        params = _digits.train(_digits.plain_train_step(), digits, SEED)
        self._save(folder / "old", _digits.init(SEED + 1))
        self._save(folder / "good", params)
        self._save(self._path, params)
        self._function = jax.jit(_classifier.classify, static_argnames="smooth")
        self.reload()
        for size in HONEST_SIZES:
            self.probabilities(np.zeros((size, 64), np.float32), 0)

    def _save(self, path: Path, params: Any) -> None:
        with path.open("wb") as file:
            np.savez(file, **{name: np.asarray(w) for name, w in params.items()})

    def reload(self) -> None:
        with np.load(self._path) as file:
            self._params = {name: jax.device_put(file[name]) for name in file.files}

    def probabilities(self, x: Any, smooth: int) -> Any:
        return np.asarray(self._function(self._params, x, smooth))


class Checked(Plain):
    """The same behind the checks that people write."""

    def probabilities(self, x: Any, smooth: int) -> Any:
        if x.ndim != 2 or x.shape[1] != _digits.PIXELS:
            raise AssertionError("expected rows of 64 pixels")
        chex.assert_type(x, np.float32)
        chex.assert_tree_all_finite(x)
        return super().probabilities(x, smooth)


def _protected(folder: Path) -> _classifier.Classifier:
    digits, ring = _digits.load(SEED), safejax.KeyRing.generate()
    params = _digits.train(_digits.protected_train_step(), digits, SEED)
    trees = {"old": (1, _digits.init(SEED + 1)), "good": (2, params)}
    for name, (step, tree) in {**trees, "current": trees["good"]}.items():
        safejax.signed_save(
            folder / name, tree, key=ring, step=step, context=_classifier.CONTEXT
        )
    return _classifier.Classifier(folder / "current", ring, step=2)


def _reload(model: Any) -> Any:
    async def reload(request: Request) -> Response:
        del request
        try:
            await run_in_threadpool(model.reload)
        except safejax.SafeJaxError:
            return Response("refused", status_code=409)
        return Response("reloaded")

    return reload


async def _bad_request(request: Request, error: Exception) -> Any:
    del request, error
    return Response("bad request", status_code=400)


def _application(kind: str, folder: Path) -> Starlette:
    makers: dict[str, Any] = {"plain": Plain, "checked": Checked, "safejax": _protected}
    model = makers[kind](folder)
    safe = kind == "safejax"
    return Starlette(
        routes=[
            *_service.routes(model),
            Route("/reload", _reload(model), methods=["POST"]),
        ],
        middleware=[Middleware(asgi.SafeJaxMiddleware, limits=_service.LIMITS)]
        if safe
        else [],
        exception_handlers={
            _service.NotImagesError: _bad_request,
            AssertionError: _bad_request,
        },
    )


def _count(target: Path) -> None:
    """Writes how many programs were compiled since it serves, again and again."""
    counter = _measure._counter()
    before = counter.count
    while True:
        fresh = target.with_suffix(".new")
        fresh.write_text(str(counter.count - before), encoding="ascii")
        fresh.replace(target)
        time.sleep(0.2)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def main(kind: str, folder: Path) -> None:
    """Serves until the parent ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app = _application(kind, folder)
    threading.Thread(target=_count, args=(folder / "count",), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(_service.config(app)).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
