"""Ways to poison a compile cache, for ours and for JAX's own.

``python tests/poisoning.py`` prints what JAX's cache makes of each, as the table of the
documentation.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

STRANGER = 12345


@dataclasses.dataclass(frozen=True)
class Scene:
    """A cache with entries of several programs, at the mercy of an attacker.

    Attributes:
        folder: The cache.
        victim: The entry that will be asked for.
        others: Genuine entries of other programs.
        forged: The bytes of an entry that the attacker has made for the place of the
            victim's, as well as can be done without the key.
        spare: A folder for whatever the attacker needs.
    """

    folder: Path
    victim: Path
    others: tuple[Path, ...]
    forged: bytes
    spare: Path


Poison = Callable[[Scene], None]


@dataclasses.dataclass(frozen=True)
class Case:
    """One way; ``kind`` is its row in the table."""

    kind: str
    poison: Poison


def flipped(place: float) -> Poison:
    def poison(scene: Scene) -> None:
        data = bytearray(scene.victim.read_bytes())
        at = int(place * (len(data) - 1))
        data[at] ^= 1 << at % 8
        scene.victim.write_bytes(data)

    return poison


def cut(share: float) -> Poison:
    def poison(scene: Scene) -> None:
        os.truncate(scene.victim, int(share * scene.victim.stat().st_size))

    return poison


def padded(before: bytes, after: bytes) -> Poison:
    def poison(scene: Scene) -> None:
        scene.victim.write_bytes(before + scene.victim.read_bytes() + after)

    return poison


def swapped(number: int) -> Poison:
    def poison(scene: Scene) -> None:
        shutil.copyfile(scene.others[number], scene.victim)

    return poison


def renamed(number: int) -> Poison:
    def poison(scene: Scene) -> None:
        scene.others[number].replace(scene.victim)

    return poison


def spliced(share: float) -> Poison:
    """The beginning of one entry and the end of another."""

    def poison(scene: Scene) -> None:
        mine, other = scene.victim.read_bytes(), scene.others[0].read_bytes()
        at = int(share * len(mine))
        scene.victim.write_bytes(mine[:at] + other[at:])

    return poison


def forged(scene: Scene) -> None:
    scene.victim.write_bytes(scene.forged)


def linked(scene: Scene) -> None:
    target = scene.spare / "elsewhere"
    target.write_bytes(scene.forged)
    scene.victim.unlink()
    scene.victim.symlink_to(target)


def linked_to_other(scene: Scene) -> None:
    scene.victim.unlink()
    scene.victim.symlink_to(scene.others[0])


def linked_to_device(scene: Scene) -> None:
    scene.victim.unlink()
    scene.victim.symlink_to("/dev/full")


def hard_linked(scene: Scene) -> None:
    scene.victim.unlink()
    scene.victim.hardlink_to(scene.others[0])


def dangling(scene: Scene) -> None:
    scene.victim.unlink()
    scene.victim.symlink_to(scene.spare / "nothing")


def pipe(scene: Scene) -> None:
    scene.victim.unlink()
    os.mkfifo(scene.victim)


def listening(scene: Scene) -> None:
    scene.victim.unlink()
    here = Path.cwd()
    os.chdir(scene.folder)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(scene.victim.name[:100])
            Path(scene.victim.name[:100]).rename(scene.victim.name)
    finally:
        os.chdir(here)


def a_folder(scene: Scene) -> None:
    scene.victim.unlink()
    scene.victim.mkdir()


def permitted(mode: int) -> Poison:
    def poison(scene: Scene) -> None:
        forged(scene)
        scene.victim.chmod(mode)

    return poison


def given_away(scene: Scene) -> None:
    forged(scene)
    os.chown(scene.victim, STRANGER, STRANGER)


def sparse(scene: Scene) -> None:
    os.truncate(scene.victim, 1 << 42)


def replaced_folder(scene: Scene) -> None:
    scene.folder.rename(scene.spare / "away")
    scene.folder.mkdir(mode=0o700)
    (scene.folder / scene.victim.name).write_bytes(scene.forged)


def linked_folder(scene: Scene) -> None:
    away = scene.spare / "away"
    scene.folder.rename(away)
    scene.folder.symlink_to(away)
    (away / scene.victim.name).write_bytes(scene.forged)


def open_folder(scene: Scene) -> None:
    forged(scene)
    scene.folder.chmod(0o777)


def filled(data: bytes) -> Poison:
    def poison(scene: Scene) -> None:
        scene.victim.write_bytes(data)

    return poison


def bomb() -> bytes:
    """A few bytes that zlib makes many of."""
    return zlib.compress(bytes(1 << 22), 9)


def cases(others: int = 4) -> Iterator[Case]:
    """The corpus."""
    for i in range(90):
        yield Case("a bit flipped", flipped(i / 89))
    for i in range(40):
        yield Case("cut off", cut(i / 40))
    for before, after in ((b"", b"\0"), (b"\0", b""), (b"", bytes(99)), (b"{}", b"")):
        yield Case("bytes added", padded(before, after))
    for i in range(others):
        yield Case("another program's entry, copied", swapped(i))
        yield Case("another program's entry, renamed", renamed(i))
    for i in range(1, 20):
        yield Case("two entries spliced", spliced(i / 20))
    yield Case("an entry the attacker made", forged)
    for name, poison in (
        ("a link to the attacker's entry", linked),
        ("a link to another entry", linked_to_other),
        ("a link to nothing", dangling),
        ("a hard link to another entry", hard_linked),
        ("a named pipe", pipe),
        ("a socket", listening),
        ("a folder", a_folder),
        ("a file of 4 TiB with nothing in it", sparse),
        ("the attacker's entry, in a replaced directory", replaced_folder),
        ("the attacker's entry, behind a linked directory", linked_folder),
        ("the attacker's entry, in a directory open to all", open_folder),
    ):
        yield Case(name, poison)
    for mode in (0o666, 0o622, 0o602, 0o777):
        yield Case("the attacker's entry, writable by others", permitted(mode))
    if os.geteuid() == 0:
        yield Case("the attacker's entry, of another user", given_away)
    for data in (b"", b"\0" * 8, b"\xff" * 400, b"{}", bomb(), os.urandom(5000)):
        yield Case("something else", filled(data))


# --- what JAX's own cache does ----------------------------------------------------

_CONSTANTS = (3, 5, 7, 11, 13)
_ATTACKERS = 666
_PATIENCE_S = 20


def _jax_outcome(case: Case, place: Path) -> str:
    """What the victim is told by a JAX whose cache was poisoned."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    def answer(constant: int) -> float:
        return float(jax.jit(lambda x: x * constant)(1.0))

    folder = place / "cache"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()
    jax.clear_caches()
    paths = []
    for constant in (*_CONSTANTS, _ATTACKERS):
        before = set(folder.glob("*-cache")) if folder.exists() else set()
        assert answer(constant) == constant
        (path,) = set(folder.glob("*-cache")) - before
        paths.append(path)
    stolen = paths.pop().read_bytes()
    spare = place / "spare"
    spare.mkdir()
    case.poison(Scene(folder, paths[0], tuple(paths[1:]), stolen, spare))
    jax.clear_caches()
    compilation_cache.reset_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = answer(_CONSTANTS[0])
    if got == _CONSTANTS[0]:
        return "compiled anew"
    whose = "the attacker's" if got == _ATTACKERS else "another"
    return f"**answers with {whose} program**"


