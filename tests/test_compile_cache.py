"""Compiled programs that are kept: who is served from the cache, and with what."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pickle
import signal
import stat
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from caching import (
    FACTS,
    NOW,
    RING,
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
from compiling import (
    PATIENT,
    SQUARE,
    WAIT_S,
    compilations,
    events,
    outcome,
    pids,
    python,
    race,
)
from jax._src import compilation_cache, compiler

import safejax
from safejax import Limits, safe_jit
from safejax._jax import _caching, _checks
from safejax.cache import _cache, _room
from safejax.compile._service import service


def cube():
    """A new function each time: JAX remembers the programs of one it knows."""

    def cube(x):
        return x * x * x + 2

    return cube


def mark_tried(folder: Path) -> None:
    """As if a process had loaded every entry."""
    for path in entries(folder):
        made, executable = read(path)
        put(folder, dataclasses.replace(made, tried=True), executable)


# --- who is served ----------------------------------------------------------------

SERVED = """
import sys, numpy as np, jax, safejax
from compiling import compilations, SQUARE
ring = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
cache = safejax.compile_cache(sys.argv[1], key=ring, verification="strict")
f = jax.jit(lambda x: (x @ x).sum())
g = safejax.safe_jit(
    lambda x: (x * 3).sum(), limits=safejax.Limits(compile_timeout_s=60.0)
)
print(float(f(SQUARE)), float(g(SQUARE)))
stats = cache.stats()
ok = safejax.compile_status().get("outcomes", {}).get("ok", 0)
print(stats.hits, stats.misses, stats.rejects, ok, stats.seconds_saved > 0)
"""


def test_another_process_is_served_jax_jit_and_safe_jit_with_a_deadline(tmp_path: Path):
    folder = tmp_path / "cache"
    outputs = []
    for _ in range(3):
        process = python(SERVED.replace("sys.argv[1]", repr(str(folder))))
        output, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, errors
        outputs.append(output.splitlines())

    answers = [lines[0] for lines in outputs]
    assert answers == ["512.0 192.0"] * 3
    first, second, third = (lines[1] for lines in outputs)
    # One was compiled in a worker, the other was tried in one by its first reader.
    assert first == "0 2 {} 1 False"
    assert second == "2 0 {} 1 True"
    assert third == "2 0 {} 0 True"


def test_known_programs_of_safe_jit_are_counted_and_told_as_compiled(tmp_path: Path):
    with cached(tmp_path):
        safe_jit(cube())(SQUARE)
    mark_tried(tmp_path)
    with cached(tmp_path) as cache, events() as seen:
        f = safe_jit(cube(), limits=Limits(max_compiles=1))
        with compilations() as compiled:
            f(SQUARE)
        assert cache.stats().hits == 1
        assert f.stats().live == f.stats().compiles == 1
        assert isinstance(outcome(f, np.ones(3)), safejax.CompileLimitError)
    assert [event.kind for event in seen] == [
        "admitted", "cached", "compiled", "refused"
    ]  # fmt: skip
    assert dict(seen[1].details).keys() == {"bytes", "saved_s"}
    assert seen[1].function == "cube"
    assert len(compiled) <= 1  # JAX counts the time it took to obtain the program


def test_frozen_function_is_not_served_a_new_program_from_the_cache(tmp_path: Path):
    with cached(tmp_path):
        safe_jit(cube())(SQUARE)
    with cached(tmp_path) as cache:
        f = safe_jit(cube(), limits=Limits(max_compiles=2))
        f.freeze()
        error = outcome(f, SQUARE)
        assert isinstance(error, safejax.CompileLimitError)
        assert error.code == "SJ204"
        assert cache.stats().hits == 0


def test_precompile_and_compile_async_are_served(tmp_path: Path):
    spec = jax.ShapeDtypeStruct((8, 8), np.float32)
    with cached(tmp_path):
        safe_jit(cube(), limits=PATIENT).precompile(spec)
    with cached(tmp_path) as cache:
        safe_jit(cube(), limits=PATIENT).precompile(spec)
        jax.clear_caches()
        asyncio.run(safe_jit(cube(), limits=PATIENT).compile_async(spec))
        assert cache.stats().hits == 2
        assert cache.stats().misses == 0


def test_background_compilation_is_served(tmp_path: Path):
    with cached(tmp_path):
        safe_jit(cube(), limits=PATIENT)(SQUARE)
    with cached(tmp_path) as cache:
        f = safe_jit(
            cube(),
            limits=PATIENT,
            on_new_signature="background",
            fallback=lambda x: None,
        )
        end = time.monotonic() + WAIT_S
        while f(SQUARE) is None:
            assert time.monotonic() < end
        assert cache.stats().hits == 1


def test_several_devices_and_donation_give_the_same_results(tmp_path: Path):
    mesh = jax.make_mesh((len(jax.devices()),), ("x",))
    spread = jax.NamedSharding(mesh, jax.P("x"))

    def results():
        x = jax.device_put(np.arange(8.0, dtype=np.float32), spread)
        f = jax.jit(lambda x: jnp.tanh(x) + x.sum(), donate_argnums=0)
        y = f(x)
        return np.asarray(y), y.sharding, x.is_deleted()

    with cached(tmp_path):
        before = results()
    mark_tried(tmp_path)
    with cached(tmp_path) as cache:
        after = results()
        assert cache.stats().hits >= 1
        assert cache.stats().rejects == {}
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("call", ["pure_callback", "debug"])
def test_program_that_calls_back_is_not_kept(tmp_path: Path, call: str):
    def f(x):
        if call == "debug":
            jax.debug.print("{x}", x=x)
            return x
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((), np.float32), x)

    with cached(tmp_path) as cache:
        jax.block_until_ready(jax.jit(f)(np.float32(1)))
        jax.effects_barrier()
        assert cache.stats().skipped == {"callback": 1}
    assert entries(tmp_path) == []


def test_threads_that_compile_at_once_are_served(tmp_path: Path):
    def answers():
        return race(lambda i: float(jax.jit(lambda x: x * (i + 1))(2.0)))

    with cached(tmp_path):
        assert answers() == [2.0 * (i + 1) for i in range(8)]
    mark_tried(tmp_path)
    with cached(tmp_path) as cache:
        assert answers() == [2.0 * (i + 1) for i in range(8)]
        assert cache.stats().hits >= 8


# --- in the place of JAX's own ----------------------------------------------------


def test_jaxs_own_cache_is_neither_read_nor_written_meanwhile(tmp_path: Path):
    """Its entry for this program is another's: JAX alone answers with that."""
    theirs = tmp_path / "theirs"
    settings = {
        "jax_compilation_cache_dir": str(theirs),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    compilation_cache.reset_cache()
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        assert float(jax.jit(lambda x: x * 17)(1.0)) == 17
        (victim,) = theirs.glob("*-cache")
        assert float(jax.jit(lambda x: x * 19)(1.0)) == 19
        (attackers,) = set(theirs.glob("*-cache")) - {victim}
        victim.write_bytes(attackers.read_bytes())
        listing = sorted(path.name for path in theirs.iterdir())

        with cached(tmp_path / "ours"):
            assert float(jax.jit(lambda x: x * 17)(1.0)) == 17
            assert float(jax.jit(lambda x: x * 23)(1.0)) == 23
        assert sorted(path.name for path in theirs.iterdir()) == listing
        # Closed: JAX's is in force again, and is as trusting as before.
        assert float(jax.jit(lambda x: x * 17)(1.0)) == 19
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        jax.clear_caches()


def test_program_that_came_past_the_cache_is_refused(tmp_path: Path, monkeypatch):
    with cached(tmp_path):
        elsewhere = jax.jit(lambda x: x - 5).lower(1.0).compile().runtime_executable()
        monkeypatch.setattr(
            compiler, "_resolve_compilation_strategy", lambda *_: ("key", None)
        )
        monkeypatch.setattr(compiler, "_cache_read", lambda *_: (elsewhere, 0))
        with pytest.raises(safejax.SafeJaxError, match="past the compile cache") as got:
            jax.jit(lambda x: x + 1)(1.0)
    assert got.value.code == "SJ001"


@pytest.mark.parametrize(
    "name", ["is_cache_used", "is_persistent_cache_enabled", "get_cache_key"]
)
def test_jax_that_has_changed_is_refused(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.setattr(compilation_cache, name, lambda other: None)
    _checks.check.cache_clear()
    try:
        with pytest.raises(safejax.SafeJaxError, match=name) as caught:
            safejax.compile_cache(tmp_path, key=RING)
    finally:
        monkeypatch.undo()
        _checks.check.cache_clear()
    assert caught.value.code == "SJ001"


def test_closed_cache_is_asked_no_more(tmp_path: Path):
    cache = safejax.compile_cache(tmp_path, key=RING)
    cache.close()
    cache.close()
    jax.jit(lambda x: x - 3)(1.0)

    assert cache.stats().misses == 0
    assert entries(tmp_path) == []


def test_second_cache_is_refused_while_one_is_open(tmp_path: Path):
    with cached(tmp_path), pytest.raises(ValueError, match="open already"):
        safejax.compile_cache(tmp_path / "other", key=RING)
    with cached(tmp_path / "other"):
        pass


# --- executables that can't be loaded ---------------------------------------------


@pytest.mark.parametrize("verdict", ["crashes", "refused"])
def test_entry_that_a_worker_could_not_load_is_compiled_anew(
    tmp_path: Path, verdict: str
):
    put(tmp_path, entry(facts(), tried=False), b"bad")
    cache, task = store(tmp_path, verdict=verdict), Task(facts())

    assert cache.find(task, None) is None
    assert task.given == []
    assert cache.tally.rejects == {verdict: 1}
    assert entries(tmp_path) == []


def test_entry_that_no_worker_could_try_stays_and_is_not_loaded(tmp_path: Path):
    put(tmp_path, entry(facts(), tried=False), b"good")
    cache, task = store(tmp_path, verdict="untried"), Task(facts())

    assert cache.find(task, 0.0) is None
    assert task.given == []
    assert cache.tally.skipped == {"untried": 1}
    assert len(entries(tmp_path)) == 1


def test_entry_is_tried_once_for_all(tmp_path: Path):
    path = put(tmp_path, entry(facts(), tried=False), b"good")
    trials = []

    def try_to_load(task, executable, patience_s):
        trials.append((executable, patience_s))
        return "loads"

    for _ in range(3):
        cache = store(tmp_path, try_to_load=try_to_load)
        assert cache.find(Task(facts()), 7.5) is not None
    assert trials == [(b"good", 7.5)]
    assert read(path)[0].tried
    assert read(path)[0].created == int(NOW * 1e3)


def test_entry_that_xla_refuses_is_compiled_anew(tmp_path: Path):
    """Signed with the key, and still nothing that XLA can load."""
    with cached(tmp_path):
        assert float(jax.jit(lambda x: x * 31)(1.0)) == 31
    for path in entries(tmp_path):
        made, _ = read(path)
        put(tmp_path, dataclasses.replace(made, tried=True), b"no executable at all")
    with cached(tmp_path) as cache:
        assert float(jax.jit(lambda x: x * 31)(1.0)) == 31
        assert cache.stats().rejects["refused"] >= 1
        assert cache.stats().hits == 0


@pytest.mark.parametrize("how", ["garbage", "killed"])
def test_untried_entry_is_loaded_in_a_worker_first(
    tmp_path: Path, monkeypatch, how: str
):
    """What ends the worker does not end this process."""
    with cached(tmp_path):
        assert float(jax.jit(lambda x: x * 37)(1.0)) == 37
    for path in entries(tmp_path):
        made, executable = read(path)
        assert not made.tried
        put(tmp_path, made, b"garbage" if how == "garbage" else executable)
    if how == "killed":
        submit = type(service._running_pool()).submit

        def murderous(pool, request):
            job = submit(pool, request)
            end = time.monotonic() + WAIT_S
            while job.phase == "queue" and time.monotonic() < end:
                time.sleep(0.001)
            for pid in pids():
                os.kill(pid, signal.SIGSEGV)
            return job

        monkeypatch.setattr(type(service._running_pool()), "submit", murderous)
        monkeypatch.setattr(
            "safejax.compile._trial.request_for", _endless_request(monkeypatch)
        )
    with cached(tmp_path) as cache:
        assert float(jax.jit(lambda x: x * 37)(1.0)) == 37
        reason = "refused" if how == "garbage" else "crashes"
        assert cache.stats().rejects.keys() == {reason}


def _endless_request(monkeypatch):
    """A request that keeps the worker busy until it is killed."""
    from compiling import endless

    from safejax.compile import _trial

    original = _trial.request_for
    module = jax.jit(endless()).lower(SQUARE)
    text = bytes(safejax._jax._task.mlir.module_to_bytecode(module.compiler_ir()))

    def request_for(task, module, **_):
        return original(task, text)

    return request_for


# --- room -------------------------------------------------------------------------


def filled(folder: Path, count: int, *, size: int = 10_000):
    """A cache with entries, the first of which were used longest ago."""
    cache = store(folder, max_bytes=1 << 30)
    for i in range(count):
        known = facts(program=f"{i:064x}")
        cache.keep(Task(known), bytes(size), 1.0)
        os.utime(place_file(folder, known), (i, i))
    return cache


def test_entries_used_longest_ago_make_room(tmp_path: Path):
    filled(tmp_path, 10)
    one = entries(tmp_path)[0].stat().st_size
    cache = store(tmp_path, max_bytes=5 * one)
    assert cache.find(Task(facts(program=f"{2:064x}")), None) is not None
    cache.keep(Task(FACTS), bytes(10_000), 1.0)

    left = {path.name for path in entries(tmp_path)}
    wanted = [facts(program=f"{i:064x}") for i in (2, 7, 8, 9)]
    assert left == {place_file(tmp_path, known).name for known in (*wanted, FACTS)}
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 5 * one
    assert cache.tally.counts["evicted"] == 6


def test_pinned_entries_stay(tmp_path: Path):
    filled(tmp_path, 4)
    one = entries(tmp_path)[0].stat().st_size
    with cached(tmp_path, max_bytes=4 * one + 100) as opened:
        cache = opened._store
        cache._now = lambda: NOW
        assert cache.find(Task(facts(program=f"{0:064x}")), None) is not None
        assert opened.pin() == 1
        os.utime(place_file(tmp_path, facts(program=f"{0:064x}")), (0, 0))
        cache.keep(Task(FACTS), bytes(10_000), 1.0)
        assert opened.stats().pinned == 1
        assert place_file(tmp_path, facts(program=f"{0:064x}")).exists()
        assert not place_file(tmp_path, facts(program=f"{1:064x}")).exists()
        # Replaced, it is still pinned.
        cache.keep(Task(facts(program=f"{0:064x}")), bytes(10_000), 1.0)
        assert opened.stats().pinned == 1


def test_pinned_entries_that_leave_no_room_refuse_what_is_new(tmp_path: Path):
    filled(tmp_path, 2)
    for path in entries(tmp_path):
        path.chmod(0o400)
    one = entries(tmp_path)[0].stat().st_size
    cache = store(tmp_path, max_bytes=2 * one + 10)
    cache.keep(Task(FACTS), bytes(10_000), 1.0)

    assert cache.tally.skipped == {"full": 1}
    assert len(entries(tmp_path)) == 2


def test_entry_larger_than_the_cache_removes_nothing(tmp_path: Path):
    filled(tmp_path, 3)
    cache = store(tmp_path, max_bytes=40_000)
    cache.keep(Task(FACTS), bytes(100_000), 1.0)

    assert cache.tally.skipped == {"full": 1}
    assert len(entries(tmp_path)) == 3


def test_what_is_set_aside_goes_first(tmp_path: Path):
    cache = filled(tmp_path, 2)
    one = entries(tmp_path)[0].stat().st_size
    place_file(tmp_path, FACTS).write_bytes(bytes(3 * one))
    assert cache.find(Task(FACTS), None) is None
    assert len(list((tmp_path / "quarantine").iterdir())) == 1

    store(tmp_path, max_bytes=3 * one + 100).keep(Task(FACTS), bytes(10_000), 1.0)
    assert list((tmp_path / "quarantine").iterdir()) == []
    assert len(entries(tmp_path)) == 3


def test_writer_that_holds_the_lock_for_ever_costs_an_entry_only(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(_room, "_LOCK_S", 0.05)
    cache = filled(tmp_path, 1)
    with _room._locked(cache.place):
        cache.keep(Task(FACTS), b"x", 1.0)
    assert cache.tally.skipped == {"busy": 1}
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_disk_that_is_full_costs_an_entry_only(tmp_path: Path, monkeypatch):
    cache = filled(tmp_path, 1)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_room, "write_from", refuse)
    cache.keep(Task(FACTS), b"x", 1.0)
    assert cache.tally.skipped == {"storage": 1}
    assert len(entries(tmp_path)) == 1


# --- the folder -------------------------------------------------------------------


def test_folder_and_entries_are_for_this_user_alone(tmp_path: Path):
    folder = tmp_path / "deep" / "cache"
    with cached(folder):
        jax.jit(lambda x: x * 41)(1.0)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in entries(folder)} == {0o600}


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722, 0o1777, 0o702])
def test_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int):
    tmp_path.chmod(mode)
    with pytest.raises(safejax.StorageError, match="others can write"):
        safejax.compile_cache(tmp_path, key=RING)


