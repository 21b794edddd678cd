"""Orbax's folders: signed, verified, and restored only after that."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import safejax
import safejax.orbax

RING = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like a checkpoint."""
    path = tmp_path / "7"
    (path / "d" / "deep").mkdir(parents=True)
    (path / "_METADATA").write_bytes(b"{}")
    (path / "empty").write_bytes(b"")
    (path / "d" / "deep" / "data").write_bytes(os.urandom(100_000))
    safejax.orbax.sign(path, key=RING, step=7, context="m")
    return path


def test_signed_folder_verifies(folder: Path):
    safejax.orbax.verify(folder, key=RING, context="m", min_step=7)
    assert (folder.parent / "7.safejax").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "new").write_bytes(b""),
        lambda f: (f / "empty").unlink(),
        lambda f: (f / "empty").write_bytes(b"x"),
        lambda f: (f / "_METADATA").write_bytes(b"[]"),
        lambda f: (f / "_METADATA").rename(f / "other"),
        lambda f: (f / ".git").mkdir() or (f / ".git" / "evil").write_bytes(b"x"),
        lambda f: (f / "empty").unlink() or (f / "empty").symlink_to("_METADATA"),
        lambda f: os.mkfifo(f / "pipe"),
        lambda f: (f.parent / "7.safejax").write_bytes(b"no signature at all"),
    ],
)
def test_changed_folder_is_refused(folder: Path, change: Any):
    change(folder)

    with pytest.raises((safejax.SignatureError, safejax.FormatError)):
        safejax.orbax.verify(folder, key=RING, context="m")


def test_every_flipped_byte_of_the_signature_is_refused(folder: Path):
    signature = folder.parent / "7.safejax"
    whole = signature.read_bytes()
    for at in range(len(whole)):
        signature.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((safejax.SignatureError, safejax.FormatError)):
            safejax.orbax.verify(folder, key=RING, context="m")


def test_older_or_other_folders_are_refused(folder: Path):
    for wrong in ({"min_step": 8}, {"context": "x"}, {"expect_run_id": "r"}):
        with pytest.raises(safejax.RollbackError):
            safejax.orbax.verify(folder, key=RING, **{"context": "m", **wrong})
    shutil.copytree(folder, folder.parent / "9")
    shutil.copy(folder.parent / "7.safejax", folder.parent / "9.safejax")
    with pytest.raises(safejax.RollbackError, match="under a new name"):
        safejax.orbax.verify(folder.parent / "9", key=RING, context="m")


def test_missing_signature_and_limits(folder: Path):
    for limits in ({"max_files": 2}, {"max_data_bytes": 99_999}):
        with pytest.raises(safejax.FormatError, match=next(iter(limits))):
            safejax.orbax.verify(
                folder, key=RING, context="m", limits=safejax.LoadLimits(**limits)
            )
    (folder.parent / "7.safejax").unlink()
    with pytest.raises(safejax.StorageError):
        safejax.orbax.verify(folder, key=RING, context="m")


# --- with Orbax itself ------------------------------------------------------------

ocp = pytest.importorskip("orbax.checkpoint")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Any]:
    inner = ocp.CheckpointManager(
        tmp_path / "run", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    )
    signed = safejax.orbax.SignedCheckpointManager(inner, key=RING, context="m")
    yield signed
    signed.close()


def tree(value: float) -> dict[str, Any]:
    return {"w": jnp.full((64, 64), value), "b": np.arange(3.0)}


def flip_data(folder: Path) -> None:
    target = max(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)


def test_manager_signs_what_it_saves_and_verifies_what_it_restores(manager: Any):
    for step in (1, 2, 3):
        assert manager.save(step, args=ocp.args.StandardSave(tree(step)))
    got = manager.restore(3, args=ocp.args.StandardRestore(tree(0)))
    assert float(got["w"][0, 0]) == 3
    assert manager.latest_step() == 3
    run = Path(manager.manager.directory)
    assert {p.name for p in run.glob("*.safejax")} == {"2.safejax", "3.safejax"}

    flip_data(run / "3")
    with pytest.raises(safejax.SignatureError):
        manager.restore(3, args=ocp.args.StandardRestore(tree(0)))
    with pytest.raises(safejax.SignatureError):
        manager.restore(args=ocp.args.StandardRestore(tree(0)))
    assert manager.latest_step() == 2
    assert manager.latest_step(min_step=3) is None


def test_step_that_nobody_signed_is_not_restored(manager: Any):
    manager.manager.save(5, args=ocp.args.StandardSave(tree(5)))

    with pytest.raises(safejax.StorageError):
        manager.restore(5, args=ocp.args.StandardRestore(tree(0)))
    with pytest.raises(safejax.StorageError, match="can't read"):
        manager.restore()


def test_empty_manager_has_nothing_to_restore(manager: Any):
    assert manager.latest_step() is None
    with pytest.raises(safejax.StorageError, match="no checkpoint"):
        manager.restore()


def test_step_that_could_not_be_signed_is_reported(
    manager: Any, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: object, **kwargs: object) -> None:
        raise safejax.StorageError("no")

    monkeypatch.setattr(safejax.orbax, "sign", fail)
    manager.save(1, args=ocp.args.StandardSave(tree(1)))

    with pytest.raises(safejax.StorageError, match="no"):
        manager.wait_until_finished()
