"""`safejax doctor`: each finding fires where it should, and nowhere else."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

import safejax
from safejax import _jax
from safejax.cli import _main
from safejax.doctor import _checks, _gather
from safejax.doctor._folder import Folder, look_at
from safejax.doctor._records import SETTINGS, Facts
from safejax.doctor._scan import Scan, ScanLimits, Seen, scan
from safejax.doctor._sniff import HEAD, what_runs_code

VERSIONS = {"safejax": "0.1.0", "jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.4.6"}
UNSET = dict.fromkeys(SETTINGS)


def facts(**changed) -> Facts:
    """Those of a process with nothing to say about, with these changes."""
    return Facts(**{"versions": VERSIONS, "settings": UNSET, **changed})


def setting(name: str, value: object = True) -> dict[str, object]:
    return {"settings": {**UNSET, name: value}}


def said(**changed) -> list[tuple[str, str]]:
    findings = _checks.examine(facts(**changed))
    return [(f.check, f.level) for f in findings if f.level != "ok"]


def cache(**changed) -> dict[str, Folder]:
    own = {"path": "/srv/cache", "kind": "folder", "mode": 0o700}
    return {"cache": Folder(**{**own, **changed})}


# --- the checks ---------------------------------------------------------------------


def test_nothing_is_said_where_nothing_is_wrong():
    assert said() == []
    assert said(scan=Scan(files=3)) == []
    assert {f.level for f in _checks.examine(facts())} == {"ok"}


FIRES = {
    "old Python": ({"python": (3, 10, 4)}, "versions", "problem"),
    "old JAX": ({"versions": {"jax": "0.9.1"}}, "versions", "problem"),
    "no JAX": ({"versions": {}}, "versions", "problem"),
    "untested JAX": ({"versions": {"jax": "0.13.0"}}, "versions", "warning"),
    "assertions off": ({"optimized": True}, "versions", "note"),
    "JAX has changed": ({"changed": "x changed"}, "jax", "problem"),
    "no workers": ({"lacking": None, "worker_error": "x"}, "workers", "warning"),
    "not confined": ({"lacking": ("open",)}, "workers", "warning"),
    "cache for all": (cache(mode=0o777), "compile-cache", "problem"),
    "cache for a group": (cache(mode=0o770), "compile-cache", "problem"),
    "cache of another": (cache(is_ours=False), "compile-cache", "problem"),
    "cache behind a link": (cache(kind="link"), "compile-cache", "problem"),
    "cache that is a file": (cache(kind="other"), "compile-cache", "problem"),
    "cache elsewhere": (cache(kind="url"), "compile-cache", "problem"),
    "cache below others": (cache(weak=("/srv",)), "compile-cache", "problem"),
    "cache of one's own": (cache(), "compile-cache", "note"),
    "cache to be made": (cache(kind="absent", mode=0), "compile-cache", "note"),
    "dumped by JAX": (setting("jax_dump_ir_to", "/tmp/x"), "dumps", "problem"),
    "dumped by XLA": ({"xla_flags": "--a=1 --xla_dump_to=/x"}, "dumps", "problem"),
    "dumped to the output": (
        {"xla_flags": "--xla_dump_hlo_as_text"},
        "dumps",
        "problem",
    ),
    "profiler": ({"profiler": True}, "profiler", "problem"),
    "profiler unknown": ({"profiler": None}, "profiler", "note"),
    "jit disabled": (setting("jax_disable_jit"), "debugging", "problem"),
    "NaN hunted": (setting("jax_debug_nans"), "debugging", "warning"),
    "infinities hunted": (setting("jax_debug_infs"), "debugging", "warning"),
    "compilations logged": (setting("jax_log_compiles"), "debugging", "warning"),
    "misses explained": (setting("jax_explain_cache_misses"), "debugging", "warning"),
    "setting gone": ({"settings": {}}, "debugging", "note"),
    "core dumps": ({"dumps_core": True}, "core-dumps", "note"),
    "core dumps of a key": (
        {"dumps_core": True, "has_key": True},
        "core-dumps",
        "warning",
    ),
    "core dumps beside a key": (
        {"dumps_core": True, "scan": Scan(seen=(Seen("k", "", 0o600),))},
        "core-dumps",
        "warning",
    ),
    "pickle": (
        {"scan": Scan(seen=(Seen("m", "a pickle", 0o600),))},
        "files",
        "problem",
    ),
    "key for all": ({"scan": Scan(seen=(Seen("k", "", 0o644),))}, "keys", "problem"),
    "key for a group": (
        {"scan": Scan(seen=(Seen("k", "", 0o640),))},
        "keys",
        "problem",
    ),
    "too many files": ({"scan": Scan(complete=False)}, "files", "warning"),
    "unreadable files": ({"scan": Scan(unreadable=1)}, "files", "warning"),
}


@pytest.mark.parametrize("case", FIRES)
def test_check_says_so(case: str):
    changed, check, level = FIRES[case]

    assert said(**changed) == [(check, level)]
    findings = [f for f in _checks.examine(facts(**changed)) if f.level != "ok"]
    assert all(f.advice for f in findings if f.level in ("problem", "warning"))


QUIET = {
    "key of one's own": {"scan": Scan(files=1, seen=(Seen("k", "", 0o600),))},
    "other XLA flags": {"xla_flags": "--xla_cpu_multi_thread_eigen=false"},
    "newest tested JAX": {"versions": {"jax": "0.12.0.1"}},
    "core dumps off, with a key": {"has_key": True},
    "settings off": {"settings": dict.fromkeys(SETTINGS, False)},
}


@pytest.mark.parametrize("case", QUIET)
def test_check_is_silent(case: str):
    assert said(**QUIET[case]) == []


# --- gathering ----------------------------------------------------------------------


def test_this_process_is_looked_at():
    found = _gather.gather()

    assert found.python == sys.version_info[:3]
    assert found.versions["jax"] == jax.__version__
    assert found.changed == ""
    assert found.settings.keys() == set(SETTINGS)
    assert (found.cache, found.scan, found.profiler) == (None, None, False)


def test_looking_compiles_nothing_and_writes_nothing(tmp_path: Path):
    place = tmp_path / "cache"
    live = safejax.process_stats().live
    jax.config.update("jax_compilation_cache_dir", str(place))
    try:
        found = _gather.gather()
    finally:
        jax.config.update("jax_compilation_cache_dir", None)

    assert found.cache.kind == "absent"
    assert not place.exists()
    assert safejax.process_stats().live == live


def test_signed_cache_takes_the_place_of_jaxs_own(tmp_path: Path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        with safejax.compile_cache(tmp_path / "ours", key=safejax.KeyRing.generate()):
            found = _gather.gather()
    finally:
        jax.config.update("jax_compilation_cache_dir", None)

    assert (found.cache, found.has_store) == (None, True)
    (finding,) = [f for f in _checks.examine(found) if f.check == "compile-cache"]
    assert (finding.level, finding.text) == ("ok", "signed, and open")


def test_settings_are_those_that_are_in_force():
    jax.config.update("jax_debug_nans", True)
    jax.config.update("jax_dump_ir_to", "/nowhere")
    try:
        found = _jax.settings(SETTINGS)
    finally:
        jax.config.update("jax_debug_nans", False)
        jax.config.update("jax_dump_ir_to", "")

    assert (found["jax_debug_nans"], found["jax_dump_ir_to"]) == (True, "/nowhere")
    assert _jax.settings(["jax_no_such_setting"]) == {}


def test_jax_that_has_changed_is_told_and_starts_no_worker(monkeypatch):
    def changed():
        raise safejax.SafeJaxError("x changed", code="SJ001")

    monkeypatch.setattr(_gather._jax, "check", changed)
    monkeypatch.setattr(_gather, "Pool", None)

    assert _gather.gather().changed == "x changed"


def test_profiler_that_listens_is_seen(monkeypatch):
    from jax._src import profiler

    assert _jax.profiler_listens() is False
    monkeypatch.setattr(profiler, "_profiler_server", object())
    assert _jax.profiler_listens() is True
    monkeypatch.delattr(profiler, "_profiler_server")
    assert _jax.profiler_listens() is None


@pytest.mark.parametrize(
    ("limit", "pattern", "dumps"),
    [
        (0, "core", False),
        (0, "", False),
        (0, "|/usr/lib/systemd/systemd-coredump %P", True),
        (-1, "core.%p", True),
        (4096, "core", True),
        (-1, "", False),
    ],
)
def test_core_dumps_are_written_where_limit_and_pattern_say_so(
    monkeypatch, tmp_path: Path, limit, pattern, dumps
):
    (tmp_path / "pattern").write_text(f"{pattern}\n")
    monkeypatch.setattr(_gather, "_PATTERN", tmp_path / "pattern")
    monkeypatch.setattr(_gather.resource, "getrlimit", lambda _: (limit, -1))

    assert _gather._dumps_core() is dumps


def test_folder_that_others_may_write_to_is_told_by_mode_and_parents(tmp_path: Path):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True, mode=0o700)
    assert look_at(str(place)).kind == "folder"
    assert str(tmp_path / "a") not in look_at(str(place)).weak

    place.chmod(0o777)
    assert look_at(str(place)).mode == 0o777
    (tmp_path / "a").chmod(0o777)
    assert look_at(str(place)).weak[0] == str(tmp_path / "a")
    (tmp_path / "a").chmod(0o1777)  # as /tmp is
    assert str(tmp_path / "a") not in look_at(str(place)).weak

    (tmp_path / "link").symlink_to(place)
    assert look_at(str(tmp_path / "link")).kind == "link"
    assert look_at(str(tmp_path / "none")).kind == "absent"
    assert look_at("gs://bucket/cache").kind == "url"


def test_folder_of_another_user_is_not_ours(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 999, 999)

    found = look_at(str(tmp_path / "x"))
    assert str(tmp_path) in found.weak
    assert look_at(str(tmp_path)).is_ours is False


# --- what runs code when it is loaded -----------------------------------------------


class Payload:
    def __reduce__(self):
        return (os.system, ("true",))


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name.replace("__", "/"), data)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def joblib_like() -> bytes:
    """A framed pickle with raw data behind its end, as joblib lays arrays out."""
    return pickle.dumps({"w": Payload()}, 4) + bytes(100)


OBJECTS = np.array([Payload(), None], dtype=object)
FIELDS = np.zeros(2, dtype=[("a", "f4"), ("b", "O")])
OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + bytes(99)
# Each: the name of the file, its bytes.
RUNS = {
    **{f"protocol {p}": ("m.pkl", pickle.dumps(Payload(), p)) for p in range(6)},
    **{
        f"protocol {p}, no name": ("m", pickle.dumps(Payload(), p))
        for p in (2, 3, 4, 5)
    },
    "joblib": ("m.joblib", joblib_like()),
    "joblib, no name": ("m", joblib_like()),
    "gzip": ("m.pkl.gz", gzip.compress(pickle.dumps(Payload()))),
    "gzip, no name": ("m", gzip.compress(pickle.dumps(Payload()))),
    "zlib": ("m.joblib", zlib.compress(joblib_like())),
    "bzip2": ("m.pkl.bz2", bz2.compress(pickle.dumps(Payload()))),
    "xz": ("m.joblib.xz", lzma.compress(joblib_like())),
    "lzma": ("m.joblib", lzma.compress(joblib_like(), lzma.FORMAT_ALONE)),
    "torch": ("m.pt", archive(archive__version=b"3", archive__data__pkl=b"") or b""),
    "old torch": ("m.pth", OLD_TORCH),
    "objects": ("m.npy", npy(OBJECTS)),
    "objects in fields": ("m.npy", npy(FIELDS)),
    "archive of objects": ("m.npz", archive(**{"a.npy": npy(OBJECTS)})),
    "objects behind arrays": (
        "m.npz",
        archive(**{"a.npy": npy(np.ones(9)), "b.npy": npy(OBJECTS)}),
    ),
    "uppercase": ("M.PKL", pickle.dumps(Payload(), 0)),
}
RUNS["torch"] = ("m.pt", archive(**{"m/data.pkl": pickle.dumps(Payload(), 2)}))
HARMLESS = {
    "empty": ("m.pkl", b""),
    "text": ("notes.txt", b"not a pickle."),
    "sentence": ("notes.md", b"(lp0\nEnd."),
    "array": ("m.npy", npy(np.ones(9))),
    "field called O": ("m.npy", npy(np.zeros(2, dtype=[("O", "f4")]))),
    "archive of arrays": ("m.npz", archive(**{"a.npy": npy(np.ones(9))})),
    "archive of text": ("m.zip", archive(**{"a.txt": b"data.pkl"})),
    "gzip of text": ("m.gz", gzip.compress(b"text")),
    "starts like protocol 2": ("m.bin", b"\x80\x02" + bytes(99)),
    "starts like zlib": ("m.bin", b"\x78\x9c" + bytes(99)),
    "image": ("m.png", b"\x89PNG\r\n\x1a\n" + bytes(99)),
}
BROKEN = {
    "cut array": ("m.npy", npy(OBJECTS)[:20]),
    "array of version 9": ("m.npy", b"\x93NUMPY\x09\x00" + bytes(99)),
    "header that is no dict": ("m.npy", b"\x93NUMPY\x01\x00\x08\x00" + b"(((((((("),
    "cut archive": ("m.npz", archive(**{"a.npy": npy(OBJECTS)})[:-9]),
    "directory past the end": (
        "m.npz",
        b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(8)
        + struct.pack("<IIH", 1 << 30, 1 << 30, 0),
    ),
    "large archive without its record": (
        "m.npz",
        b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(8)
        + struct.pack("<IIH", 0xFFFFFFFF, 0xFFFFFFFF, 0),
    ),
    "member past the end": (
        "m.npz",
        b"PK\x03\x04" + b"PK\x01\x02" + bytes(24) + struct.pack("<HHH", 5, 0, 0)
        + bytes(8) + struct.pack("<I", 9999) + b"a.npy"
        + b"PK\x05\x06" + bytes(8) + struct.pack("<IIH", 51, 4, 0),
    ),
}  # fmt: skip


def sniffed(name: str, data: bytes) -> str:
    return what_runs_code(io.BytesIO(data), len(data), name)


@pytest.mark.parametrize("case", RUNS)
def test_file_that_runs_code_is_told(case: str):
    assert sniffed(*RUNS[case])


@pytest.mark.parametrize("case", HARMLESS)
def test_file_that_runs_none_is_left_alone(case: str):
    assert sniffed(*HARMLESS[case]) == ""


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_no_error(case: str):
    assert sniffed(*BROKEN[case]) == ""


def test_archive_over_4_gib_is_looked_into():
    """Its numbers stand in a record of their own (ZIP64)."""
    small = archive(**{"m/data.pkl": pickle.dumps(Payload())})
    end = small.rindex(b"PK\x05\x06")
    length, at = struct.unpack_from("<II", small, end + 12)
    record = b"PK\x06\x06" + bytes(36) + struct.pack("<QQ", length, at)
    rest = struct.pack("<IIH", 0xFFFFFFFF, 0xFFFFFFFF, 0)
    large = small[:end] + record + small[end : end + 12] + rest

    assert sniffed("m.pt", large)


def test_archive_that_zipfile_can_write_is_read_like_zipfile():
    names = [f"{i}.txt" for i in range(300)] + ["x/data.pkl"]
    data = archive(**dict.fromkeys(names, b"x" * 50))

    assert sniffed("m.pt", data)


class Counted(io.BytesIO):
    total = 0

    def read(self, size=-1):
        found = super().read(size)
        self.total += len(found)
        return found


def test_little_of_a_large_file_is_read():
    data = b"PK\x03\x04" + bytes(8 << 20) + b"PK\x05\x06" + bytes(8)
    data += struct.pack("<IIH", 8 << 20, 4, 0)
    file = Counted(data)
    what_runs_code(file, len(data), "m.npz")

    assert file.total <= HEAD + (64 << 10) + 22 + (1 << 20)


def test_bomb_is_unpacked_by_kilobytes(monkeypatch):
    from safejax.doctor import _sniff

    sizes = []
    honest = _sniff._is_pickle
    monkeypatch.setattr(
        _sniff, "_is_pickle", lambda h, *rest: sizes.append(len(h)) or honest(h, *rest)
    )
    for bomb in (
        gzip.compress(bytes(1 << 21)),
        lzma.compress(bytes(1 << 21)),
        bz2.compress(bytes(1 << 21)),
    ):
        assert sniffed("m.pkl.gz", bomb) == ""

    assert max(sizes) <= HEAD


def test_pickle_and_array_of_objects_run_code_where_they_are_loaded(tmp_path: Path):
    """What the findings are about."""
    mark = tmp_path / "ran"

    class Marking:
        def __reduce__(self):
            return (Path.touch, (mark,))

    pickle.loads(pickle.dumps(Marking()))
    assert mark.exists()
    mark.unlink()
    np.load(io.BytesIO(npy(np.array([Marking()], object))), allow_pickle=True)
    assert mark.exists()


def test_scanning_loads_nothing(tmp_path: Path):
    mark = tmp_path / "ran"

    class Marking:
        def __reduce__(self):
            return (Path.touch, (mark,))

    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "m.pkl").write_bytes(pickle.dumps(Marking()))
    (folder / "m.npy").write_bytes(npy(np.array([Marking()], object)))

    assert len(scan([folder]).seen) == 2
    assert not mark.exists()


# --- the walk -----------------------------------------------------------------------

PICKLE = pickle.dumps(Payload())


def test_all_files_below_a_folder_are_looked_at(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for place in ("m.pkl", "a/m.pkl", "a/b/m.pkl", "a/ok.txt"):
        (tmp_path / place).write_bytes(PICKLE if place.endswith("pkl") else b"x")
    found = scan([tmp_path])

    assert found.files == 4
    assert found.complete
    assert [
        Path(seen.path).relative_to(tmp_path).as_posix() for seen in found.seen
    ] == [*("m.pkl", "a/m.pkl", "a/b/m.pkl")]


def test_links_pipes_and_sockets_are_not_opened(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "m.pkl").write_bytes(PICKLE)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(elsewhere)
    (folder / "m.pkl").symlink_to(elsewhere / "m.pkl")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.pkl")

    assert scan([folder]) == Scan()


def test_walk_ends_at_its_limits(tmp_path: Path):
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "m.pkl").write_bytes(PICKLE)
    for number in range(5):
        (tmp_path / f"{number}.txt").write_bytes(b"x")

    assert scan([tmp_path], ScanLimits(max_depth=8)).complete
    shallow = scan([tmp_path], ScanLimits(max_depth=7))
    assert (shallow.seen, shallow.complete) == ((), False)
    assert scan([tmp_path], ScanLimits(max_files=6)).complete
    few = scan([tmp_path], ScanLimits(max_files=5))
    assert (few.files, few.complete) == (5, False)


def test_unreadable_file_is_counted(tmp_path: Path):
    assert scan([tmp_path / "none"]).unreadable == 1


def test_key_file_is_known_by_what_is_in_it(tmp_path: Path):
    ring = safejax.KeyRing.generate()
    ring.to_file(tmp_path / "prod")
    (tmp_path / "model.key").write_text("ab12" * 16 + "\n")
    (tmp_path / "digest").write_text("ab12" * 16 + "\n")
    (tmp_path / "digests").write_text("ab12" * 16 + "  model.safetensors\n")
    found = scan([tmp_path])

    assert [(Path(s.path).name, s.runs_code) for s in found.seen] == [
        ("model.key", ""),
        ("prod", ""),
    ]
    assert found.seen[1].mode == 0o600


# --- the command --------------------------------------------------------------------


@pytest.fixture
def at_ease(monkeypatch):
    """A process with nothing to say about but what is named."""

    def gathered(paths):
        return facts(scan=scan(paths) if paths else None)

    monkeypatch.setattr("safejax.cli._doctor.gather", gathered)


def doctor(capsys, *argv: str) -> tuple[int, str]:
    status = _main.main(["doctor", *map(str, argv)])
    return status, capsys.readouterr().out


def test_command_ends_with_0_where_there_is_no_problem(at_ease, capsys, tmp_path):
    status, printed = doctor(capsys, tmp_path)

    assert status == 0
    assert printed.endswith("0 problems, 0 warnings, 0 notes\n")


def test_command_ends_with_1_where_there_is_a_problem(at_ease, capsys, tmp_path):
    (tmp_path / "m.pkl").write_bytes(PICKLE)
    status, printed = doctor(capsys, tmp_path)

    assert status == 1
    assert f"problem  files         {tmp_path / 'm.pkl'}: a pickle" in printed
    assert "safejax convert" in printed


@pytest.mark.parametrize(("argv", "status"), [([], 0), (["--strict"], 1)])
def test_warnings_count_where_it_is_strict(monkeypatch, capsys, argv, status):
    monkeypatch.setattr(
        "safejax.cli._doctor.gather", lambda _: facts(lacking=("open",))
    )

    assert doctor(capsys, *argv)[0] == status


def test_command_prints_a_document(at_ease, capsys, tmp_path):
    (tmp_path / "m.pkl").write_bytes(PICKLE)
    document = json.loads(doctor(capsys, "--json", tmp_path)[1])

    assert document["problems"] == 1
    assert document["safejax"] == safejax.__version__
    (problem,) = [f for f in document["findings"] if f["level"] == "problem"]
    assert problem["path"] == str(tmp_path / "m.pkl")
    assert problem.keys() == {"check", "level", "text", "advice", "path"}


def test_many_findings_are_cut_in_the_table_and_whole_in_the_document(
    at_ease, capsys, tmp_path
):
    for number in range(30):
        (tmp_path / f"{number}.pkl").write_bytes(PICKLE)
    printed = doctor(capsys, tmp_path)[1]
    document = json.loads(doctor(capsys, "--json", tmp_path)[1])

    assert printed.count("a pickle") == 20
    assert "files: 10 more" in printed
    assert document["problems"] == 30


def test_name_of_a_file_can_not_steer_the_terminal(at_ease, capsys, tmp_path):
    (tmp_path / "\x1b[2J.pkl").write_bytes(PICKLE)

    assert "\x1b" not in doctor(capsys, tmp_path)[1]


@pytest.mark.parametrize(
    "argv", [["/no/such/folder"], ["--import", "no_such_module_here"]]
)
def test_wrong_use_ends_with_2(at_ease, capsys, argv):
    assert _main.main(["doctor", *argv]) == 2
    assert "safejax doctor: " in capsys.readouterr().err


SERVICE = "import jax; jax.config.update('jax_compilation_cache_dir', 'shared')\n"


def test_module_is_imported_and_what_it_sets_is_examined(tmp_path: Path):
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "safejax.cli._main"),
            *("doctor", "--import", "service", "--json"),
        ],
        cwd=tmp_path,
        env={**os.environ, "JAX_DUMP_IR_TO": str(tmp_path / "dumps")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1, done.stderr
    findings = json.loads(done.stdout)["findings"]
    problems = {f["check"]: f["path"] for f in findings if f["level"] == "problem"}
    assert problems == {"compile-cache": "shared", "dumps": str(tmp_path / "dumps")}
    assert not list((tmp_path / "shared").iterdir())