def test_folder_that_is_a_link_is_refused(tmp_path: Path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(safejax.StorageError):
        safejax.compile_cache(tmp_path / "link", key=RING)


def test_folder_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(safejax.StorageError):
        safejax.compile_cache(tmp_path / "file", key=RING)


def test_folder_in_one_where_everyone_can_replace_it_is_refused(tmp_path: Path):
    tmp_path.chmod(0o777)
    with pytest.raises(safejax.StorageError, match="everyone can write"):
        safejax.compile_cache(tmp_path / "cache", key=RING)
    tmp_path.chmod(0o1777)  # as /tmp is: only who made it can
    with cached(tmp_path / "cache"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("whose", ["cache", ""])
def test_folder_of_another_user_is_refused(tmp_path: Path, whose: str):
    (tmp_path / "cache").mkdir(mode=0o700)
    os.chown(tmp_path / whose, 12345, 12345)
    with pytest.raises(safejax.StorageError, match="another user"):
        safejax.compile_cache(tmp_path / "cache", key=RING)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"key": b"x" * 32}, TypeError),
        ({"max_bytes": 0}, ValueError),
        ({"max_bytes": 1.5}, TypeError),
        ({"verification": "off"}, ValueError),
        ({"max_age_s": 0}, ValueError),
        ({"max_age_s": "1"}, TypeError),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options, error):
    with pytest.raises(error):
        safejax.compile_cache(tmp_path, **{"key": RING, **options})
    assert list(tmp_path.iterdir()) == []


