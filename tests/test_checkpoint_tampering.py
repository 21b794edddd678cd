"""Files that were changed: none is accepted, and none ends in another error.

The mutations of a file are cheap because most fail at its header; those of a signed
header, made by a forger that has the key, are in test_signing.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import safejax

RING = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
REFUSED = (safejax.SignatureError, safejax.FormatError, safejax.RollbackError)


def tree() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "w": rng.random((120, 128), np.float32),
        "b": [jnp.ones(7, jnp.bfloat16), 3, None, 2.5],
        "s": {"x": jnp.arange(100)},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tampering")


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    path = folder / "whole"
    safejax.signed_save(path, tree(), key=RING, step=5, metadata={"a": [1, 2.5]})
    return path.read_bytes()


def refused(folder: Path, data: bytes | bytearray, **options: Any) -> bool:
    """Whether such a file is refused, with one of the three errors."""
    path = folder / "changed"
    path.write_bytes(data)
    try:
        safejax.signed_load(path, key=RING, **options)
    except REFUSED:
        return True
    return False


def test_the_file_of_these_tests_is_64_kib_and_loads(folder: Path, whole: bytes):
    assert 60_000 < len(whole) < 72_000
    assert not refused(folder, whole)


def test_every_byte_flipped(folder: Path, whole: bytes):
    """All of the header and of each kind of data; the rest in the slow test."""
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [*range(header), *range(header, len(whole), 61), *range(-600, 0)]
    _flip_all(folder, whole, places)


@pytest.mark.slow
def test_really_every_byte_flipped(folder: Path, whole: bytes):
    _flip_all(folder, whole, range(len(whole)))


def _flip_all(folder: Path, whole: bytes, places: Any) -> None:
    path = folder / "flipped"
    path.write_bytes(whole)
    accepted = []
    with path.open("r+b", buffering=0) as file:
        for place in places:
            at = place % len(whole)
            os.pwrite(file.fileno(), bytes([whole[at] ^ (1 << at % 8)]), at)
            try:
                safejax.signed_load(path, key=RING)
                accepted.append(at)
            except REFUSED:
                pass
            os.pwrite(file.fileno(), whole[at : at + 1], at)

    assert accepted == []
    safejax.signed_load(path, key=RING)


def test_every_truncation(folder: Path, whole: bytes):
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    path = folder / "cut"
    path.write_bytes(whole)
    for length in (*range(len(whole) - 1, header, -97), *range(header, -1, -1)):
        os.truncate(path, length)
        with pytest.raises(REFUSED):
            safejax.signed_load(path, key=RING)


def test_appended_and_prepended_bytes(folder: Path, whole: bytes):
    for data in (whole + b"\0", b"\0" + whole, whole + whole, whole[:-1] + b"\0\0"):
        assert refused(folder, data)


EDITS = st.one_of(
    st.tuples(
        st.just("set"), st.integers(0, 1 << 17), st.binary(min_size=1, max_size=9)
    ),
    st.tuples(st.just("cut"), st.integers(0, 1 << 17), st.integers(1, 5000)),
    st.tuples(
        st.just("add"), st.integers(0, 1 << 17), st.binary(min_size=1, max_size=64)
    ),
    st.tuples(st.just("move"), st.integers(0, 1 << 17), st.integers(1, 5000)),
    st.tuples(st.just("length"), st.integers(0, 2**64 - 1), st.just(0)),
)


def edited(whole: bytes, edits: list[Any]) -> bytes:
    data = bytearray(whole)
    for kind, at, what in edits:
        place = at % (len(data) + 1)
        if kind == "set":
            data[place : place + len(what)] = what
        elif kind == "cut":
            del data[place : place + what]
        elif kind == "add":
            data[place:place] = what
        elif kind == "move":
            part = data[place : place + what]
            del data[place : place + what]
            data += part
        else:
            data[:8] = struct.pack("<Q", at)
    return bytes(data)


def _mutations(folder: Path, whole: bytes, count: int) -> None:
    @given(st.lists(EDITS, min_size=1, max_size=4))
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def run(edits: list[Any]) -> None:
        data = edited(whole, edits)
        if data != whole:
            assert refused(folder, data)

    run()


def test_mutations(folder: Path, whole: bytes):
    _mutations(folder, whole, 500)


@pytest.mark.slow
def test_20_000_mutations(folder: Path, whole: bytes):
    _mutations(folder, whole, 20_000)


def test_swapped_chunks(folder: Path):
    path = folder / "chunks"
    big = np.arange(1 << 17, dtype=np.float64)
    safejax.signed_save(path, big, key=RING)
    data = bytearray(path.read_bytes())
    start, chunk = 8 + struct.unpack("<Q", data[:8])[0], 1 << 18
    first, second = slice(start, start + chunk), slice(start + chunk, start + 2 * chunk)
    data[first], data[second] = data[second], data[first]

    assert refused(folder, data)


@pytest.mark.parametrize(
    "length", [0, 1, 150, 2**31, 2**32 - 1, 10**8, 2**63 - 1, 2**63, 2**64 - 1]
)
def test_any_claimed_length_of_the_header(folder: Path, whole: bytes, length: int):
    assert refused(folder, struct.pack("<Q", length) + whole[8:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"safejax":"1"', b'"safejax":"0"'),
        (b'"safejax":"1"', b'"safejax":"2"'),
        (b'"digest":"sha256"', b'"digest":"blake3"'),
        (b'"digest":"sha256"', b'"digest":"sha512"'),
        (b'"purpose":"checkpoint"', b'"purpose":"checkpoinT"'),
        (b'"step":"5"', b'"step":"9"'),
        (b'"dtype":"F32"', b'"dtype":"U32"'),
        (b'"mac":"', b'"mac": '),
        (b'"key":"test ', b'"key":"none '),
    ],
)
def test_downgrades_and_other_words(folder: Path, whole: bytes, old: bytes, new: bytes):
    assert whole.count(old) >= 1

    assert refused(folder, whole.replace(old, new))


def test_foreign_keys(folder: Path):
    path = folder / "foreign"
    for ring in (
        safejax.KeyRing.generate(id="test"),
        safejax.KeyRing.generate(id="other"),
    ):
        safejax.signed_save(path, tree(), key=ring)
        with pytest.raises(safejax.SignatureError):
            safejax.signed_load(path, key=RING)


def test_data_of_another_checkpoint_of_the_same_key(folder: Path, whole: bytes):
    path = folder / "other"
    other = {**tree(), "w": tree()["w"] + 1}
    safejax.signed_save(path, other, key=RING, step=5, metadata={"a": [1, 2.5]})
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    assert len(data) == len(whole)

    assert refused(folder, whole[:start] + data[start:])
    assert refused(folder, data[:start] + whole[start:])


def test_pickles_are_never_read(folder: Path, whole: bytes):
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(folder / "exploded"),))

    bomb = pickle.dumps(Bomb())
    for data in (bomb, whole[:8] + bomb, whole + bomb, whole[: -len(bomb)] + bomb):
        assert refused(folder, data)
    assert not (folder / "exploded").exists()


# --- while it is being loaded -----------------------------------------------------


def big_file(folder: Path) -> Path:
    path = folder / "big"
    safejax.signed_save(path, {"a": np.arange(1 << 20, dtype=np.float32)}, key=RING)
    return path


@pytest.mark.parametrize("when", [1, 3, 5])
@pytest.mark.parametrize("how", ["write", "cut", "replace"])
def test_file_that_changes_while_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: str, when: int
):
    """Either what was signed is loaded, or nothing is."""
    path, real, calls = big_file(folder), os.preadv, []
    size = path.stat().st_size

    def change(*args: Any) -> int:
        calls.append(args)
        if len(calls) == when:
            if how == "write":
                with path.open("r+b") as file:
                    file.seek(size // 2)
                    file.write(b"changed" * 1000)
            elif how == "cut":
                os.truncate(path, size // 2)
            else:
                path.with_name("new").write_bytes(b"another file")
                path.with_name("new").rename(path)
        return real(*args)

    monkeypatch.setattr(os, "preadv", change)
    try:
        got = safejax.signed_load(path, key=RING)["a"]
    except REFUSED:
        return
    np.testing.assert_array_equal(got, np.arange(1 << 20, dtype=np.float32))


def test_file_that_changes_after_it_was_loaded_changes_nothing(folder: Path):
    path = big_file(folder)
    like = {"a": jnp.zeros(1 << 20)}
    got = safejax.signed_load(path, key=RING, like=like)["a"]
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff" * (1 << 20))
    os.truncate(path, 0)

    np.testing.assert_array_equal(got, np.arange(1 << 20, dtype=np.float32))


# --- memory -----------------------------------------------------------------------

# Not ru_maxrss: a child inherits its parent's.
MEMORY = """
import re, sys, safejax

