"""The demo: its verdict, its output, its child processes, and the whole of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import safejax
from safejax.compile._service import service
from safejax.demo import _attacks, _compile_attacks, _digits, _run
from safejax.demo._measure import Meter
from safejax.demo._outcome import ACCURACY_FLOOR, Outcome, Training

DEMO = "import sys; from safejax.cli._main import main; sys.exit(main(sys.argv[1:]))"
ESCAPE = "\x1b"

TRAINING = {
    "train_images": 1438,
    "test_images": 359,
    "accuracy": 0.97,
    "seconds": 0.4,
    "served": 81,
    "right": 80,
    "compilations": 5,
}


def outcome(succeeded: bool | None, text: str = "what happened") -> dict[str, Any]:
    return dataclasses.asdict(Outcome(1.5, 2_000_000, 3, text, succeeded))


def never(seed: int) -> Outcome:
    raise AssertionError("the table's own halves run in child processes")


def attack(number: int) -> _attacks.Attack:
    return _attacks.Attack(
        f"T{number}", f"attack-{number}", "A title", "A story.", never, never
    )


class Stage:
    """Plays halves from a table instead of in child processes."""

    def __init__(self, *, plain: object = True, safe: object = False, **training: Any):
        self.answers = {"plain": plain, "safe": safe}
        self.training = {**TRAINING, **training}
        self.asked: list[tuple[str, str, int]] = []

    def __call__(self, name: str, side: str, seed: int) -> dict[str, Any]:
        self.asked.append((name, side, seed))
        if name == _attacks.TRAINING:
            return self.training
        answer = self.answers[side]
        if isinstance(answer, Exception) and name == "attack-2":
            raise answer
        return outcome(answer if name == "attack-2" else side == "plain")


def run(stage: Stage, *, as_json: bool = False, seed: int = 0) -> int:
    attacks = [attack(1), attack(2), attack(3)]
    return _run.run(as_json=as_json, seed=seed, attacks=attacks, play=stage)


# --- the verdict


def test_status_is_0_if_every_attack_works_on_plain_jax_and_fails_here():
    assert run(Stage()) == 0


@pytest.mark.parametrize(
    "stage",
    [
        Stage(safe=True),
        Stage(plain=False),
        Stage(plain=False, safe=True),
        Stage(plain=_run.NotPlayedError("no")),
        Stage(safe=_run.NotPlayedError("no")),
        Stage(accuracy=ACCURACY_FLOOR),
        Stage(accuracy=float("nan")),
    ],
    ids=[
        "works here",
        "fails on plain JAX",
        "only works here",
        "not played on plain JAX",
        "not played here",
        "model has not learned",
        "model has broken",
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_status_is_1_if_one_attack_of_several(stage: Stage, as_json: bool):
    assert run(stage, as_json=as_json) == 1


def test_attack_that_is_not_stopped_does_not_end_the_demo():
    stage = Stage(safe=True)
    run(stage, seed=9)

    assert stage.asked == [
        (_attacks.TRAINING, "safe", 9),
        ("attack-1", "plain", 9),
        ("attack-1", "safe", 9),
        ("attack-2", "plain", 9),
        ("attack-2", "safe", 9),
        ("attack-3", "plain", 9),
        ("attack-3", "safe", 9),
    ]


def test_training_that_fails_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str],
):
    def play(name: str, side: str, seed: int) -> dict[str, Any]:
        raise _run.NotPlayedError("out of memory")

    assert _run.run(as_json=True, seed=0, play=play) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "safejax demo: the model could not be trained: out of memory\n"
    )


# --- what is printed


def test_json_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    run(Stage(safe=True), as_json=True)
    printed = capsys.readouterr()
    document = json.loads(printed.out)

    assert printed.err == ""
    assert document.pop("seconds") >= 0
    first = {
        "id": "T1",
        "title": "A title",
        "plain": outcome(True),
        "safe": outcome(False),
        "stopped": True,
    }
    second = {**first, "id": "T2", "safe": outcome(True), "stopped": False}
    assert document == {
        "version": safejax.__version__,
        "jax": jax.__version__,
        "accuracy": 0.97,
        "attacks": [first, second, {**first, "id": "T3"}],
        "ok": False,
    }


def test_table_shows_both_halves_of_each_attack(capsys: pytest.CaptureFixture[str]):
    run(Stage())
    printed = capsys.readouterr().out

    assert printed.count("SUCCEEDED") == printed.count("stopped  ") == 3
    assert printed.count("1.5 s") == printed.count("+2.0 MB") == 6
    assert printed.count("3 compiled") == 6
    assert "97.0% of 359 others recognised" in printed
    assert "3 of 3 attacks succeeded on plain JAX and were stopped here" in printed


def test_table_says_why_a_half_could_not_be_played(
    capsys: pytest.CaptureFixture[str],
):
    run(Stage(safe=_run.NotPlayedError("no such thing")))
    printed = " ".join(capsys.readouterr().out.split())

    assert "NOT PLAYED could not be played: no such thing" in printed
    assert "2 of 3 attacks" in printed


def test_output_to_a_file_has_no_escape_sequences_and_100_columns(
    capsys: pytest.CaptureFixture[str],
):
    run(Stage())
    printed = capsys.readouterr()

    assert ESCAPE not in printed.out + printed.err
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 100


def test_text_of_an_outcome_is_not_markup(capsys: pytest.CaptureFixture[str]):
    stage = Stage()
    stage.answers["plain"] = _run.NotPlayedError("KeyError: [red]x[/red] [/]")
    run(stage)

    assert "[red]x[/red] [/]" in capsys.readouterr().out


ON_TERMINAL = """
import sys
sys.path.insert(0, sys.argv[1])
import test_demo
sys.exit(test_demo.run(test_demo.Stage()))
"""


def on_terminal(columns: int, **variables: str) -> str:
    """What a terminal of that width is sent by a demo that has nothing to play."""
    parent, child = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    with subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, str(Path(__file__).parent)],
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
        env={**kept, "TERM": "xterm", "COLUMNS": str(columns), **variables},
    ):
        os.close(child)
        sent = bytearray()
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # Linux says so when the other side has closed
                break
            if not chunk:
                break
            sent += chunk
    os.close(parent)
    return sent.decode()


def test_terminal_shows_a_bar_while_the_demo_works_and_colours_after():
    bar, name, report = on_terminal(120).partition(f"safejax {safejax.__version__}")

    assert "A title on safejax" in bar
    assert name
    assert f"{ESCAPE}[1;32m" in report
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", report)
    assert max(map(len, shown.splitlines()[1:])) <= 100


def test_no_color_is_respected():
    sent = on_terminal(100, NO_COLOR="1")

    assert "SUCCEEDED" in sent
    # Colours 30 to 49 and 90 to 107 stand as whole numbers in a sequence.
    codes = [
        int(code)
        for codes in re.findall(r"\x1b\[([0-9;]*)m", sent)
        for code in codes.split(";")
        if code
    ]
    assert not [code for code in codes if code >= 30]


# --- the children


def test_child_reports_its_complaint_as_the_reason():
    with pytest.raises(_run.NotPlayedError, match="invalid choice: 'nonsense'"):
        _run.play_in_child("nonsense", "plain", 0)


def test_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_run, "_DEADLINE_S", 0.05)
    service.configure()  # ends the compile workers that other tests have left idle

    with pytest.raises(_run.NotPlayedError, match="took over"):
        _run.play_in_child("memory-growth", "plain", 0)
    assert children(os.getpid()) == []


def test_settings_that_would_change_the_figures_do_not_reach_a_child(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("JAX_DEBUG_NANS", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    monkeypatch.setenv("PATH", "/kept")
    environment = _run._environment()

    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["PATH"] == "/kept"
    assert not {"JAX_ENABLE_X64", "JAX_DEBUG_NANS", "XLA_FLAGS"} & set(environment)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(") ")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(what: Any, process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


linux_only = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="reads /proc"
)


@linux_only
@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "safejax: interrupted\n"),
        (signal.SIGTERM, -signal.SIGTERM, ""),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
    ids=["interrupted", "terminated", "killed"],
)
def test_demo_that_is_ended_leaves_no_process_behind(
    number: signal.Signals, status: int, said: str
):
    with subprocess.Popen(
        [sys.executable, "-c", DEMO, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        (child,) = wait_for(lambda: children(demo.pid), demo)
        demo.send_signal(number)
        out, err = demo.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert demo.returncode == status
    assert (out, err) == ("", said)
    assert not is_running(child)


# --- the parts


def test_attacks_have_ids_and_names_of_their_own_and_tell_what_they_do():
    attacks = _attacks.ATTACKS

    assert len({one.id for one in attacks}) == len(attacks)
    assert len({one.name for one in attacks}) == len(attacks)
    for one in attacks:
        assert re.fullmatch(r"T[1-9][0-9]*", one.id)
        assert re.fullmatch(r"[a-z0-9-]+", one.name)
        assert one.title
        assert one.story.endswith(".")
        assert one.plain.__doc__.startswith(f"{one.id}: ")
        assert one.safe.__doc__.startswith(f"{one.id}: ")


@pytest.mark.parametrize("side", _attacks.SIDES)
def test_child_writes_one_line_of_json(side: str, capsys: pytest.CaptureFixture[str]):
    assert _attacks.main(["narrowed-float64", side]) == 0
    (line,) = capsys.readouterr().out.splitlines()

    assert Outcome(**json.loads(line)).succeeded is (side == "plain")


def test_meter_counts_each_compilation_once():
    function = jax.jit(lambda x: x * 3.0)
    small, large = np.ones(3, np.float32), np.ones(4, np.float32)
    with Meter() as first:
        function(small)
        function(large)
        function(small)
    with Meter() as second:
        function(small)

    assert (first.compilations, second.compilations) == (2, 0)


def _mapped(size: int) -> mmap.mmap:
    """Memory of the system's, touched: malloc may have some left from other tests."""
    held = mmap.mmap(-1, size)
    for page in range(0, size, mmap.PAGESIZE):
        held[page] = 1
    return held