def _play(start: int) -> None:
    """Plays the cases from this one on, and prints a line after each."""
    for case in list(cases())[start:]:
        with tempfile.TemporaryDirectory() as place:
            try:
                outcome = _jax_outcome(case, Path(place))
            except Exception as error:  # noqa: BLE001  any that reaches the caller
                outcome = f"{type(error).__name__} reaches the caller"
        sys.stdout.write(f"{outcome}\n")
        sys.stdout.flush()


def _outcomes() -> Iterator[str]:
    """Of every case. After a hang or a death the next one has a new process."""
    total, done = len(list(cases())), 0
    while done < total:
        child = subprocess.Popen(
            [sys.executable, __file__, str(done)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with child:
            for line in _lines(child):
                yield line
                done += 1
        if done < total:
            status = child.returncode
            hangs = status == -signal.SIGKILL
            name = signal.Signals(-status).name if status < 0 else str(status)
            yield "**hangs**" if hangs else f"**dies** of {name}"
            done += 1


def _lines(child: subprocess.Popen[str]) -> Iterator[str]:
    assert child.stdout is not None
    while True:
        watch = threading.Timer(_PATIENCE_S, child.kill)
        watch.start()
        line = child.stdout.readline()
        watch.cancel()
        if not line:
            child.wait()
            return
        yield line.strip()


def table() -> str:
    """What JAX's own cache makes of the corpus."""
    counts: dict[str, Counter[str]] = {}
    for case, outcome in zip(cases(), _outcomes(), strict=True):
        counts.setdefault(case.kind, Counter())[outcome] += 1
    rows = ["| in the place of the entry | cases | JAX's own cache |", "|---|---|---|"]
    for kind, found in counts.items():
        total = found.total()
        told = "; ".join(
            text if count == total else f"{text} ({count})"
            for text, count in found.most_common()
        )
        rows.append(f"| {kind} | {total} | {told} |")
    return "\n".join(rows)


def main() -> None:
    if len(sys.argv) > 1:
        _play(int(sys.argv[1]))
    else:
        sys.stdout.write(f"{table()}\n")


if __name__ == "__main__":
    main()