def peak():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

ring = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
safejax.signed_save(sys.argv[1] + ".warm", {"a": 1}, key=ring)
safejax.signed_load(sys.argv[1] + ".warm", key=ring)
before = peak()
code = "loaded"
try:
    tree = safejax.signed_load(sys.argv[1], key=ring)
except (safejax.SignatureError, safejax.FormatError) as error:
    code = error.code
print(code, peak() - before)
"""


def load_apart(path: Path) -> tuple[str, int]:
    """What a fresh process says of a file, and how many bytes it grew by."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEMORY, str(path)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    code, grown_kb = done.stdout.split()
    return code, int(grown_kb) * 1024


def test_huge_sparse_file_asks_for_no_memory(folder: Path, whole: bytes):
    """A terabyte that takes no room on the disk, with a header that claims it."""
    path = folder / "sparse"
    path.write_bytes(struct.pack("<Q", 2**39) + whole[8:])
    os.truncate(path, 2**40)
    code, grown = load_apart(path)

    assert code == "SJ503"
    assert grown < 20 << 20


def test_peak_memory_of_a_load_is_the_tree(folder: Path):
    path = folder / "peak"
    size = 96 << 20
    safejax.signed_save(path, {"a": jnp.ones(size, jnp.uint8)}, key=RING)
    code, grown = load_apart(path)

    assert code == "loaded"
    assert size * 0.9 < grown < size * 1.1 + (32 << 20)
