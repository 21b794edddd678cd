"""Signatures checked by `safejax.signing`, also in a process without JAX."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import safejax
from safejax.cli._main import main
from safejax.signing import verify_file
from safejax.signing._blob import seal

RING = safejax.KeyRing.generate(id="docs")

WITHOUT_JAX = """
import sys
from safejax.signing import KeyRing, verify_file
file = verify_file(sys.argv[1], key=KeyRing.from_file(sys.argv[2]))
print(file.kind, file.key_id, file.fields["context"], file.data_bytes)
assert not {"jax", "jaxlib", "numpy"} & set(sys.modules), "imported"
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    safejax.signed_save(
        tmp_path / "checkpoint", {"w": jnp.ones(3)}, key=RING, context="c"
    )
    safejax.signed_dump(tmp_path / "data", [1, 2], key=RING, context="c")
    return {path.name: path for path in tmp_path.iterdir()}


def test_every_kind_is_verified(files: dict[str, Path]):
    for kind, path in files.items():
        found = verify_file(path, key=RING, kind=kind)

        assert (found.kind, found.key_id, found.verified) == (kind, "docs", True)
        assert found.fields["context"] == "c"


def test_a_process_without_jax_verifies(files: dict[str, Path], tmp_path: Path):
    RING.to_file(tmp_path / "key")
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_JAX, files["data"], tmp_path / "key"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == ["data", "docs", "c", "5"], done.stderr


def test_another_kind_is_refused(files: dict[str, Path]):
    with pytest.raises(safejax.FormatError, match="kind"):
        verify_file(files["data"], key=RING, kind="checkpoint")


def test_changed_data_is_refused(files: dict[str, Path]):
    for path in files.values():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(safejax.SignatureError):
            verify_file(path, key=RING)


def test_a_purpose_of_another_spelling_is_refused(files: dict[str, Path]):
    path = files["data"]
    path.write_bytes(path.read_bytes().replace(b'"data"', b'"DATA"', 1))

    with pytest.raises(safejax.FormatError):
        verify_file(path, key=RING)


# --- the commands -----------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    RING.to_file(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    safejax.signed_export(
        tmp_path / "program",
        jnp.sin,
        safejax.spec("f32[n]"),
        key=RING,
        context="c",
        step=7,
        expires_in_s=3600,
    )
    return tmp_path / "program"


def test_verify_takes_every_kind(
    files: dict[str, Path], program: Path, key_file: Path, capsys: Any
):
    paths = [*files.values(), program]
    status, out, _ = run(
        capsys, "verify", *paths, "--key-file", key_file, "--context", "c"
    )

    assert status == 0
    assert "program: verified, program, context c, step 7" in out
    assert "data: verified, data, context c" in out


def test_verify_refuses_another_context_and_a_changed_file(
    program: Path, key_file: Path, capsys: Any
):
    arguments = ("verify", program, "--key-file", key_file)
    assert run(capsys, *arguments, "--context", "d")[0] == 1
    assert run(capsys, *arguments, "--min-step", "8")[0] == 1
    program.write_bytes(program.read_bytes()[:-1] + b"x")
    status, _, err = run(capsys, *arguments)

    assert status == 1
    assert "SJ501" in err


def test_inspect_shows_what_a_program_is(program: Path, key_file: Path, capsys: Any):
    status, out, _ = run(capsys, "inspect", program, "--key-file", key_file)
    unverified = run(capsys, "inspect", program)[1]

    assert status == 0
    for text in ("verified, key docs", "program", "f32[n]", "cpu", "expires"):
        assert text in out
    assert "NOT VERIFIED" in unverified


def test_inspect_gives_json(
    program: Path, files: dict[str, Path], key_file: Path, capsys: Any
):
    for path, kind in ((program, "program"), (files["data"], "data")):
        out = run(capsys, "inspect", path, "--json", "--key-file", key_file)[1]
        found = json.loads(out)

        assert (found["kind"], found["verified"], found["context"]) == (kind, True, "c")


def test_inspect_lets_no_file_steer_the_terminal(
    tmp_path: Path, key_file: Path, capsys: Any
):
    path = tmp_path / "data"
    safejax.signed_dump(path, 1, key=RING, metadata={"a": "\x1b[2J"})
    for arguments in (("inspect", path), ("inspect", path, "--key-file", key_file)):
        assert "\x1b" not in run(capsys, *arguments)[1]


def test_a_kind_without_a_context_has_none_to_ask_for(
    tmp_path: Path, key_file: Path, capsys: Any
):
    path = tmp_path / "other"
    path.write_bytes(seal(b"x", purpose="other-kind", ring=RING, fields={"a": "b"}))
    arguments = ("verify", path, "--key-file", key_file)

    assert run(capsys, *arguments)[:2] == (0, f"{path}: verified, other-kind\n")
    assert run(capsys, *arguments, "--context", "c")[0] == 1
    assert "other-kind" in run(capsys, "inspect", path)[1]