# --- keys and figures -------------------------------------------------------------


def test_ring_that_only_verifies_makes_a_cache_that_is_only_read(tmp_path: Path):
    reader = safejax.KeyRing(None, verify=[RING.primary])
    put(tmp_path, entry(facts()), b"good")
    cache, task = store(tmp_path, ring=reader), Task(facts())
    assert cache.find(task, None) is not None
    cache.keep(Task(facts(program="0" * 64)), b"new", 1.0)

    assert cache.tally.skipped == {"read-only": 1}
    assert len(entries(tmp_path)) == 1


def test_rotated_key_still_verifies_and_a_revoked_one_does_not(tmp_path: Path):
    old, new = safejax.Key(bytes(range(32)), id="test"), safejax.Key(os.urandom(32))
    put(tmp_path, entry(facts()), b"good")
    rotated = safejax.KeyRing(new, verify=[old])
    assert store(tmp_path, ring=rotated).find(Task(facts()), None) is not None
    revoked = safejax.KeyRing(new, revoked=["test"])
    assert store(tmp_path, ring=revoked).find(Task(facts()), None) is None


def test_key_is_fetched_when_the_cache_is_opened(tmp_path: Path):
    def fail() -> bytes:
        raise ConnectionError("no key service")

    ring = safejax.KeyRing(safejax.Key(fail, id="test"))
    with pytest.raises(ConnectionError):
        safejax.compile_cache(tmp_path, key=ring)
    with cached(tmp_path):  # nothing was left open
        pass


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: safe_jit(f, limits=PATIENT)])
def test_strict_cache_fails_the_call_and_the_next_one(tmp_path: Path, wrap):
    with cached(tmp_path):
        wrap(cube())(SQUARE)
    for path in entries(tmp_path):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with cached(tmp_path, verification="strict") as cache:
        f = wrap(cube())
        for _ in range(2):
            with pytest.raises(safejax.SignatureError, match="for cube is not genuine"):
                f(SQUARE)
        assert cache.stats().rejects == {"signature": 2}
        assert len(entries(tmp_path)) == 1  # for somebody to look at
    np.testing.assert_array_equal(wrap(cube())(SQUARE), SQUARE + 2)


