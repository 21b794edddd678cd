"""Entries that were changed, swapped, forged or moved: none is ever loaded.

Most cases ask the store alone, which a compilation would ask; those at the end go
through ``jax.jit``, and look at the answers.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

import jax
import pytest
from caching import (
    FACTS,
    NOW,
    RING,
    STRANGERS,
    Task,
    cached,
    entries,
    entry,
    facts,
    place_file,
    put,
    read,
    store,
)
from poisoning import Case, Scene, cases, linked_to_device, table

import safejax
from safejax.cache._entry import PURPOSE
from safejax.signing._blob import seal

CORPUS = list(cases())
EXECUTABLE = b"a program" * 700
# A genuine entry, read through a name that the attacker gave it.
SUSPECT = {
    "signature", "format", "mismatch", "owner", "permissions", "link", "kind", "size",
    "directory",
}  # fmt: skip
FOREIGN = [
    {"jax": "0.10.1"},
    {"jax": "0.9.0"},
    {"jaxlib": "0.10.1"},
    {"jaxlib": "0.9.9"},
    {"xla": "2 cpu"},
    {"xla": "1 another build"},
    {"platform": "gpu"},
    {"platform": "tpu"},
    {"device_kind": "NVIDIA H100"},
    {"device_kind": "cpu,other"},
    {"options": "c" * 64},
    {"options": "d" * 64},
    {"program": "e" * 64},
    {"program": "f" * 64},
    {"jax": "0.10.1", "jaxlib": "0.10.1"},
    {"platform": "gpu", "device_kind": "NVIDIA H100"},
]


def scene(tmp_path: Path) -> Scene:
    folder, spare = tmp_path / "cache", tmp_path / "spare"
    folder.mkdir(mode=0o700)
    spare.mkdir()
    victim = put(folder, entry(facts()), EXECUTABLE)
    others = tuple(
        put(folder, entry(facts(program=f"{i:064x}")), EXECUTABLE + bytes([i]))
        for i in range(4)
    )
    genuine = victim.read_bytes()
    put(folder, entry(facts()), b"the attacker's", STRANGERS)
    forged = victim.read_bytes()
    victim.write_bytes(genuine)
    return Scene(folder, victim, others, forged, spare)


def test_the_corpus_is_large_enough():
    assert len(CORPUS) + len(FOREIGN) + 10 >= 200
    assert len({case.kind for case in CORPUS}) >= 20


@pytest.mark.parametrize("kind", sorted({case.kind for case in CORPUS}))
def test_poisoned_entry_is_not_loaded(tmp_path: Path, kind: str):
    for number, case in enumerate(case for case in CORPUS if case.kind == kind):
        _refuse(tmp_path / str(number), case, again=number == 0)


def _refuse(tmp_path: Path, case: Case, *, again: bool) -> None:
    tmp_path.mkdir()
    made = scene(tmp_path)
    cache, task = store(made.folder), Task(facts())
    case.poison(made)

    assert cache.find(task, None) is None
    assert task.given == []
    # A link to nothing is no entry; that something stood there is told all the same.
    (reason,) = cache.tally.rejects
    assert reason in SUSPECT
    if again and reason != "directory":
        assert not os.path.lexists(made.victim)
        cache.keep(task, b"compiled anew", 1.0)
        assert cache.find(task, None) is not None
        assert task.given == [b"compiled anew"]


@pytest.mark.parametrize("kind", sorted({case.kind for case in CORPUS}))
def test_poisoned_entry_ends_the_call_where_the_cache_is_strict(
    tmp_path: Path, kind: str
):
    case = next(case for case in CORPUS if case.kind == kind)
    made = scene(tmp_path)
    cache = store(made.folder, strict=True)
    case.poison(made)

    with pytest.raises(safejax.SignatureError, match="not genuine") as caught:
        cache.find(Task(facts()), None)
    assert caught.value.details["module"] == "f"


def test_genuine_entry_of_another_version_or_machine_is_not_loaded(tmp_path: Path):
    made = scene(tmp_path)
    for change in FOREIGN:
        stolen = put(made.spare, entry(facts(**change)), EXECUTABLE)
        stolen.replace(made.victim)
        cache, task = store(made.folder), Task(facts())
        assert cache.find(task, None) is None
        assert task.given == []
        assert cache.tally.rejects == {"mismatch": 1}


def test_what_was_signed_for_another_purpose_or_by_another_key_is_not_loaded(
    tmp_path: Path,
):
    made = scene(tmp_path)
    genuine = read(made.victim)[0]
    fields = {"entry": "1", **FACTS, "name": "f", "created": "0", "compile_ms": "1"}
    more = {**fields, "tried": "yes"}
    revoked = safejax.KeyRing(None, verify=[STRANGERS.primary], revoked=["test-2"])
    for data in (
        seal(EXECUTABLE, purpose="folder", ring=RING, fields=more),
        seal(EXECUTABLE, purpose="", ring=RING, fields=more),
        seal(EXECUTABLE, purpose=PURPOSE, ring=STRANGERS, fields=more),
        seal(EXECUTABLE, purpose=PURPOSE, ring=RING, fields=fields),
        seal(EXECUTABLE, purpose=PURPOSE, ring=RING, fields={}),
        seal(EXECUTABLE, purpose=PURPOSE, ring=RING, fields={**more, "entry": "2"}),
        seal(EXECUTABLE, purpose=PURPOSE, ring=RING, fields={**more, "tried": "?"}),
        seal(EXECUTABLE, purpose=PURPOSE, ring=RING, fields={**more, "created": "-1"}),
    ):
        made.victim.write_bytes(data)
        cache, task = store(made.folder), Task(facts())
        assert cache.find(task, None) is None
        assert task.given == []
        assert cache.tally.rejects.total() == 1
    put(made.folder, genuine, EXECUTABLE)
    assert store(made.folder, ring=revoked).find(Task(facts()), None) is None


@pytest.mark.parametrize(
    ("age_s", "max_age_s", "loaded"),
    [(0, None, True), (99, 100, True), (101, 100, False), (-4000, None, False)],
)
def test_entry_that_is_too_old_or_not_made_yet_is_not_loaded(
    tmp_path: Path, age_s: float, max_age_s: float | None, loaded: bool
):
    created = int((NOW - age_s) * 1e3)
    put(tmp_path, entry(facts(), created=created), EXECUTABLE)
    cache = store(tmp_path, max_age_s=max_age_s, strict=True)

    assert (cache.find(Task(facts()), None) is not None) is loaded
    assert cache.tally.rejects == ({} if loaded else {"age": 1})


def test_device_in_the_place_of_an_entry_is_not_read(tmp_path: Path):
    """Not in the corpus: JAX's cache reads it until there is no memory left."""
    made = scene(tmp_path)
    cache, task = store(made.folder), Task(facts())
    linked_to_device(made)

    assert cache.find(task, None) is None
    assert cache.tally.rejects == {"link": 1}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # each case compiles anew
