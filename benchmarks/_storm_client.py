"""The clients of the storm: a little HTTP over asyncio, an honest and a hostile one.

``python -m benchmarks._storm_client ATTACK PORT SECONDS FOLDER`` is the hostile one.
It imports neither JAX nor NumPy, runs only where a processor is idle, as if on another
machine, and comes from another address of this one. It prints ``ready``, waits for a
line, attacks, and prints how many requests it has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import struct
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

HONEST, HOSTILE = "127.0.0.1", "127.0.0.2"
PIXELS = 64
TIMEOUT_S = 10.0
_CONNECTIONS = 64


# --- HTTP -------------------------------------------------------------------------


def post(path: str, body: bytes, kind: str = "application/octet-stream") -> bytes:
    """The bytes of one request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: storm\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connections:
    """Connections to one server, kept open as long as it likes."""

    def __init__(self, port: int, address: str) -> None:
        self._port, self._address = port, address
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._since: dict[asyncio.StreamWriter, float] = {}
        self._places = asyncio.Semaphore(_CONNECTIONS)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        async with self._places:
            reader, writer = self._fresh() or await self._open()
            keep = False
            try:
                writer.write(request)
                status, body, keep = await _answer(reader)
                return status, body
            finally:
                if keep:
                    self._free.append((reader, writer))
                    self._since[writer] = time.perf_counter()
                else:
                    writer.transport.abort()

    def _fresh(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """One that is open still: servers close what is idle for some seconds."""
        while self._free:
            reader, writer = self._free.pop()
            if time.perf_counter() - self._since.pop(writer) < 2.0:
                return reader, writer
            writer.transport.abort()
        return None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            HONEST, self._port, local_addr=(self._address, 0)
        )

    def close(self) -> None:
        """Ends what is open."""
        for _, writer in self._free:
            writer.transport.abort()
        self._free.clear()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    body = await reader.readexactly(length)
    return int(head.split(None, 2)[1]), body, b"connection: close" not in head