def test_program_of_several_processes_is_not_kept(monkeypatch):
    backend = jax.devices()[0].client
    assert _caching.uncached_because(backend, b"", []) is None
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert _caching.uncached_because(backend, b"", []) == "processes"


def test_forked_child_is_not_held_by_a_lock_of_its_parent(tmp_path: Path):
    with cached(tmp_path) as opened:
        tally = opened._store.tally
        tally._lock.acquire()
        _cache._forget_threads()  # what a fork calls in the child
        tally.add("hits")
        assert opened.stats().hits == 1


def test_figures_are_plain_data(tmp_path: Path):
    with cached(tmp_path) as cache:
        stats = cache.stats()
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert json.loads(json.dumps(dataclasses.asdict(stats)))["hits"] == 0
    hash(stats)


def test_time_saved_is_what_compiling_took_less_loading(tmp_path: Path):
    put(tmp_path, entry(facts(), compile_ms=5_000_000), b"good")
    put(tmp_path, entry(facts(jax="1"), compile_ms=0), b"good")
    cache = store(tmp_path)
    assert cache.find(Task(facts()), None) is not None
    assert 4900 < cache.tally.seconds_saved < 5000
    before = cache.tally.seconds_saved
    assert cache.find(Task(facts(jax="1")), None) is not None
    assert cache.tally.seconds_saved == before  # never less than nothing


