"""The commands about keys and checkpoints."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import safejax
from safejax.cli._main import main


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAFEJAX_KEY", raising=False)
    return tmp_path


@pytest.fixture
def ring(place: Path) -> safejax.KeyRing:
    safejax.KeyRing.generate(id="first").to_file("key")
    return safejax.KeyRing.from_file("key")


@pytest.fixture
def saved(ring: safejax.KeyRing) -> Path:
    tree = {"w": jnp.ones((3, 4), jnp.bfloat16), "n": 3}
    safejax.signed_save(
        "a.ckpt", tree, key=ring, step=12, context="prod", metadata={"lr": 0.1}
    )
    return Path("a.ckpt")


KEY = ["--key-file", "key"]


def test_keygen_writes_a_private_file_once(place: Path, capsys):
    assert main(["keygen", "-o", "key", "--name", "2026"]) == 0
    first = Path("key").read_text()

    assert Path("key").stat().st_mode & 0o777 == 0o600
    assert first.split()[2] not in capsys.readouterr().out
    assert main(["keygen", "-o", "key"]) == 2
    assert Path("key").read_text() == first
    assert main(["keygen", "-o", "key", "--overwrite"]) == 0
    assert Path("key").read_text() != first


def test_keygen_prints_what_the_environment_takes(
    capsys, monkeypatch: pytest.MonkeyPatch
):
    assert main(["keygen"]) == 0
    line = capsys.readouterr().out
    monkeypatch.setenv("SAFEJAX_KEY", line)

    assert safejax.KeyRing.from_env("SAFEJAX_KEY").ids == (line.split()[0],)
    assert main(["keygen", "--name", "no good"]) == 2


def test_inspect_without_a_key_says_that_nothing_was_verified(saved: Path, capsys):
    assert main(["inspect", "a.ckpt"]) == 0
    out = capsys.readouterr().out

    assert "NOT VERIFIED" in out
    for word in ("bfloat16[3, 4]", "Python int", "12", "prod", '{"lr": 0.1}'):
        assert word in out


def test_inspect_with_a_key(saved: Path, capsys):
    assert main(["inspect", "a.ckpt", *KEY]) == 0
    assert "verified, key first" in capsys.readouterr().out
    assert main(["inspect", "a.ckpt", "--json", *KEY]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"] is True
    assert facts["leaves"]["w"]["shape"] == [3, 4]
    data = bytearray(saved.read_bytes())
    data[150] ^= 1
    saved.write_bytes(data)
    assert main(["inspect", "a.ckpt", *KEY]) == 1


def test_inspect_shows_no_control_characters_of_a_file(ring, capsys):
    tree = {"\x1b[31mred\n": jnp.ones(1)}
    safejax.signed_save("a", tree, key=ring, context="\x1b]0;title\x07")
    assert main(["inspect", "a"]) == 0
    out = capsys.readouterr().out

    assert "\x1b" not in out
    assert "\x07" not in out


@pytest.mark.parametrize("data", [b"", b"x" * 500, pickle.dumps({"a": 1}) * 9])
def test_inspect_of_what_is_no_checkpoint(data: bytes, capsys):
    Path("x").write_bytes(data)

    assert main(["inspect", "x"]) == 1
    assert main(["inspect", "missing"]) == 2
    assert "safejax inspect" in capsys.readouterr().err


def test_inspect_of_a_folder(ring, capsys):
    safejax.signed_save("many", {"a": jnp.ones(2)}, key=ring, sharded=True, step=4)
    assert main(["inspect", "many"]) == 0
    assert "float32[2]" in capsys.readouterr().out
    assert main(["inspect", "many", *KEY]) == 0


def test_verify_has_an_exit_status_for_each_outcome(saved: Path, capsys):
    assert main(["verify", "a.ckpt", *KEY]) == 0
    assert main(["verify", ".", *KEY]) == 1  # the key file is none
    assert (
        main(["verify", "a.ckpt", *KEY, "--context", "prod", "--min-step", "12"]) == 0
    )
    assert main(["verify", "a.ckpt", *KEY, "--context", "dev"]) == 1
    assert main(["verify", "a.ckpt", *KEY, "--min-step", "13"]) == 1
    assert main(["verify", "a.ckpt"]) == 2
    assert main(["verify", "missing", *KEY]) == 2
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    assert main(["verify", "a.ckpt", *KEY]) == 1
    assert "signature verification failed" in capsys.readouterr().err


@pytest.mark.parametrize("sharded", [False, True])
def test_resign_after_a_rotation(ring, sharded: bool):
    tree = {"w": jnp.arange(1 << 17), "n": 1}
    safejax.signed_save("c", tree, key=ring, step=3, sharded=sharded)
    new = safejax.Key(bytes(range(60, 100)), id="second")
    both = safejax.KeyRing(new, verify=[ring.primary])
    both.to_file("both")

    assert main(["resign", "c", "--key-file", "both"]) == 0
    only = safejax.KeyRing(new, revoked=["first"])
    got = safejax.signed_load("c", key=only, min_step=3)
    assert got["w"].tolist() == list(range(1 << 17))
    with pytest.raises(safejax.SignatureError):
        safejax.signed_load("c", key=ring)


def test_resign_refuses_what_does_not_verify(saved: Path):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)

    assert main(["resign", "a.ckpt", *KEY]) == 1
    assert saved.read_bytes() == data
    assert {path.name for path in Path().iterdir()} == {"a.ckpt", "key"}


# --- convert ----------------------------------------------------------------------


def arrays() -> dict[str, Any]:
    return {
        "a/w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a/h": np.arange(4).astype(ml_dtypes.bfloat16),
        "f8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
        "empty": np.zeros((0, 3), np.int8),
        "scalar": np.array(2.5),
    }


def same(got: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return got.keys() == wanted.keys() and all(
        got[k].dtype == v.dtype and got[k].tobytes() == v.tobytes()
        for k, v in wanted.items()
    )


def test_safetensors_into_signed_and_back(ring, capsys):
    st = pytest.importorskip("safetensors.numpy")
    st.save_file(arrays(), "x.safetensors")
    assert main(["convert", "x.safetensors", "x", *KEY, "--step", "3"]) == 0
    assert "not verified" in capsys.readouterr().out
    assert same(safejax.signed_load("x", key=ring, min_step=3), arrays())
    assert main(["convert", "x", "y.safetensors", "--to", "safetensors", *KEY]) == 0
    assert main(["convert", "y.safetensors", "z", *KEY]) == 0
    assert main(["convert", "y.safetensors", "z", *KEY]) == 2
    got = safejax.signed_load("z", key=ring)
    names = {name.replace("~1", "/"): value for name, value in got.items()}
    assert same(names, arrays())


def test_names_are_split_where_one_says_so(ring):
    np.savez("x.npz", **{"a.w": np.ones(2), "a.h.x": np.ones(3)})
    command = ["convert", "x.npz", "x", *KEY, "--separator", "."]
    assert main(command) == 0
    assert safejax.signed_load("x", key=ring)["a"]["h"]["x"].shape == (3,)
    np.savez("x.npz", **{"a": np.ones(2), "a.h": np.ones(3)})
    assert main([*command, "--overwrite"]) == 1


def test_npz_never_with_pickle(ring, place: Path):
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.mkdir, (place / "exploded",))

    np.savez("x.npz", a=np.array([Bomb()], dtype=object))
    assert main(["convert", "x.npz", "x", *KEY]) == 1
    assert not (place / "exploded").exists()


HEADERS = [b"(" * 8, b"-" * 9000 + b"1", b"{'descr': " + b"[" * 999, b"\xff", b"1"]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_npz_with_a_header_that_is_none_is_malformed(ring, capsys, header):
    """NumPy lets errors of Python's tokenizer and parser out."""
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("a.npy", start + header)

    assert main(["convert", "x.npz", "x", *KEY]) == 1
    assert "[SJ503]" in capsys.readouterr().err


