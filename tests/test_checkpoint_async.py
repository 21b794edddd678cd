"""Saves behind the program: what they keep, and that their errors are not lost."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import safejax

RING = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.ckpt"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits for it."""
    opened, real = threading.Event(), os.pwritev

    def wait(*args: object) -> int:
        opened.wait(30)
        return real(*args)

    monkeypatch.setattr(os, "pwritev", wait)
    return opened


def test_tree_is_saved_as_it_was(path: Path, gate: threading.Event):
    tree = {
        "jax": jnp.arange(1 << 20, dtype=jnp.float32),
        "numpy": np.zeros(5),
        "small": [jnp.ones(3)],
        "key": jax.random.key(1),
    }
    saving = safejax.signed_save_async(path, tree, key=RING, step=1)
    tree["numpy"][:] = 7
    step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    tree["jax"] = jax.block_until_ready(step(tree["jax"]))

    assert not saving.done()
    with pytest.raises(TimeoutError):
        saving.result(timeout_s=0.01)
    gate.set()
    saving.result()
    got = safejax.signed_load(path, key=RING)
    np.testing.assert_array_equal(got["jax"], np.arange(1 << 20, dtype=np.float32))
    assert got["numpy"].tolist() == [0] * 5
    assert saving.done()


def failing(path: Path, monkeypatch: pytest.MonkeyPatch) -> safejax.PendingSave:
    def fail(*args: object) -> int:
        raise OSError(errno.ENOSPC, "")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", fail)
        saving = safejax.signed_save_async(path, {"a": 1}, key=RING)
        assert saving._ended.wait(30)
    return saving


def test_error_is_raised_by_the_result(path: Path, monkeypatch: pytest.MonkeyPatch):
    saving = failing(path, monkeypatch)

    for _ in range(2):
        with pytest.raises(safejax.StorageError, match="No space"):
            saving.result()
    safejax.signed_save(path, {}, key=RING)


@pytest.mark.parametrize("save", [safejax.signed_save, safejax.signed_save_async])
def test_error_that_nobody_asked_for_is_raised_by_the_next_save(
    path: Path, monkeypatch: pytest.MonkeyPatch, save
):
    failing(path, monkeypatch)

    with pytest.raises(safejax.StorageError, match="No space"):
        save(path, {}, key=RING)
    assert not path.exists()
    done = save(path, {}, key=RING)
    if done is not None:
        done.result()
    assert path.exists()


def test_what_can_be_refused_is_refused_at_once(path: Path):
    with pytest.raises(safejax.FormatError):
        safejax.signed_save_async(path, {"a": "text"}, key=RING)
    path.mkdir()
    with pytest.raises(safejax.StorageError):
        safejax.signed_save_async(path, {}, key=RING)


def test_several_saves_to_one_place_at_once_leave_a_whole_one(path: Path):
    saves = [
        safejax.signed_save_async(path, np.full(1 << 18, i), key=RING, step=i)
        for i in range(6)
    ]
    for save in saves:
        save.result()
    got = safejax.signed_load(path, key=RING)

    assert len(set(got.tolist())) == 1
    assert list(path.parent.iterdir()) == [path]
