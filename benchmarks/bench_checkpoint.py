"""What signed checkpoints cost, beside safetensors and Orbax without signatures.

Loads are measured in fresh processes, because a process that has loaded once has warm
memory, which a start-up has not; saves in one process, in turns. See the README for why
memory is touched before each of the large measurements.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import safejax
from benchmarks._checkpoint_trees import key_ring, nested, tiny, transformer
from benchmarks._harness import Effort, Limit, Row, in_fresh_process, optional

GROUP = "checkpoint"

_GIB = 1 << 30
_PIECE = 1 << 20
Calls = Mapping[str, Callable[[], Any]]
Seconds = dict[str, list[float]]


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    peer = optional("safetensors.flax")
    if peer is None:
        return [Row(group=GROUP, name="all", unit="x", note="needs safetensors, flax")]
    optional("flax")
    with tempfile.TemporaryDirectory(dir=_place()) as folder:
        bench = _Bench(Path(folder), effort, peer)
        return [
            *bench.large(),
            *bench.tiny(),
            *bench.small(),
            *bench.background(),
        ]


def _place() -> str | None:
    """A real disk: an fsync on a file system in memory costs nothing."""
    return os.environ.get("SAFEJAX_BENCH_DIR") or "/var/tmp"  # noqa: S108


def _ratios(seconds: Seconds, ours: str, other: str) -> tuple[float, ...]:
    pairs = zip(seconds[ours], seconds[other], strict=True)
    return tuple(mine / its for mine, its in pairs)


def _note(seconds: Seconds, ours: str, other: str) -> str:
    mine, its = statistics.median(seconds[ours]), statistics.median(seconds[other])
    return f"{1e3 * mine:.1f} ms, {other} {1e3 * its:.1f}"


class _Bench:
    def __init__(self, folder: Path, effort: Effort, peer: Any) -> None:
        self.folder, self.effort, self.peer = folder, effort, peer
        self.size = (96 << 20) if effort.quick else _GIB
        self.rounds = 3 if effort.quick else 7
        self.fast = optional("blake3") is not None
        self.orbax = optional("orbax.checkpoint")

    def path(self, name: str) -> str:
        return str(self.folder / name)

    # --- measuring ----------------------------------------------------------------

    def turns(self, calls: Calls, rounds: int, heat: int = 0) -> Seconds:
        """Each call's seconds in each round; the order turns round."""
        seconds: Seconds = {name: [] for name in calls}
        order = list(calls)
        for call in calls.values():
            jax.block_until_ready(call())
        for _ in range(rounds):
            for name in order:
                _heat(heat)
                start = time.perf_counter()
                got = calls[name]()
                jax.block_until_ready(got)
                seconds[name].append(time.perf_counter() - start)
                del got
            order.reverse()
        return seconds

    def fresh(
        self, calls: Mapping[str, tuple[str, str]]
    ) -> tuple[Seconds, list[float]]:
        """The same with a new process for each call, and our growth in bytes."""
        seconds: Seconds = {name: [] for name in calls}
        grown: list[float] = []
        order = list(calls)
        for _ in range(self.rounds):
            for name in order:
                kind, path = calls[name]
                heat = str(2 * self.size)
                found = in_fresh_process("_checkpoint_child", kind, path, heat)
                seconds[name].append(found["seconds"])
            kind, path = calls["sha256"]
            found = in_fresh_process("_checkpoint_child", kind, path, "0")
            grown.append(found["grown"])
            order.reverse()
        return seconds, grown

    def row(
        self,
        name: str,
        seconds: Seconds,
        pair: tuple[str, str],
        aim: float,
        *,
        limit: float | None = None,
    ) -> Row:
        """A ratio that has a limit, or is reported beside the aim.

        What depends on whether the processor has instructions for SHA-256, or on the
        disk, has none: see what reading, hashing and writing alone take.
        """
        note = _note(seconds, *pair)
        return Row(
            group=GROUP,
            name=name,
            unit="x",
            samples=_ratios(seconds, *pair),
            limit=None if limit is None else Limit(limit),
            note=note if limit == aim else f"{note}; aim {aim:g}",
        )

    def bound(self, name: str, seconds: Seconds, pair: tuple[str, str]) -> Row:
        """What nobody who uses the digest could do better."""
        return Row(
            group=GROUP,
            name=name,
            unit="x",
            samples=_ratios(seconds, *pair),
            note=f"{_note(seconds, *pair)}; the least there is",
        )

    def absent(self, name: str, what: str) -> Row:
        return Row(group=GROUP, name=name, unit="x", note=f"{what} is not installed")

    # --- a large tree -------------------------------------------------------------

    def large(self) -> list[Row]:
        flat = transformer(self.size)
        both = [flat, nested(flat)]
        calls = self._saves("large", lambda: both, orbax=True)
        calls["alone"] = functools.partial(self._alone, np.full(self.size, 7, np.uint8))
        seconds = self.turns(calls, self.rounds, heat=2 * self.size)
        rows = [
            self.row(
                "save + fsync, SHA-256, against safetensors + fsync",
                seconds,
                ("sha256", "safetensors"),
                1.15,
            )
        ]
        name = "save + fsync, BLAKE3, against safetensors + fsync"
        if self.fast:
            # Where the disk is the slower half, both take as long as it does.
            rows.append(self.row(name, seconds, ("blake3", "safetensors"), 0.9))
        else:
            rows.append(self.absent(name, "blake3"))
        alone = "save + fsync, SHA-256, against writing and hashing alone"
        rows.append(self.row(alone, seconds, ("sha256", "alone"), 1.25, limit=1.25))
        rows.append(
            self.bound(
                "writing and hashing alone, SHA-256, against safetensors + fsync",
                seconds,
                ("alone", "safetensors"),
            )
        )
        name = "save + fsync against Orbax"
        if self.orbax:
            rows.append(self.row(name, seconds, ("sha256", "orbax"), 0.45))
        else:
            rows.append(self.absent(name, "orbax-checkpoint"))
        bytes_ = sum(leaf.nbytes for leaf in flat.values())
        del flat, calls
        both.clear()
        return [*self._large_loads(bytes_), *rows]

    def _large_loads(self, tree_bytes: int) -> list[Row]:
        calls = {
            "sha256": ("sha256", self.path("large.sha256")),
            "safetensors": ("safetensors", self.path("large.st")),
            "verify, then load": ("verify, then load", self.path("large.st")),
            "raw": ("raw", self.path("large.sha256")),
        }
        if self.orbax:
            calls["orbax"] = ("orbax", self.path("large.orbax"))
        if self.fast:
            calls["blake3"] = ("blake3", self.path("large.blake3"))
        seconds, grown = self.fresh(calls)
        rows = [
            self.row(f"load in a fresh process{how}", seconds, pair, aim, limit=limit)
            for how, pair, aim, limit in (
                (" against safetensors", ("sha256", "safetensors"), 0.35, None),
                (" against Orbax", ("sha256", "orbax"), 0.3, None),
                (
                    " against verify, then load",
                    ("sha256", "verify, then load"),
                    0.25,
                    None,
                ),
                (
                    " against reading and hashing alone",
                    ("sha256", "raw"),
                    1.25,
                    1.25,
                ),
                (", BLAKE3, against safetensors", ("blake3", "safetensors"), 0.35, 0.4),
                (", BLAKE3, against Orbax", ("blake3", "orbax"), 0.3, 0.3),
                (
                    ", BLAKE3, against verify, then load",
                    ("blake3", "verify, then load"),
                    0.25,
                    0.25,
                ),
            )
            if pair[0] in calls and pair[1] in calls
        ]
        rows.append(
            self.bound(
                "reading and hashing alone, SHA-256, against safetensors",
                seconds,
                ("raw", "safetensors"),
            )
        )
        spare = (32 << 20) / tree_bytes
        rows.append(
            Row(
                group=GROUP,
                name="peak memory of a load over the size of the tree",
                unit="x",
                samples=tuple(growth / tree_bytes for growth in grown),
                limit=Limit(1.1 + spare),
                note=f"{tree_bytes >> 20} MiB",
            )
        )
        return [*rows, *self._warm_loads()]

    def _warm_loads(self) -> list[Row]:
        name = "load in a warm process, BLAKE3, against safetensors"
        if not self.fast:
            return [self.absent(name, "blake3")]
        ring, path = key_ring("blake3"), self.path("large.blake3")
        calls = {
            "blake3": lambda: safejax.signed_load(path, key=ring),
            "safetensors": lambda: self.peer.load_file(self.path("large.st")),
        }
        seconds = self.turns(calls, self.rounds + 2)
        return [self.row(name, seconds, ("blake3", "safetensors"), 1.1, limit=1.1)]

    def _saves(
        self, name: str, make: Callable[[], Sequence[Any]], *, orbax: bool
    ) -> dict[str, Callable[[], Any]]:
        """Durable saves of what ``make`` gives, by us and by the others."""

        def ours(digest: str) -> Callable[[], None]:
            ring, path = key_ring(digest), self.path(f"{name}.{digest}")
            return lambda: safejax.signed_save(path, make()[1], key=ring)

        def theirs() -> None:
            path, temporary = self.path(f"{name}.st"), self.path(f"{name}.st.tmp")
            self.peer.save_file(make()[0], temporary)
            _sync(temporary)
            Path(temporary).rename(path)
            _sync(str(self.folder))

        calls = {"sha256": ours("sha256"), "safetensors": theirs}
        if self.fast:
            calls["blake3"] = ours("blake3")
        if orbax and self.orbax:
            calls["orbax"] = lambda: self._orbax_save(name, make()[1])
        return calls

    def _alone(self, data: Any) -> None:
        """Hashes and writes so many bytes in two threads, durably, and nothing else."""
        path, view = self.path("large.alone"), memoryview(data)
        fd = os.open(f"{path}.tmp", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

        def part(start: int) -> None:
            hasher, end = hashlib.sha256(), min(start + self.size // 2, self.size)
            for at in range(start, end, _PIECE):
                piece = view[at : min(at + _PIECE, end)]
                hasher.update(piece)
                os.pwrite(fd, piece, at)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(part, (0, self.size // 2)))
        os.fsync(fd)
        os.close(fd)
        Path(f"{path}.tmp").rename(path)
        _sync(str(self.folder))

    def _orbax_save(self, name: str, tree: Any) -> None:
        path = self.folder / f"{name}.orbax"
        shutil.rmtree(path, ignore_errors=True)
        with self.orbax.StandardCheckpointer() as checkpointer:  # type: ignore[union-attr]
            checkpointer.save(path, tree)
            checkpointer.wait_until_finished()

    # --- many leaves --------------------------------------------------------------

    def tiny(self) -> list[Row]:
        count = 2_000 if self.effort.quick else 20_000
        waiting: list[tuple[Any, Any]] = []

        def new() -> tuple[Any, Any]:
            """Arrays that nobody has fetched yet, as a training step gives them."""
            return waiting.pop()

        def prepare() -> None:
            flat = tiny(count)
            waiting.append((flat, nested(flat)))

        calls = self._saves("tiny", new, orbax=False)
        calls.pop("blake3", None)
        seconds: Seconds = {name: [] for name in calls}
        for i in range(self.rounds + 3):
            for name in list(calls)[:: 1 if i % 2 else -1]:
                prepare()
                start = time.perf_counter()
                calls[name]()
                seconds[name].append(time.perf_counter() - start)
        save = {name: found[1:] for name, found in seconds.items()}
        ring, path = key_ring("sha256"), self.path("tiny.sha256")
        load = self.turns(
            {
                "sha256": lambda: safejax.signed_load(path, key=ring),
                "safetensors": lambda: self.peer.load_file(self.path("tiny.st")),
            },
            self.rounds + 2,
        )
        pair = ("sha256", "safetensors")

        def held(limit: float) -> float | None:
            """Few leaves show the fixed costs instead."""
            return None if self.effort.quick else limit

        return [
            self.row(
                f"{count:,} leaves, load, against safetensors",
                load,
                pair,
                0.2,
                limit=held(0.4),
            ),
            self.row(
                f"{count:,} leaves, save + fsync", save, pair, 0.8, limit=held(0.8)
            ),
        ]

    # --- a small tree -------------------------------------------------------------

    def small(self) -> list[Row]:
        key = jax.random.key(0)
        flat = {f"w{i}": jax.random.normal(key, (29_000,)) for i in range(9)}
        rounds = 15 if self.effort.quick else 101
        calls = self._saves("small", lambda: (dict(flat), flat), orbax=False)
        calls.pop("blake3", None)
        save = self.turns(calls, rounds)
        ring, path = key_ring("sha256"), self.path("small.sha256")
        load = self.turns(
            {
                "sha256": lambda: safejax.signed_load(path, key=ring),
                "safetensors": lambda: self.peer.load_file(self.path("small.st")),
            },
            rounds,
        )
        pair = ("sha256", "safetensors")
        return [
            self.row("1 MiB, load, against safetensors", load, pair, 1.1),
            self.row("1 MiB, save + fsync", save, pair, 1.4),
        ]

    # --- behind a training loop ---------------------------------------------------

    def background(self) -> list[Row]:
        """What a save beside a loop takes from it: the loop runs on all cores."""
        steps = 200 if self.effort.quick else 1500
        x = jnp.asarray(np.random.default_rng(0).random((700, 700), np.float32))
        params = transformer(self.size // 8)
        ring, path = key_ring("sha256"), self.path("async")
        step = jax.jit(lambda x: x @ x / 700)

        def loop(*, save: bool) -> float:
            start, y, saving = time.perf_counter(), x, None
            for i in range(steps):
                y = step(y)
                if i % 20 == 0:
                    y.block_until_ready()
                if save and i == steps // 10:
                    saving = safejax.signed_save_async(path, params, key=ring)
            y.block_until_ready()
            seconds = time.perf_counter() - start
            if saving is not None:
                saving.result()
            return seconds

        loop(save=True)
        found = [(loop(save=True), loop(save=False)) for _ in range(self.rounds + 2)]
        return [
            Row(
                group=GROUP,
                name="a training loop with an async save in it, against without",
                unit="x",
                samples=tuple(with_save / without for with_save, without in found),
                limit=Limit(1.05),
                note=f"{statistics.median(b for _, b in found):.1f} s",
            )
        ]


def _heat(size: int) -> None:
    if size:
        memory = np.empty(size, np.uint8)
        memory[::4096] = 1


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
