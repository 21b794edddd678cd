"""Files of format version 1, made once: every later version must read them.

The reader in this file uses the standard library alone, and follows
docs/checkpoint-format.md: what it can't read, another language can't either.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from golden_trees import everything

import safejax
import safejax.orbax

DATA = Path(__file__).parent / "data" / "v1"
SECRET = bytes(range(32))
KEY = safejax.Key(SECRET, id="golden")
RING = safejax.KeyRing(KEY)


def raw(leaf: Any) -> bytes:
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    ):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


@pytest.mark.parametrize("digest", ["sha256", "blake3"])
def test_file_with_one_of_everything_loads(digest: str):
    if digest == "blake3":
        pytest.importorskip("blake3")
    ring = safejax.KeyRing(KEY, digest=digest)
    options = {"context": "prod/digits", "min_step": 1200, "expect_run_id": "run-1"}
    path = DATA / f"{digest}.ckpt"
    for like in (None, everything()):
        got = safejax.signed_load(path, key=ring, like=like, **options)
        wanted = everything()
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
        for mine, leaf in pairs:
            assert isinstance(mine, jax.Array) == isinstance(leaf, jax.Array)
            assert raw(mine) == raw(leaf)


def test_folder_and_orbax_signature_load():
    got = safejax.signed_load(DATA / "folder.ckpt", key=RING, min_step=7)
    assert got["a"].tolist() == [0, 1, 2, 3]
    assert got["n"] == 3
    safejax.orbax.verify(DATA / "orbax" / "7", key=RING, context="o", min_step=7)


def test_version_of_today_still_writes_the_same_bytes(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        sys.modules["time"], "time_ns", lambda: 1_767_225_600_000_000_000
    )
    safejax.signed_save(
        tmp_path / "x",
        everything(),
        key=RING,
        step=1200,
        context="prod/digits",
        run_id="run-1",
        metadata={"lr": 1e-3, "tags": ["a", None, True]},
    )

    assert (tmp_path / "x").read_bytes() == (DATA / "sha256.ckpt").read_bytes()


# --- by the document alone --------------------------------------------------------


def read_by_the_document(data: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length]
    mac = header[79:143].decode()
    unsigned = header[:79] + b"0" * 64 + header[143:]
    root = hmac.digest(b"safejax/1", SECRET, "sha256")
    sub = hmac.digest(root, b"mac/checkpoint\x01", "sha256")
    message = b"safejax-signed-file-v1\0" + data[:8] + struct.pack("<Q", len(data))
    assert hmac.digest(sub, message + unsigned, "sha256").hex() == mac
    document = json.loads(header)
    metadata = document.pop("__metadata__")
    body, chunk = data[8 + length :], int(metadata["chunk"])
    digests = "".join(
        hashlib.sha256(body[at : at + chunk]).hexdigest()
        for at in range(0, len(body), chunk)
    )
    assert digests == metadata["digests"]
    return metadata, {
        name: body[slice(*entry["data_offsets"])] for name, entry in document.items()
    }


def test_document_is_enough_to_read_a_file():
    metadata, arrays = read_by_the_document((DATA / "sha256.ckpt").read_bytes())

    assert metadata["key"] == "golden".ljust(32)
    assert metadata["step"] == "1200"
    assert json.loads(metadata["metadata"]) == {"lr": 1e-3, "tags": ["a", None, True]}
    assert arrays["jax/f32"] == np.arange(6, dtype=np.float32).tobytes()
    assert arrays["jax/i4"] == bytes([0xED, 0x0F, 0x21, 0x03])
    assert arrays["odd~1~0names/"] == struct.pack("<q", 1)
    notes = json.loads(metadata["leaves"])
    assert notes["jax/i4"] == ["jax", "int4", [7]]
    assert notes["keys"] == ["key:threefry2x32", "uint32", [2, 2]]
    assert json.loads(metadata["tree"])["dict"]["numbers"] == {
        "ints": [[3, 0], [10, 0]]
    }


def test_smallest_file_is_that_of_the_document():
    page = Path(__file__).parents[1] / "docs" / "checkpoint-format.md"
    dump = (
        page.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    )
    data = (DATA / "smallest.ckpt").read_bytes()

    assert dump.strip() == hex_dump(data)
    read_by_the_document(data)


def hex_dump(data: bytes) -> str:
    """Sixteen bytes a line, as in the document."""
    lines = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{at:04x}  {part.hex(chr(32)):<47}  {text}".rstrip())
    return "\n".join(lines)
