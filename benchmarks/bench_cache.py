"""A warm start with the signed compile cache, beside one with JAX's own.

Each start is a fresh process that imports what it needs and gets the results of 20
programs. They take turns, and every one must have loaded all 20 and agree on the
results.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _harness
from benchmarks._cache_child import PROGRAMS

GROUP = "cache"

_SIDES = ("ours", "jax")


def measure(effort: _harness.Effort) -> list[_harness.Row]:
    """All rows of this benchmark."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAFEJAX_BENCH_DIR")) as place:
        folders = {side: Path(place) / side for side in _SIDES}
        # The second start of ours tries what it finds in a worker, once for all.
        cold = [_start(side, folders[side]) for side in ("jax", "ours", "ours")]
        rounds = [_round(folders, i) for i in range(3 if effort.quick else 21)]
    return _rows(rounds, cold)


def _round(folders: dict[str, Path], number: int) -> dict[str, dict[str, Any]]:
    order = _SIDES if number % 2 else _SIDES[::-1]
    found = {side: _start(side, folders[side]) for side in order}
    for one in found.values():
        assert one["hits"] == PROGRAMS, f"{one['hits']} of {PROGRAMS} were loaded"
    assert found["ours"]["answers"] == found["jax"]["answers"]
    return found


def _start(side: str, folder: Path) -> dict[str, Any]:
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603  our own interpreter, our own program
        [sys.executable, "-m", "benchmarks._cache_child", side, str(folder)],
        cwd=_harness.ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wall = time.perf_counter() - start
    return {**json.loads(done.stdout.splitlines()[-1]), "wall": wall}


def _rows(
    rounds: list[dict[str, dict[str, Any]]], cold: list[dict[str, Any]]
) -> list[_harness.Row]:
    def seconds(side: str, part: str) -> list[float]:
        return [one[side]["seconds"][part] for one in rounds]

    def middle(side: str, part: str) -> float:
        return statistics.median(seconds(side, part)) * 1e3

    walls = {side: [one[side]["wall"] for one in rounds] for side in _SIDES}
    parts = ", ".join(
        f"{part}: {middle('ours', part):.0f} ms, JAX {middle('jax', part):.0f}"
        for part in ("import_jax", "open", "programs")
    )
    return [
        _harness.Row(
            group=GROUP,
            name="warm start, 20 programs, against JAX's own cache",
            unit="x",
            samples=tuple(
                ours / theirs
                for ours, theirs in zip(walls["ours"], walls["jax"], strict=True)
            ),
            limit=_harness.Limit(1.05),
            note=f"{statistics.median(walls['ours']):.2f} s, "
            f"JAX {statistics.median(walls['jax']):.2f} ({parts}); the first start "
            f"{cold[1]['wall']:.2f} s, JAX {cold[0]['wall']:.2f}; the second "
            f"{cold[2]['wall']:.2f} s",
        ),
        _harness.Row(
            group=GROUP,
            name="the same in time of the processor",
            unit="x",
            samples=tuple(
                ours / theirs
                for ours, theirs in zip(
                    seconds("ours", "cpu"), seconds("jax", "cpu"), strict=True
                )
            ),
            note=f"{middle('ours', 'cpu'):.0f} ms, JAX {middle('jax', 'cpu'):.0f}",
        ),
        _harness.Row(
            group=GROUP,
            name="of that: tracing, finding and loading the 20 programs",
            unit="x",
            samples=tuple(
                ours / theirs
                for ours, theirs in zip(
                    seconds("ours", "programs"), seconds("jax", "programs"), strict=True
                )
            ),
        ),
    ]
