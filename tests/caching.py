"""A signed compile cache with programs in it, and compilations made of nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

import safejax
from safejax.cache import _store
from safejax.cache._entry import Entry, key_of, pack, unpack
from safejax.cache._place import SUFFIX, open_place

RING = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
STRANGERS = safejax.KeyRing(safejax.Key(bytes(range(32, 64)), id="test"))
NOW = 1_800_000_000.0

FACTS = {
    "program": "a" * 64,
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
    "xla": "1 cpu",
    "platform": "cpu",
    "device_kind": "cpu",
    "options": "b" * 64,
}


def facts(**changes: str) -> dict[str, str]:
    return {**FACTS, **changes}


def entry(facts: dict[str, str], **changes: Any) -> Entry:
    known: dict[str, Any] = {
        "facts": facts,
        "name": "f",
        "created": int(NOW * 1e3),
        "compile_ms": 2000,
        "tried": True,
    }
    return Entry(**{**known, **changes})


class Task:
    """A compilation that loads nothing, and notes what it was to load."""

    uncached_because = None
    platform = "cpu"
    name = "jit_f"

    def __init__(self, known: dict[str, str]) -> None:
        names = type("Facts", (), {"_asdict": lambda _: dict(known)})
        self.facts = names()
        self.given: list[bytes] = []

    def load(self, executable: bytes) -> Any:
        self.given.append(executable)
        return object()

    def serialized(self, executable: Any) -> tuple[bytes, bool]:
        return bytes(executable), True


def place_file(folder: Path, known: dict[str, str]) -> Path:
    return folder / f"{key_of(known)}{SUFFIX}"


def put(folder: Path, made: Entry, executable: bytes, ring: Any = RING) -> Path:
    path = place_file(folder, made.facts)
    path.write_bytes(pack(made, executable, ring))
    path.chmod(0o600)
    return path


def store(folder: Path, *, strict: bool = False, **options: Any) -> _store.Store:
    """A store that is installed nowhere."""
    settings = _store.Settings(
        options.pop("max_bytes", 1 << 20), strict, options.pop("max_age_s", None)
    )
    ring = options.pop("ring", RING)
    verdict = options.pop("verdict", "loads")
    return _store.Store(
        open_place(folder, create=True),
        ring,
        settings,
        options.pop("try_to_load", lambda *_: verdict),
        now=lambda: NOW,
        **options,
    )


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def read(path: Path) -> tuple[Entry, bytes]:
    return unpack(path.read_bytes(), RING)


@contextmanager
def cached(folder: Path, **options: Any) -> Iterator[safejax.CompileCache]:
    """A cache of this process, none of whose programs JAX remembers."""
    jax.clear_caches()
    options = {"key": RING, **options}
    with safejax.compile_cache(folder, **options) as cache:
        yield cache
    jax.clear_caches()


@contextmanager
def own_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder / "cache"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