def test_meter_sees_memory_that_is_held():
    with Meter() as meter, contextlib.closing(_mapped(64 << 20)) as held:
        grown = meter.grown_bytes()

    assert grown > 0.8 * (64 << 20)
    assert held.closed


def test_meter_sees_no_memory_that_was_given_back():
    with Meter() as meter:
        _mapped(64 << 20).close()

    assert meter.rss_bytes < 0.2 * (64 << 20)


@pytest.mark.parametrize("seed", [1, 2**32 - 1])
def test_model_learns_whatever_the_seed(seed: int):
    training = _digits.train_and_serve(seed)

    assert training.accuracy > ACCURACY_FLOOR
    assert isinstance(training, Training)
    assert training.right > ACCURACY_FLOOR * training.served


def test_alarm_interrupts_python_and_leaves_no_trace():
    before = signal.getsignal(signal.SIGALRM)

    with pytest.raises(TimeoutError), _compile_attacks._alarm(0.01):
        threading.Event().wait(60)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("refused", [False, True])
def test_client_of_the_storm_asks_as_its_own_tenant_for_ever_new_sizes(refused: bool):
    over, asked = threading.Event(), []

    def function(params: Any, x: Any) -> Any:
        asked.append((safejax.current_tenant(), len(x)))
        if len(asked) == 3:
            over.set()
        if refused:
            raise safejax.CompileLimitError("no")
        return x

    _compile_attacks._client(function, {}, 2, over)

    assert asked == [("client-2", 102), ("client-2", 110), ("client-2", 118)]