def test_rejects_are_told_and_logged(tmp_path: Path, caplog):
    cache = store(tmp_path)
    with events("rejected") as seen:
        for _ in range(60):
            place_file(tmp_path, FACTS).write_bytes(b"x" * 300)
            cache.find(Task(facts()), None)
    assert len(seen) == 60
    assert seen[0].code == "SJ501"
    assert dict(seen[0].details) == {"reason": "format"}
    logged = [r for r in caplog.records if "was rejected" in r.getMessage()]
    assert len(logged) == 50  # whoever writes there must not fill the log


# --- many processes, and their end ------------------------------------------------

WRITER = """
import sys, os
from caching import *
folder, number = Path(sys.argv[1]), int(sys.argv[2])
cache = store(folder, max_bytes=400_000)
print("ready", flush=True)
sys.stdin.readline()
turn = 0
while True:
    turn += 1
    for i in range(12):
        known = facts(program=f"{i:064x}")
        task = Task(known)
        if cache.find(task, None) is not None:
            assert set(task.given[0]) == {i}, "another program's"
            place_file(folder, known).unlink(missing_ok=True)
        else:
            cache.keep(task, bytes([i]) * (20_000 + number), 1.0)
    if turn == int(sys.argv[3]):
        break
assert cache.tally.rejects == {}, cache.tally.rejects
"""