def test_table_of_the_documentation_is_what_jaxs_cache_does():
    """On the JAX that the table names; another may do something else."""
    text = (Path(__file__).parent.parent / "docs" / "compile-cache.md").read_text()
    if f"JAX {jax.__version__}" not in text or os.geteuid() != 0:
        pytest.skip("the table was made with another JAX, or by root")
    assert table() in text


def test_what_is_set_aside_is_bounded(tmp_path: Path):
    cache = store(tmp_path)
    for i in range(30):
        place_file(tmp_path, FACTS).write_bytes(bytes(100 + i))
        assert cache.find(Task(facts()), None) is None
    kept = list((tmp_path / "quarantine").iterdir())

    assert len(kept) == 16
    assert cache.tally.rejects == {"format": 30}


def test_quarantine_that_is_a_link_is_not_written_through(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "cache"
    cache = store(folder)
    (folder / "quarantine").symlink_to(elsewhere)
    place_file(folder, FACTS).write_bytes(b"x" * 200)

    assert cache.find(Task(facts()), None) is None
    assert list(elsewhere.iterdir()) == []
    assert entries(folder) == []


# --- through jax.jit --------------------------------------------------------------


def times(constant: float):
    return jax.jit(lambda x: x * constant)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The entries of programs that multiply by 3, 5, 7 and by 666, in this order."""
    folder = tmp_path_factory.mktemp("genuine") / "cache"
    found: dict[str, bytes] = {}
    with cached(folder):
        for constant in (3.0, 5.0, 7.0, 666.0):
            assert times(constant)(1.0) == constant
            new = [path for path in entries(folder) if path.name not in found]
            (path,) = [path for path in new if read(path)[0].name == "_lambda"]
            data = path.read_bytes()
            # As if a process had loaded it.
            made, executable = read(path)
            put(folder, dataclasses.replace(made, tried=True), executable)
            found[path.name] = path.read_bytes()
            assert data != found[path.name]
    return found


KINDS = sorted({case.kind for case in CORPUS} - {"a file of 4 TiB with nothing in it"})


@pytest.mark.parametrize("kind", KINDS)
def test_answer_is_right_whatever_stands_in_the_cache(
    tmp_path: Path, genuine: dict[str, bytes], kind: str
):
    case = next(case for case in CORPUS if case.kind == kind)
    folder, spare = tmp_path / "cache", tmp_path / "spare"
    folder.mkdir(mode=0o700)
    spare.mkdir()
    paths = []
    for name, data in genuine.items():
        paths.append(folder / name)
        paths[-1].write_bytes(data)
        paths[-1].chmod(0o600)
    forged = paths[-1].read_bytes()  # genuine, and nothing to multiply by three with
    made = Scene(folder, paths[0], (*paths[1:], paths[1]), forged, spare)

    with cached(folder) as cache:
        case.poison(made)
        assert times(3.0)(1.0) == 3.0
        assert cache.stats().hits == 0 if folder.is_dir() else True
        assert Counter(cache._store.tally.rejects).total() >= 1
        jax.clear_caches()
        assert times(3.0)(1.0) == 3.0


def test_entries_of_these_tests_are_loaded_where_nobody_was_at_them(
    tmp_path: Path, genuine: dict[str, bytes]
):
    for name, data in genuine.items():
        (tmp_path / name).write_bytes(data)
    with cached(tmp_path) as cache:
        assert times(3.0)(1.0) == 3.0
        assert times(666.0)(1.0) == 666.0
        assert cache.stats().hits >= 2
