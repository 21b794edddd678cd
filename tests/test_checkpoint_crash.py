"""A save that is killed at any instant: the old checkpoint or the new one, whole."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import safejax

RING = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
SIZE = 1 << 19

SAVER = """
import os, sys, numpy as np, safejax
ring = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
path, sharded = sys.argv[1], sys.argv[2] == "folder"
step, save = int(sys.argv[3]), safejax.signed_save
print("ready", flush=True)
while True:
    step += 1
    tree = {"a": np.full(1 << 19, step), "b": [step, np.full(9, step)]}
    save(path, tree, key=ring, step=step, sharded=sharded)
"""


def whole_step(path: Path) -> int:
    """The step of the checkpoint, all of which must be of it."""
    got = safejax.signed_load(path, key=RING)
    (value,) = set(np.unique(got["a"])) | {got["b"][0]} | set(np.unique(got["b"][1]))
    return int(value)


def kill_many_times(tmp_path: Path, kind: str, count: int) -> None:
    path = tmp_path / "model.ckpt"
    chance = random.Random(0)
    step = 1
    tree = {"a": np.full(SIZE, step), "b": [step, np.full(9, step)]}
    safejax.signed_save(path, tree, key=RING, sharded=kind == "folder")
    killed_while_saving = 0
    for _ in range(count):
        saver = subprocess.Popen(
            [sys.executable, "-P", "-c", SAVER, str(path), kind, str(step)],
            stdout=subprocess.PIPE,
        )
        with saver:
            assert saver.stdout is not None
            ready = saver.stdout.readline()
            time.sleep(chance.random() * 0.06)
            saver.send_signal(signal.SIGKILL)
        assert ready == b"ready\n"
        now = whole_step(path)
        assert now >= step
        step = now
        killed_while_saving += bool(list(tmp_path.rglob("*.sj-tmp")))

    assert killed_while_saving > count // 10
    safejax.signed_save(path, tree, key=RING, sharded=kind == "folder")
    assert list(tmp_path.rglob("*.sj-tmp")) == []
    assert len(list(tmp_path.rglob("*"))) == (1 if kind == "file" else 3)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_save_leaves_the_old_checkpoint_or_the_new(tmp_path: Path, kind: str):
    kill_many_times(tmp_path, kind, 5)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_500_killed_saves(tmp_path: Path, kind: str):
    kill_many_times(tmp_path, kind, 250)


@pytest.mark.slow
def test_save_that_is_killed_at_each_of_its_system_calls(tmp_path: Path):
    """A child stops itself before its n-th call that touches the file system."""
    path = tmp_path / "model.ckpt"
    code = """
import os, signal, sys, numpy as np, safejax
ring = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
left = [int(sys.argv[2])]
def counted(real):
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
for name in ("open", "pwritev", "fsync", "rename", "link", "unlink", "close"):
    setattr(os, name, counted(getattr(os, name)))
safejax.signed_save(sys.argv[1], {"a": np.full(9, 2), "b": [2, np.full(9, 2)]},
                    key=ring)
os.write(1, b"done")
"""
    for turn in range(1, 40):
        tree = {"a": np.full(9, 1), "b": [1, np.full(9, 1)]}
        safejax.signed_save(path, tree, key=RING)
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, str(path), str(turn)],
            stdout=subprocess.PIPE,
            check=False,
        )
        assert whole_step(path) in (1, 2)
        if done.stdout == b"done":
            assert turn > 6
            assert whole_step(path) == 2
            break
    else:
        pytest.fail("the save never ended")