def test_honest_client_asks_for_one_new_size_and_else_for_the_known_one():
    asked: list[int] = []

    def function(params: Any, x: Any) -> Any:
        asked.append(len(x))
        return x

    _compile_attacks._phase(function, {}, 7, 0.1)

    assert asked.count(7) == 1
    assert set(asked) == {_compile_attacks._KNOWN, 7}


@linux_only
def test_workers_end_with_the_child_that_started_them():
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "safejax.demo._attacks", "compile-bomb", "safe"],
        env=_run._environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        workers = wait_for(lambda: children(child.pid), child)
        child.kill()
        child.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not any(map(is_running, workers))


# --- the whole


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_attack_works_on_plain_jax_and_is_stopped_here():
    done = subprocess.run(
        [sys.executable, "-c", DEMO, "demo", "--json", "--seed", "3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1100,
    )
    document = json.loads(done.stdout)

    assert [
        (one["id"], one["plain"]["outcome"], one["safe"]["outcome"])
        for one in document["attacks"]
        if not one["stopped"]
    ] == []
    assert [one["id"] for one in document["attacks"]] == [
        one.id for one in _attacks.ATTACKS
    ]
    assert document["ok"] is True
    assert document["accuracy"] > ACCURACY_FLOOR
    assert (done.returncode, done.stderr) == (0, "")
