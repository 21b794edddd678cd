"""The digits service: its routes, its page in a browser, its command."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jax.numpy as jnp
import numpy as np
import prometheus_client
import pytest
from browser import CHROMIUM, Page, browser
from compiling import compilations

import safejax
from safejax.demo import _classifier, _digits, _service
from safejax.demo._outcome import ACCURACY_FLOOR
from safejax.integrations import prometheus

RAW = {"content-type": "application/octet-stream"}
SEED = 3
REGISTRY = prometheus_client.CollectorRegistry()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _classifier.Classifier:
    return _classifier.trained(tmp_path_factory.mktemp("model"), SEED)


@pytest.fixture(scope="module")
def digits() -> _digits.Digits:
    return _digits.load(SEED)


def ask(model, method="POST", path="/predict", **options) -> httpx.Response:
    async def run():
        app = _service.application(model, registry=REGISTRY)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test"
        ) as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())


# --- the model


def test_model_recognises_digits_that_it_has_not_seen(model, digits):
    found = model.probabilities(digits.test_x[:64])

    assert (found.argmax(axis=1) == digits.test_y[:64]).mean() > ACCURACY_FLOOR
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)


def test_nothing_is_compiled_once_it_serves(model, digits):
    with compilations() as seen:
        for rows in (1, 2, 8, 9, 63, 64):
            for smooth in (0, 1):
                assert len(model.probabilities(digits.test_x[:rows], smooth)) == rows
        with pytest.raises(safejax.ContractError):
            model.probabilities(digits.test_x[:65])
        with pytest.raises(safejax.ContractError):
            model.probabilities(digits.test_x[:1], 400)

    assert seen == []


def test_rows_are_answered_alone_as_in_company(model, digits):
    together = model.probabilities(digits.test_x[:5])
    alone = [model.probabilities(digits.test_x[i : i + 1])[0] for i in range(5)]

    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_older_and_foreign_checkpoints_are_not_reloaded(tmp_path: Path, digits):
    model = _classifier.trained(tmp_path, 0)
    model._step = 2
    before = model.probabilities(digits.test_x[:1])
    with pytest.raises(safejax.RollbackError):
        model.reload()
    safejax.signed_save(
        tmp_path / "digits.ckpt",
        _digits.init(1),
        key=safejax.KeyRing.generate(),
        step=9,
        context=_classifier.CONTEXT,
    )
    with pytest.raises(safejax.SignatureError):
        model.reload()

    np.testing.assert_array_equal(model.probabilities(digits.test_x[:1]), before)


def test_model_that_computes_nonsense_is_not_ready(model, monkeypatch):
    assert ask(model, "GET", "/readyz").text == "ready\n"
    broken = {name: w * jnp.nan for name, w in model._params.items()}
    monkeypatch.setattr(model, "_params", broken)

    assert ask(model, "GET", "/readyz").status_code == 503


# --- the routes


def test_json_and_raw_bytes_get_the_same_answer(model, digits):
    x = digits.test_x[:3]
    as_json = ask(model, json={"images": x.tolist()})
    as_bytes = ask(model, content=x.tobytes(), headers=RAW)

    assert as_json.json() == as_bytes.json()
    assert as_json.json()["digits"] == model.probabilities(x).argmax(axis=1).tolist()


def test_largest_request_in_json_is_admitted(model):
    images = [[1 / 3] * 64] * 64

    assert len(ask(model, json={"images": images}).json()["digits"]) == 64


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ('{"images": []}', "shape"),
        ('{"images": [[0.5, 0.5]]}', "shape"),
        ('{"images": 1}', "shape"),
        ('{"images": [[null]]}', "shape"),
        (json.dumps({"images": [[0.5] * 64] * 65}), "dimension"),
        (json.dumps({"images": [[float("nan")] * 64]}), "value"),
        (json.dumps({"images": [[-1.0] * 64]}), "value"),
        ('{"images": [[' + ",".join(["1e39"] * 64) + "]]}", "value"),
    ],
    ids=range(8),
)
def test_images_that_break_the_contract_are_422(model, content, rule):
    response = ask(model, content=content)

    assert response.status_code == 422
    assert rule in [v["rule"] for v in response.json()["violations"]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"images": [[1], [2, 3]]}',
        b'{"images": "pixels"}',
        b'{"images": {"a": 1}}',
        b'{"images": [' + b"9" * 5000 + b"]}",
    ],
    ids=range(11),
)
def test_what_is_no_list_of_images_is_400(model, content):
    response = ask(model, content=content)

    assert response.status_code == 400
    assert response.json()["code"] == "malformed"


@pytest.mark.parametrize("smooth", ["x", "", "-1", "1.5", "٣", "9" * 5000])
def test_option_that_is_no_number_is_400(model, digits, smooth):
    response = ask(
        model,
        content=digits.test_x[:1].tobytes(),
        params={"smooth": smooth},
        headers=RAW,
    )

    assert response.status_code == 400


def test_bytes_that_are_no_whole_images_are_400(model):
    assert ask(model, content=b"x" * 255, headers=RAW).status_code == 400
    assert ask(model, content=b"", headers=RAW).json()["digits"] == []


def test_option_beyond_those_that_were_compiled_is_422(model, digits):
    one = digits.test_x[:1].tobytes()

    assert ask(model, path="/predict?smooth=1", content=one, headers=RAW).is_success
    refused = ask(model, path="/predict?smooth=400", content=one, headers=RAW)
    assert refused.json()["violations"][0]["rule"] == "static"


def test_body_beyond_the_limit_is_413(model):
    assert ask(model, content=b"x" * 200_000).status_code == 413


def test_page_may_do_only_what_it_contains(model):
    response = ask(model, "GET", "/")
    policy = response.headers["content-security-policy"]

    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert ask(model, "GET", "/healthz").text == "alive\n"


def test_metrics_count_what_is_refused(model):
    exporter = prometheus.install(registry=REGISTRY)
    try:
        ask(model, content='{"images": [[0.5]]}')
        text = ask(model, "GET", "/metrics").text
    finally:
        exporter.close()

    assert re.search(r'safejax_refusals_total{.*"SJ101".*} 1\.0', text), text


# --- the page


@pytest.fixture(scope="module")
def url(model) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = _service.config(_service.application(model, registry=REGISTRY))
    server = _service.uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(30)
    listening.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: the page was not drawn on")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


ONE = [(0.5, 0.1 + 0.1 * i) for i in range(9)]
SEVEN = [
    *((0.25 + 0.1 * i, 0.15) for i in range(6)),
    *((0.72 - 0.05 * i, 0.25 + 0.1 * i) for i in range(7)),
]


def drawn(page: Page, points, down, move, up) -> str:
    """Draws with one pointer, and waits for the answer."""
    left, top, width, height = page.box("#pad")
    places = [(left + x * width, top + y * height) for x, y in points]
    down(*places[0])
    for place in places[1:]:
        move(*place)
    up(*places[-1])
    page.until("!busy && !waiting && answer.textContent")
    return page.value("answer.textContent")


def with_mouse(page: Page, points) -> str:
    kinds = ("mousePressed", "mouseMoved", "mouseReleased")
    steps = [lambda x, y, kind=kind: page.mouse(kind, x, y) for kind in kinds]
    return drawn(page, points, *steps)


def test_digit_that_is_drawn_with_the_mouse_is_recognised(page, url):
    page.size(1000, 720)
    page.open(url)
    assert page.value("said.textContent") == "Nothing drawn yet."

    assert with_mouse(page, SEVEN) == "7"
    assert page.value("said.textContent") == "This looks like a 7."
    assert page.value("document.querySelector('li.best span').textContent") == "7"
    left, top, width, height = page.box("#clear")
    page.mouse("mousePressed", left + width / 2, top + height / 2)
    page.mouse("mouseReleased", left + width / 2, top + height / 2)
    page.until("said.textContent === 'Nothing drawn yet.'")
    assert page.value("answer.textContent") == ""
    assert with_mouse(page, ONE) == "1"
    assert page.complaints == []


def test_digit_that_is_drawn_with_a_finger_is_recognised(page, url):
    page.size(390, 844, touch=True)
    page.open(url)
    found = drawn(
        page,
        SEVEN,
        lambda x, y: page.touch("touchStart", (x, y)),
        lambda x, y: page.touch("touchMove", (x, y)),
        lambda x, y: page.touch("touchEnd"),
    )

    assert found == "7"
    assert page.value("document.scrollingElement.scrollTop") == 0
    assert page.value("document.scrollingElement.scrollWidth <= innerWidth")


def test_digit_that_is_drawn_with_the_keyboard_is_recognised(page, url):
    page.size(1000, 720)
    page.open(url)
    page.key("Tab")
    assert page.value("document.activeElement.id") == "pad"
    for key in ["ArrowUp"] * 2 + [" "] + ["ArrowDown"] * 11:
        page.key(key)
    page.until("!busy && !waiting && answer.textContent")

    assert page.value("answer.textContent") == "1"
    page.key("Delete")
    page.until("said.textContent === 'Nothing drawn yet.'")


def test_what_is_cleared_while_an_answer_is_awaited_stays_clear(page, url):
    page.open(url)
    late = "new Promise(go => setTimeout(go, 200)).then(() => real(...all))"
    page.value(f"real = fetch; fetch = (...all) => {late}")
    page.value("strokes = [[{x: .5, y: .5}]]; void ask()")
    page.until("answer.textContent")
    page.value("void ask()")
    assert page.value("busy")

    page.value("clear()")

    assert page.value("said.textContent") == "Nothing drawn yet."
    page.until("!busy && !waiting")
    assert page.value("said.textContent") == "Nothing drawn yet."
    assert page.value("answer.textContent") == ""


def test_refusal_is_shown_in_words(page, url):
    page.open(url)
    page.value("pixels = () => new Float32Array(64).fill(NaN)")
    page.value("strokes = [[{x: .5, y: .5}]]; ask()")
    page.until("said.className === 'bad'")

    assert page.value("said.textContent") == (
        "The input breaks the contract of this service."
    )


# --- the command

SERVE = "import sys; from safejax.cli._main import main; sys.exit(main(sys.argv[1:]))"


def test_command_serves_until_ctrl_c_and_ends_cleanly():
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, "demo", "--serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "training on handwritten digits\n"
            line = process.stdout.readline()
            assert line.startswith("draw one at http://127.0.0.1:")
            url = line.split()[-1]
            end = time.monotonic() + 60
            while True:
                try:
                    answer = httpx.get(f"{url}readyz")
                    break
                except httpx.TransportError:
                    assert time.monotonic() < end
                    time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=60)
        finally:
            process.kill()

    assert answer.text == "ready\n"
    assert (process.returncode, complaint) == (0, "")


def test_address_that_is_taken_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str],
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert _service.run(host="127.0.0.1", port=port, seed=0) == 1
    assert capsys.readouterr().err.startswith(f"safejax demo: 127.0.0.1:{port}: ")
