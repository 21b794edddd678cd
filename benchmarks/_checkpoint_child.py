"""A fresh process that loads one checkpoint: what a program's start-up sees.

``python -m benchmarks._checkpoint_child KIND PATH`` prints the seconds and the memory.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import hmac
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import safejax
from benchmarks._checkpoint_trees import key_ring

_PIECE = 1 << 20


def _raw(path: str) -> int:
    """Reads and hashes all bytes in two threads, and makes nothing of them."""
    size = Path(path).stat().st_size
    memory = np.empty(size, np.uint8)  # NumPy asks for huge pages by itself
    view = memoryview(memory)

    def part(start: int) -> None:
        fd = os.open(path, os.O_RDONLY)
        hasher = hashlib.sha256()
        end = min(start + size // 2 + 1, size)
        while start < end:
            got = os.preadv(fd, [view[start : min(start + _PIECE, end)]], start)
            hasher.update(view[start : start + got])
            start += got
        os.close(fd)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(part, (0, size // 2 + 1)))
    return size


def _orbax(path: str) -> Any:
    ocp = importlib.import_module("orbax.checkpoint")
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path)


def _st_flax(path: str) -> Any:
    return importlib.import_module("safetensors.flax").load_file(path)


def _verify_then_load(path: str) -> Any:
    state = hmac.new(b"k" * 32, digestmod="sha256")
    with Path(path).open("rb") as file:
        while data := file.read(_PIECE):
            state.update(data)
    return _st_flax(path)


KINDS: dict[str, Callable[[str], Any]] = {
    "sha256": lambda path: safejax.signed_load(path, key=key_ring("sha256")),
    "blake3": lambda path: safejax.signed_load(path, key=key_ring("blake3")),
    "safetensors": _st_flax,
    "orbax": _orbax,
    "verify, then load": _verify_then_load,
    "raw": _raw,
}


def _warm(kind: str) -> None:
    """What is imported when it is first used, by a peer or by us, is not loading."""
    if kind in ("sha256", "blake3"):
        assert safejax.signed_load is not None
    if kind in ("safetensors", "verify, then load"):
        importlib.import_module("safetensors.flax")
        importlib.import_module("flax")
    if kind == "orbax":
        importlib.import_module("orbax.checkpoint")
    jax.device_put(np.zeros(1)).block_until_ready()


def _heat(size: int) -> None:
    """Touches memory, so that the host of a virtual machine has given it already."""
    memory = np.empty(size, np.uint8)
    memory[::4096] = 1


def _peak_kb() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) if found else 0


def main(kind: str, path: str, heat: str) -> None:
    _warm(kind)
    if int(heat):
        _heat(int(heat))
    before = _peak_kb()
    start = time.perf_counter()
    tree = KINDS[kind](path)
    jax.block_until_ready(tree)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "grown": 1024 * (_peak_kb() - before)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