async def at_rate(
    per_s: float,
    seconds: float,
    once: Callable[[int], Coroutine[Any, Any, None]],
    *,
    patience_s: float,
    chance: random.Random | None = None,
) -> None:
    """Starts something so often, whether what it started has ended or not.

    At a steady rate; with ``chance`` at random times, as many callers would. Two steady
    clients of one rate would meet at every request, or at none.
    """
    started, tasks = time.perf_counter(), set()
    due = started
    for number in itertools.count():
        if due > started + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        due += (chance.expovariate(1.0) if chance else 1.0) / per_s
        task = asyncio.ensure_future(once(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=patience_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


# --- the honest client ------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One honest request: when it was sent, how long it took, how it ended."""

    at_s: float
    took_s: float
    end: str


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A request whose answer is known."""

    request: bytes
    digits: tuple[int, ...]


async def honest(
    port: int,
    seconds: float,
    per_s: float,
    questions: Sequence[Question],
    *,
    timeout_s: float = TIMEOUT_S,
) -> list[Sample]:
    """Asks at a steady rate; every request is a sample, the lost ones too."""
    connections, samples = Connections(port, HONEST), []

    async def once(number: int) -> None:
        question = questions[number % len(questions)]
        began, end = time.perf_counter(), "lost"
        try:
            async with asyncio.timeout(timeout_s):
                status, body = await connections.ask(question.request)
            right = status == 200 and tuple(json.loads(body)["digits"])
            end = "right" if right == question.digits else "wrong"
            end = end if status == 200 else str(status)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            samples.append(Sample(began, time.perf_counter() - began, end))

    await at_rate(per_s, seconds, once, patience_s=timeout_s + 1)
    connections.close()
    return samples


# --- the hostile one --------------------------------------------------------------


def _pixels(rows: int, value: float = 0.5) -> bytes:
    return struct.pack("<f", value) * (rows * PIXELS)


def _shapes() -> Iterator[bytes]:
    # Beyond what may be sent, too; 8 and 1 are what the honest client sends.
    for rows in itertools.cycle(n for n in range(2, 400) if n != 8):
        yield post("/predict", _pixels(rows))


def _huge() -> Iterator[bytes]:
    for extra in itertools.count():
        yield post("/predict", _pixels(16_384 + extra))


def _values() -> Iterator[bytes]:
    while True:
        yield post("/predict", _pixels(8, float("nan")))


def _oversized() -> Iterator[bytes]:
    row = b"[" + b",".join([b"0.12345678"] * PIXELS) + b"]"
    body = b'{"images": [' + b",".join([row] * (2**24 // len(row))) + b"]}"
    request = post("/predict", body, "application/json")
    while True:
        yield request


def _bombs() -> Iterator[bytes]:
    for smooth in itertools.count(40):
        yield post(f"/predict?smooth={smooth}", _pixels(1))


@dataclasses.dataclass(frozen=True, slots=True)
class Attack:
    """What the hostile client does.

    Attributes:
        title: In the table.
        per_s: Requests a second; connections held open for ``slow``.
        requests: What it sends, one after the other.
    """

    title: str
    per_s: float
    requests: Callable[[], Iterator[bytes]] | None = None


ATTACKS = {
    "shapes": Attack("a new shape in each request", 50, _shapes),
    "huge": Attack("4 MiB of images", 10, _huge),
    "nan": Attack("NaN in all images", 100, _values),
    "oversized": Attack("16 MiB of JSON", 4, _oversized),
    "slow": Attack("200 bodies, a byte a second", 200),
    "replay": Attack("an older checkpoint at each reload", 10),
    # Last: a server that compiles them has not done so when the attack is long over.
    "bombs": Attack("compile bombs by a static option", 5, _bombs),
}
_LOST = (OSError, asyncio.IncompleteReadError, TimeoutError)


async def _slow(port: int, connections: int, seconds: float) -> int:
    sent = 0

    async def one(number: int) -> None:
        nonlocal sent
        until = time.perf_counter() + seconds
        await asyncio.sleep(number / connections / 2)
        while time.perf_counter() < until:
            with contextlib.suppress(*_LOST):
                reader, writer = await asyncio.open_connection(
                    HONEST, port, local_addr=(HOSTILE, 0)
                )
                sent += 1
                writer.write(post("/predict", _pixels(8))[:200])
                while time.perf_counter() < until and not reader.at_eof():
                    writer.write(b"\0")
                    await writer.drain()
                    # Ends early where the server answers and hangs up.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            await reader.read(4096)
                writer.transport.abort()
            # Whoever is refused comes again, but not at once.
            await asyncio.sleep(0.5)

    await asyncio.gather(*map(one, range(connections)))
    return sent


async def _replay(port: int, folder: Path, per_s: float, seconds: float) -> int:
    connections, sent = Connections(port, HOSTILE), 0

    async def once(number: int) -> None:
        nonlocal sent
        sent += 1
        # As an attacker who may write to the disk: the old file in place of the new.
        fresh = folder / f"attack-{number}"
        shutil.copyfile(folder / "old", fresh)
        fresh.replace(folder / "current")
        with contextlib.suppress(*_LOST):
            await connections.ask(post("/reload", b""))

    await at_rate(per_s, seconds, once, patience_s=0.5, chance=random.Random(0))
    connections.close()
    return sent


async def _flood(
    port: int, requests: Iterator[bytes], per_s: float, seconds: float
) -> int:
    connections, sent = Connections(port, HOSTILE), 0

    async def once(number: int) -> None:
        nonlocal sent
        del number
        sent += 1
        with contextlib.suppress(*_LOST):
            async with asyncio.timeout(TIMEOUT_S):
                await connections.ask(next(requests))

    await at_rate(per_s, seconds, once, patience_s=0.5, chance=random.Random(0))
    connections.close()
    return sent


def main(name: str, port: int, seconds: float, folder: Path) -> None:
    """Plays one attack, once it is told to."""
    attack = ATTACKS[name]
    requests = attack.requests() if attack.requests else iter(())
    prepared = list(itertools.islice(requests, 1))
    _give_way()
    print("ready", flush=True)
    sys.stdin.readline()
    if name == "slow":
        playing = _slow(port, round(attack.per_s), seconds)
    elif name == "replay":
        playing = _replay(port, folder, attack.per_s, seconds)
    else:
        all_of_them = itertools.chain(prepared, requests)
        playing = _flood(port, all_of_them, attack.per_s, seconds)
    print(asyncio.run(playing), flush=True)


def _give_way() -> None:
    """Takes no processor from the service and its honest client, where that exists."""
    os.nice(10)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
