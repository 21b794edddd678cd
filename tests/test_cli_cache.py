"""``safejax cache``: what is in a compile cache, and what becomes of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from caching import FACTS, RING, STRANGERS, entries, entry, facts, place_file, put

from safejax.cli._main import main


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    RING.to_file(path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for i in range(3):
        path = put(folder, entry(facts(program=f"{i:064x}"), name=f"f{i}"), bytes(999))
        os.utime(path, (i, i))
    return folder


def test_ls_lists_genuine_entries_those_used_last_first(folder, key, capsys):
    assert main(["cache", "ls", str(folder), "--key-file", key]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[4] for line in lines[:3]] == ["f2", "f1", "f0"]
    assert "2.00 s" in lines[0]
    assert lines[-1].startswith("3 entries, ")


def test_ls_as_json_says_what_is_genuine(folder, key, capsys):
    put(folder, entry(FACTS), b"x", STRANGERS)
    assert main(["cache", "ls", str(folder), "--key-file", key, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["verified"] for row in rows].count(True) == 3
    assert [row.get("rejected") for row in rows].count("signature") == 1
    assert {row.get("name") for row in rows} == {"f0", "f1", "f2", None}


def test_ls_without_a_key_says_that_nothing_is_verified(folder, capsys, monkeypatch):
    monkeypatch.delenv("SAFEJAX_KEY", raising=False)
    assert main(["cache", "ls", str(folder)]) == 0
    output = capsys.readouterr().out
    assert "not verified: no key was given" in output
    assert "f2" not in output


def test_verify_finds_what_was_swapped_forged_or_linked(folder, key, capsys):
    assert main(["cache", "verify", str(folder), "--key-file", key]) == 0
    first, second, third = entries(folder)
    first.write_bytes(second.read_bytes())
    third.unlink()
    third.symlink_to(second)
    capsys.readouterr()

    assert main(["cache", "verify", str(folder), "--key-file", key]) == 1
    output = capsys.readouterr().out
    assert f"{first.stem}: rejected: mismatch" in output
    assert f"{third.stem}: rejected: link" in output
    assert "1 entries verified, 2 rejected" in output


def test_verify_needs_a_key(folder, capsys, monkeypatch):
    monkeypatch.delenv("SAFEJAX_KEY", raising=False)
    assert main(["cache", "verify", str(folder)]) == 2
    assert "SJ504" in capsys.readouterr().err


def test_prune_removes_leftovers_and_what_was_used_longest_ago(folder, capsys):
    (folder / f".a.{'0' * 16}.sj-tmp").write_bytes(b"left by a killed process")
    (folder / "quarantine").mkdir()
    (folder / "quarantine" / "bad").write_bytes(b"x")
    one = entries(folder)[0].stat().st_size
    assert main(["cache", "prune", str(folder), "--max-bytes", str(2 * one)]) == 0
    assert "1 entries and 2 other files removed" in capsys.readouterr().out
    assert not place_file(folder, facts(program="0" * 64)).exists()
    assert len(entries(folder)) == 2
    assert list(folder.glob(".*")) == []


def test_prune_keeps_what_is_pinned_unless_told(folder, capsys):
    for path in entries(folder):
        path.chmod(0o400)
    assert main(["cache", "prune", str(folder), "--max-bytes", "0"]) == 2
    assert "see --unpin" in capsys.readouterr().err
    assert len(entries(folder)) == 3
    assert main(["cache", "prune", str(folder), "--max-bytes", "0", "--unpin"]) == 0
    assert "3 entries are no longer pinned" in capsys.readouterr().out
    assert entries(folder) == []


def test_folder_that_is_not_there_is_not_made(tmp_path: Path, capsys):
    assert main(["cache", "prune", str(tmp_path / "none")]) == 2
    assert "SJ505" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
