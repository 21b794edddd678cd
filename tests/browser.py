"""A headless Chromium, driven through its own protocol over a pipe."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
WAIT_S = 60


class Page:
    """One tab."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._asked = 0
        self._read = b""
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        attached = self.do("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> Any:
        self._asked += 1
        command = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._asked:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))

    def _next(self) -> Any:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._back], [], [], WAIT_S)
            assert ready, "the browser does not answer"
            piece = os.read(self._back, 1 << 20)
            assert piece, "the browser has ended"
            self._read += piece
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def value(self, expression: str) -> Any:
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """What the expression is, once it is something."""
        end = time.monotonic() + WAIT_S
        while not (found := self.value(expression)):
            assert time.monotonic() < end, expression
            time.sleep(0.02)
        return found

    def open(self, url: str) -> None:
        self.do("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href === '{url}'")

    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        self.do("Emulation.setTouchEmulationEnabled", enabled=touch)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element."""
        where = f"document.querySelector('{selector}').getBoundingClientRect()"
        return tuple(self.value(f"(b => [b.left, b.top, b.width, b.height])({where})"))

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.do(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="left",
            buttons=int(kind != "mouseReleased"),
            clickCount=1,
        )

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": x, "y": y} for x, y in points]
        self.do("Input.dispatchTouchEvent", type=kind, touchPoints=places)

    def key(self, key: str) -> None:
        text = {"text": " "} if key == " " else {}
        codes = {"Tab": 9, " ": 32, "Delete": 46}
        code = codes.get(key, 0)
        both = {"key": key, "windowsVirtualKeyCode": code}
        self.do("Input.dispatchKeyEvent", type="keyDown", **both, **text)
        self.do("Input.dispatchKeyEvent", type="keyUp", **both)

    def screenshot(self, path: Path) -> None:
        image = self.do("Page.captureScreenshot")["data"]
        path.write_bytes(base64.b64decode(image))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser with one empty tab; it ends with the block."""
    assert CHROMIUM is not None
    read_commands, to = os.pipe()
    back, write_answers = os.pipe()
    # It speaks on descriptors 3 and 4.
    script = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
    options = [
        "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
        "--no-first-run", "--disable-background-networking", "--disable-extensions",
        "--disable-dev-shm-usage", f"--user-data-dir={profile}",
    ]  # fmt: skip
    with subprocess.Popen(
        ["bash", "-c", script, "browser", CHROMIUM, *options, "about:blank"],
        pass_fds=(read_commands, write_answers),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(read_commands)
        os.close(write_answers)
        try:
            yield Page(to, back)
        finally:
            process.kill()
            process.wait(WAIT_S)
            os.close(to)
            os.close(back)
