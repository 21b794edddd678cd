"""Plays the demo from its beginning to its end, one child process at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from safejax._version import __version__
from safejax.demo import _report
from safejax.demo._attacks import ATTACKS, SIDES, TRAINING, Attack
from safejax.demo._outcome import Outcome, Result, Summary, Training

_DEADLINE_S = 120.0
_NAMES = {"plain": "plain JAX", "safe": "safejax"}

Play = Callable[[str, str, int], dict[str, Any]]


class NotPlayedError(RuntimeError):
    """A child process ended without telling what it found."""


def _environment() -> dict[str, str]:
    """This process's environment, less what would change what is measured.

    A cache of compiled programs, 64-bit numbers or an accelerator would; and the
    child has to find its modules where this process does, nowhere else.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "XLA_"))
    }
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**kept, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


def play_in_child(name: str, side: str, seed: int) -> dict[str, Any]:
    """Runs one half of an attack in a fresh process and returns what it found.

    The child does not outlive this process, whatever ends it: it ends itself when
    the pipe to its standard input closes.

    Raises:
        NotPlayedError: The child failed, or took longer than two minutes.
    """
    module = ("-P", "-m", "safejax.demo._attacks")
    options = (name, side, "--seed", str(seed), "--end-with-stdin")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # A session of its own: Ctrl-C reaches this process, which ends the child.
        with subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, *module, *options],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env=_environment(),
            start_new_session=True,
        ) as child:
            try:
                status = child.wait(_DEADLINE_S)
            except subprocess.TimeoutExpired:
                raise NotPlayedError(f"took over {_DEADLINE_S:.0f} s") from None
            finally:
                child.kill()
        out.seek(0)
        err.seek(0)
        if status:
            complaint = err.read().decode(errors="replace").split("\n")
            raise NotPlayedError(next(filter(None, reversed(complaint)), "no reason"))
        found: dict[str, Any] = json.loads(out.read())
        return found


def _outcome(play: Play, attack: Attack, side: str, seed: int) -> Outcome:
    try:
        return Outcome(**play(attack.name, side, seed))
    except NotPlayedError as error:
        return Outcome(0.0, 0, 0, f"could not be played: {error}", succeeded=None)


def perform(attacks: Sequence[Attack], play: Play, seed: int) -> Summary:
    """Trains, serves and plays every attack, with a bar while it works.

    Args:
        attacks: What to play, in order.
        play: Plays one half, given its name, its side and the seed.
        seed: Decides the initial parameters and the split of the data.

    Raises:
        NotPlayedError: The model could not be trained.
    """
    started = time.perf_counter()
    results = []
    with _report.progress(1 + 2 * len(attacks)) as begin:
        begin("training on handwritten digits")
        training = Training(**play(TRAINING, "safe", seed))
        for attack in attacks:
            halves = {}
            for side in SIDES:
                begin(f"{attack.id} {attack.title} on {_NAMES[side]}")
                halves[side] = _outcome(play, attack, side, seed)
            results.append(Result(attack.id, attack.title, attack.story, **halves))
    return Summary(
        version=__version__,
        jax=jax.__version__,
        training=training,
        results=tuple(results),
        seconds=time.perf_counter() - started,
    )


def run(
    *,
    as_json: bool,
    seed: int,
    attacks: Sequence[Attack] = ATTACKS,
    play: Play = play_in_child,
) -> int:
    """Plays the demo and prints what it found.

    Returns:
        0 if the model learned and every attack succeeded on plain JAX and failed
        here, else 1.
    """
    try:
        summary = perform(attacks, play, seed)
    except NotPlayedError as error:
        sys.stderr.write(f"safejax demo: the model could not be trained: {error}\n")
        return 1
    show = _report.show_json if as_json else _report.show
    show(summary)
    return 0 if summary.ok else 1
