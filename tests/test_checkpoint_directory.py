"""Folders of checkpoints: the newest that verifies, and how many are kept."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import safejax

RING = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))


def save(folder: Path, step: int, **options: object) -> Path:
    path = folder / f"step-{step}.ckpt"
    safejax.signed_save(path, {"step": step}, key=RING, step=step, **options)
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_newest_is_that_of_the_last_step_not_of_the_last_name(tmp_path: Path):
    for step in (9, 100, 20):
        save(tmp_path, step)

    assert safejax.latest(tmp_path, key=RING).name == "step-100.ckpt"


def test_of_one_step_the_later_one_counts(tmp_path: Path, monkeypatch):
    import time

    clock = [10**18]
    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    safejax.signed_save(tmp_path / "b", 1, key=RING)
    clock[0] += 10**9
    safejax.signed_save(tmp_path / "a", 1, key=RING)

    assert safejax.latest(tmp_path, key=RING).name == "a"


@pytest.mark.parametrize("at", [3, 200, -1])
def test_damaged_ones_are_skipped_with_a_warning_or_refused(tmp_path: Path, at: int):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    flip(bad, at)

    with pytest.warns(RuntimeWarning, match=r"skipped .*step-2.ckpt"):
        assert safejax.latest(tmp_path, key=RING) == good
    with pytest.raises((safejax.SignatureError, safejax.FormatError)) as caught:
        safejax.latest(tmp_path, key=RING, on_damaged="raise")
    assert "step-2.ckpt" in caught.value.__notes__[0]


def test_other_contexts_other_names_links_and_hidden_files_do_not_count(tmp_path: Path):
    good = save(tmp_path, 1, context="a")
    save(tmp_path, 2, context="b")
    (tmp_path / "step-9.ckpt").symlink_to(good)
    (tmp_path / ".step-8.ckpt").write_bytes(good.read_bytes())
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = safejax.latest(tmp_path, key=RING, context="a", pattern="*.ckpt")

    assert found == good


def test_folder_without_any_is_an_error(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(safejax.StorageError):
            safejax.latest(folder, key=RING)
    with pytest.raises(ValueError, match="on_damaged"):
        safejax.latest(tmp_path, key=RING, on_damaged="ignore")


def test_foreign_key_signs_no_candidate(tmp_path: Path):
    good = save(tmp_path, 1)
    other = safejax.KeyRing.generate(id="test")
    safejax.signed_save(tmp_path / "x", 1, key=other, step=99)

    with pytest.warns(RuntimeWarning, match="skipped"):
        assert safejax.latest(tmp_path, key=RING) == good


def test_only_so_many_are_kept_and_nothing_else_is_touched(tmp_path: Path):
    damaged = save(tmp_path, 0)
    flip(damaged, -1)
    header = save(tmp_path, 50)
    flip(header, 150)
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path, 3, context="other")
    for step in range(1, 7):
        if step != 3:
            save(tmp_path, step, keep=3)

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "notes.txt", "step-50.ckpt", "step-3.ckpt",
        "step-4.ckpt", "step-5.ckpt", "step-6.ckpt",
    }  # fmt: skip


def test_an_older_save_removes_no_newer_one(tmp_path: Path):
    save(tmp_path, 10)
    save(tmp_path, 5, keep=1)

    assert {path.name for path in tmp_path.iterdir()} == {
        "step-10.ckpt",
        "step-5.ckpt",
    }


def test_folders_of_many_processes_count_and_are_removed(tmp_path: Path):
    save(tmp_path, 1, sharded=True)
    save(tmp_path, 2, sharded=True)

    assert safejax.latest(tmp_path, key=RING).name == "step-2.ckpt"
    save(tmp_path, 3, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-3.ckpt"]


def test_async_save_keeps_so_many_too(tmp_path: Path):
    for step in (1, 2, 3):
        safejax.signed_save_async(
            tmp_path / str(step), 1, key=RING, step=step, keep=2
        ).result()

    assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}


@pytest.mark.parametrize("keep", [0, -1, 1.5, True])
def test_keep_is_a_count(tmp_path: Path, keep: object):
    with pytest.raises((ValueError, TypeError)):
        save(tmp_path, 1, keep=keep)
