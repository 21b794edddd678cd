"""The table of attacks, and the child process that plays one half of one of them.

``python -m safejax.demo._attacks shape-flood plain`` writes one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from safejax.demo import (
    _cache_attacks,
    _checkpoint_attacks,
    _compile_attacks,
    _export_attacks,
    _flood,
    _inputs,
    _program_attacks,
)
from safejax.demo._digits import train_and_serve
from safejax.demo._outcome import Outcome

Side = Literal["plain", "safe"]
SIDES: tuple[Side, Side] = ("plain", "safe")
TRAINING = "training"


@dataclasses.dataclass(frozen=True, slots=True)
class Attack:
    """One attack, in two halves that do the same to plain JAX and to safejax.

    Attributes:
        id: The threat it plays, as in the threat model.
        name: What it is called on the command line of the child process.
        title: What it is called in the table.
        story: What the attacker does, in one sentence.
        plain: The half against ``jax.jit``; takes the seed.
        safe: The half against ``safejax.safe_jit``; takes the seed.
    """

    id: str
    name: str
    title: str
    story: str
    plain: Callable[[int], Outcome]
    safe: Callable[[int], Outcome]


ATTACKS = (
    Attack(
        "T1",
        "shape-flood",
        "Shape flood",
        "One client sends batches of 80 sizes.",
        _flood.plain_flood,
        _flood.safe_flood,
    ),
    Attack(
        "T2",
        "cache-eviction",
        "Cache eviction",
        "10,000 malformed requests, each of its own shape.",
        _flood.plain_evict,
        _flood.safe_evict,
    ),
    Attack(
        "T3",
        "memory-growth",
        "Memory growth",
        "100 well-formed sizes, one after another.",
        _flood.plain_stream,
        _flood.safe_stream,
    ),
    Attack(
        "T4",
        "narrowed-float64",
        "Narrowed float64",
        "An amount that is one above the limit.",
        _inputs.plain_narrow,
        _inputs.safe_narrow,
    ),
    Attack(
        "T5",
        "nan-poisoning",
        "NaN poisoning",
        "One NaN among 4,096 pixels of a training batch.",
        _inputs.plain_poison,
        _inputs.safe_poison,
    ),
    Attack(
        "T6",
        "nan-static",
        "Static NaN",
        "The same call 20 times, its static argument NaN.",
        _inputs.plain_churn,
        _inputs.safe_churn,
    ),
    Attack(
        "T9",
        "compile-bomb",
        "Compile bomb",
        "110 unrolled steps: a small program that XLA works on for seconds.",
        _compile_attacks.plain_bomb,
        _compile_attacks.safe_bomb,
    ),
    Attack(
        "T10",
        "recompile-storm",
        "Recompile storm",
        "Eight clients ask for ever new sizes; an honest ninth is among them.",
        _compile_attacks.plain_storm,
        _compile_attacks.safe_storm,
    ),
    Attack(
        "T14",
        "smuggled-callback",
        "Smuggled callback",
        "A model from elsewhere calls home from inside a scan.",
        _program_attacks.plain_callback,
        _program_attacks.safe_callback,
    ),
    Attack(
        "T15",
        "trace-bomb",
        "Trace bomb",
        "A Python loop of 80,000 steps.",
        _program_attacks.plain_trace,
        _program_attacks.safe_trace,
    ),
    Attack(
        "T16",
        "captured-secret",
        "Captured secret",
        "A program that carries a key as a constant.",
        _program_attacks.plain_secret,
        _program_attacks.safe_secret,
    ),
    Attack(
        "T17",
        "memory-bomb",
        "Memory bomb",
        "A square of one GiB, hidden in a scan.",
        _program_attacks.plain_memory,
        _program_attacks.safe_memory,
    ),
    Attack(
        "T23",
        "flipped-bit",
        "Flipped bit",
        "One bit of a checkpoint is changed on the disk.",
        _checkpoint_attacks.plain_flip,
        _checkpoint_attacks.safe_flip,
    ),
    Attack(
        "T24",
        "older-checkpoint",
        "Older checkpoint",
        "A genuine checkpoint of last month takes the place of today's.",
        _checkpoint_attacks.plain_rollback,
        _checkpoint_attacks.safe_rollback,
    ),
    Attack(
        "T25",
        "pickle-payload",
        "Pickle payload",
        "The checkpoint is a pickle that runs a command.",
        _checkpoint_attacks.plain_pickle,
        _checkpoint_attacks.safe_pickle,
    ),
    Attack(
        "T26",
        "poisoned-cache",
        "Poisoned compile cache",
        "One compiled program is copied over another's cache entry.",
        _cache_attacks.plain_swap,
        _cache_attacks.safe_swap,
    ),
    Attack(
        "T27",
        "tampered-program",
        "Tampered program",
        "Four bytes of an exported program are changed: a limit is another.",
        _export_attacks.plain_program,
        _export_attacks.safe_program,
    ),
)


def _end_with_parent() -> None:
    """Ends this process when the pipe to its parent closes, whatever ended that."""
    # Not sys.stdin.read(): its lock would be held when the interpreter shuts down.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _parser() -> argparse.ArgumentParser:
    names = [attack.name for attack in ATTACKS]
    parser = argparse.ArgumentParser(prog="python -m safejax.demo._attacks")
    parser.add_argument("name", choices=[TRAINING, *names])
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--end-with-stdin", action="store_true")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Plays one half of one attack and writes its outcome as one line of JSON."""
    options = _parser().parse_args(argv)
    if options.end_with_stdin:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if options.name == TRAINING:
        found = dataclasses.asdict(train_and_serve(options.seed))
    else:
        attack = next(one for one in ATTACKS if one.name == options.name)
        half = attack.plain if options.side == "plain" else attack.safe
        found = dataclasses.asdict(half(options.seed))
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