def writers(folder: Path, count: int, turns: int) -> list[subprocess.Popen[str]]:
    code = WRITER.replace("int(sys.argv[3])", str(turns))
    code = code.replace("sys.argv[1]", repr(str(folder)))
    return [
        python(code.replace("int(sys.argv[2])", str(number))) for number in range(count)
    ]


def test_many_processes_write_and_read_at_once(tmp_path: Path):
    processes = writers(tmp_path, 2, turns=8)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        _, errors = process.communicate("\n", timeout=WAIT_S)
        assert process.returncode == 0, errors
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 400_000
    _all_are_whole(tmp_path)


def test_writers_that_are_killed_leave_whole_entries(tmp_path: Path):
    _kill(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a process for each kill
def test_writers_that_are_killed_many_times_leave_whole_entries(tmp_path: Path):
    _kill(tmp_path, 40)


def _kill(folder: Path, times: int) -> None:
    for number in range(times):
        (process,) = writers(folder, 1, turns=0)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(0.02 + 0.013 * (number % 20))
        process.kill()
        process.communicate()
        _all_are_whole(folder)
    # The next one to open it tidies up, and is not held by a dead process's lock.
    with cached(folder):
        pass
    assert list(folder.glob(".*")) == []
    store(folder).keep(Task(FACTS), b"x", 1.0)
    assert place_file(folder, FACTS).exists()


def _all_are_whole(folder: Path) -> None:
    for path in entries(folder):
        made, executable = read(path)
        assert path == place_file(folder, dict(made.facts))
        assert len(set(executable)) == 1