def test_npz_that_claims_more_than_it_has(ring):
    head = b"\x93NUMPY\x01\x00"
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }\n"
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("a.npy", head + struct.pack("<H", len(text)) + text)

    assert main(["convert", "x.npz", "x", *KEY]) == 1
    np.savez("y.npz", f=np.asfortranarray(np.arange(6).reshape(2, 3)))
    assert main(["convert", "y.npz", "y", *KEY]) == 0
    assert safejax.signed_load("y", key=ring)["f"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":["x"]}}',
        b'{"a":3}',
        b"[]",
        b"[" * 10_000,
    ],
)
def test_malformed_safetensors(ring, header: bytes):
    Path("x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"abcd")

    assert main(["convert", "x.safetensors", "x", *KEY]) == 1
    assert not Path("x").exists()


def test_flax_msgpack(ring):
    tree = {"a": {"w": np.arange(3.0)}, "b": np.arange(2).astype(ml_dtypes.bfloat16)}
    Path("x.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    assert main(["convert", "x.msgpack", "x", *KEY]) == 0
    got = safejax.signed_load("x", key=ring)
    assert got["a"]["w"].tolist() == [0, 1, 2]
    assert got["b"].dtype == ml_dtypes.bfloat16
    Path("x.msgpack").write_bytes(b"\xc1 no msgpack")
    assert main(["convert", "x.msgpack", "y", *KEY]) == 1


def test_orbax_folder(ring, place: Path):
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(place / "run", {"a": {"w": np.arange(3.0)}, "b": 4})
    assert main(["convert", "run", "x", *KEY]) == 0
    assert np.asarray(safejax.signed_load("x", key=ring)["a"]["w"]).tolist() == [
        0,
        1,
        2,
    ]
    Path("empty").mkdir()
    assert main(["convert", "empty", "y", *KEY]) == 1


def test_format_that_nobody_knows(ring, capsys):
    Path("x.bin").write_bytes(b"what?")

    assert main(["convert", "x.bin", "y", *KEY]) == 1
    assert "--from" in capsys.readouterr().err
