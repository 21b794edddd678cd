"""What compiling in a worker costs, and what it withstands.

``python -m benchmarks.bench_compile PART quick|full`` is the fresh process in which
one part is measured: it prints figures as JSON.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np

import safejax
from benchmarks import _corpus
from benchmarks._corpus import Program
from benchmarks._harness import (
    Effort,
    Limit,
    Row,
    can_measure_memory,
    in_fresh_process,
    resident_mb,
)
from safejax.compile._service import service

GROUP = "compile"

_COMPILED = "/jax/core/compile/backend_compile_duration"
_LIMITS = safejax.Limits(compile_timeout_s=300.0)
_TWICE = Limit(1.6, at_most=False)
_CAP, _THREADS, _STORM = 16, 8, 64
_Figures = dict[str, Any]


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    size = "quick" if effort.quick else "full"
    rows: list[Row] = []
    for part, rows_of in _ROWS.items():
        rows += rows_of(in_fresh_process("bench_compile", part, size))
    return rows


def _row(
    name: str,
    unit: str,
    samples: Sequence[float],
    limit: Limit | None = None,
    note: str = "",
) -> Row:
    return Row(
        group=GROUP,
        name=name,
        unit=unit,
        samples=tuple(samples),
        limit=limit,
        note=note,
    )


# --- what a worker adds -----------------------------------------------------------


def _here(program: Program) -> float:
    lowered = jax.jit(program.function).lower(*program.args)
    return _timed(lowered.compile)


def _in_worker(program: Program) -> float:
    function = safejax.safe_jit(program.function, limits=_LIMITS, isolation="process")
    lowered = function.lower(*program.args)
    return _timed(lowered.compile)


def _timed(call: Callable[[], Any]) -> float:
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _in_turns(make: Callable[[], Program], times: int) -> tuple[float, float]:
    """The fastest compilation here, and the fastest in a worker, in seconds."""
    here, there = [], []
    for i in range(times):
        for where, seconds in (
            ((_here, here), (_in_worker, there))
            if i % 2
            else ((_in_worker, there), (_here, here))
        ):
            seconds.append(where(make()))
    return min(here), min(there)


def _saved_and_loaded(program: Program) -> float:
    """What XLA itself takes to save one executable and to load it again."""
    executable = jax.jit(program.function).lower(*program.args).compile()
    loaded = executable.runtime_executable()
    client = loaded.client

    def save_and_load() -> None:
        client.deserialize_executable(
            client.serialize_executable(loaded), loaded.local_devices()
        )

    return min(_timed(save_and_load) for _ in range(3))


def _added(quick: bool) -> _Figures:
    _in_worker(_corpus.slow(2))
    count = 10 if quick else 30
    numbers = np.linspace(0, len(_corpus.ordinary()) - 1, count).astype(int)
    small = [
        _in_turns(lambda n=n: _corpus.ordinary()[n], 2 if quick else 3)  # type: ignore[misc]
        for n in numbers
    ]
    large = {
        make(quick).name: (
            *_in_turns(lambda make=make: make(quick), 2 if quick else 5),  # type: ignore[misc]
            _saved_and_loaded(make(quick)),
        )
        for make in (_products, _gathers, _training)
    }
    return {"small": small, "large": large, "quick": quick}


def _products(quick: bool) -> Program:
    return _corpus.products(40 if quick else 150)


def _gathers(quick: bool) -> Program:
    return _corpus.serial(100 if quick else 400)


def _training(quick: bool) -> Program:
    return _corpus.training_step(1 if quick else 6)


def _added_rows(figures: _Figures) -> list[Row]:
    small, large = figures["small"], figures["large"]
    added = [(there - here) * 1e3 for here, there in small]
    middle = statistics.median(here for here, _ in small) * 1e3
    rows = [
        _row(
            f"a warm worker adds to one of {len(small)} small programs",
            "ms",
            added,
            Limit(15.0),
            f"in-process {middle:.0f} ms in the middle",
        )
    ]
    for name, (here, there, moved) in large.items():
        rows += [
            _row(
                f"{name}, against in-process",
                "x",
                [there / here],
                # No limit: see the next row.
                None,
                f"in-process {here:.2f} s",
            ),
            _row(
                f"{name}, less what XLA takes to save and load it",
                "x",
                [(there - moved) / here],
                # A short run compiles for too short a time to see a twentieth.
                Limit(1.5 if figures["quick"] else 1.05),
                f"saved and loaded in {moved * 1e3:.0f} ms",
            ),
        ]
    return rows


# --- compile bombs ----------------------------------------------------------------


def _explode(number: int, deadline_s: float) -> float:
    """Seconds until a bomb was refused, less its trace."""
    program = _corpus.bomb(number)
    limits = safejax.Limits(compile_timeout_s=deadline_s)
    function = safejax.safe_jit(program.function, limits=limits)
    start = time.perf_counter()
    try:
        function(*program.args)
    except safejax.CompileTimeoutError:
        return time.perf_counter() - start - function.stats().trace_s
    raise AssertionError(f"{program.name}: ended before its deadline")


def _bombs(quick: bool) -> _Figures:
    count, deadline_s = (4, 1.0) if quick else (50, 2.0)
    # One of each kind, so that what JAX keeps of its own functions is there already.
    for number in range(4):
        _explode(1000 + number, 0.3)
    before = resident_mb()
    seconds = [_explode(number, deadline_s) for number in range(count)]
    grown = resident_mb() - before
    busy = safejax.compile_status()["busy"]
    service.configure()
    return {
        "deadline_s": deadline_s,
        "seconds": seconds,
        "grown_mb": grown,
        "busy": busy,
        "left": len(_children()),
    }


def _children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        found += task.read_text(encoding="ascii").split()
    return found


def _bomb_rows(figures: _Figures) -> list[Row]:
    deadline_s, seconds = figures["deadline_s"], figures["seconds"]
    count = len(seconds)
    middle = statistics.median(seconds)
    rows = [
        _row(
            f"the last of {count} compile bombs ends, deadline {deadline_s:g} s",
            "s",
            [max(seconds)],
            Limit(deadline_s + 0.2),
            f"{middle:.2f} s in the middle, traces not counted",
        ),
        _row(
            f"processes left by {count} compile bombs",
            "",
            [figures["busy"] + figures["left"]],
            Limit(0.0),
            "busy right after, or alive once the pool is closed",
        ),
    ]
    if can_measure_memory():
        name = f"growth of the parent over {count} compile bombs"
        rows.insert(1, _row(name, "MB", [figures["grown_mb"]], Limit(20.0)))
    return rows


# --- right after a kill -----------------------------------------------------------


def _honest_seconds() -> float:
    return _in_worker(_corpus.slow(6))


def _after_kill(quick: bool) -> _Figures:
    rounds = 2 if quick else 11
    _honest_seconds()
    normal, after = [], []
    for number in range(rounds):
        normal.append(min(_honest_seconds() for _ in range(2)))
        pair = []
        for again in range(2):
            _explode(2 * number + again, 0.8)
            pair.append(_honest_seconds())
        after.append(min(pair))
        time.sleep(0.5)
    return {"normal": normal, "after": after}


def _kill_rows(figures: _Figures) -> list[Row]:
    normal, after = figures["normal"], figures["after"]
    return [
        _row(
            "an honest compilation right after a kill, against any other",
            "x",
            _ratios(after, normal),
            Limit(1.3),
            f"{statistics.median(after) * 1e3:.0f} ms, "
            f"else {statistics.median(normal) * 1e3:.0f}",
        )
    ]


# --- many threads -----------------------------------------------------------------


def _storm(quick: bool) -> _Figures:
    del quick
    seen: list[str] = []

    def note(event: str, duration: float, **kwargs: Any) -> None:
        del duration, kwargs
        if event == _COMPILED:
            seen.append(event)

    limits = safejax.Limits(max_compiles=_CAP, compile_timeout_s=300.0)
    function = safejax.safe_jit(lambda x: (x * 2).sum(), limits=limits)
    inputs = [np.ones(n + 1, np.float32) for n in range(_STORM)]
    results: list[float] = []
    gate = threading.Barrier(_THREADS)

    def client(number: int) -> None:
        gate.wait()
        for x in inputs[number::_THREADS]:
            try:
                results.append(float(function(x)))
            except safejax.CompileLimitError:
                continue

    jax.monitoring.register_event_duration_secs_listener(note)
    threads = [threading.Thread(target=client, args=(n,)) for n in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats, status = function.stats(), safejax.compile_status()
    assert len(results) == _CAP
    assert stats.refused == _STORM - _CAP
    return {
        "jax": len(seen),
        "function": stats.compiles,
        "workers": status["outcomes"]["ok"],
    }


def _storm_rows(figures: _Figures) -> list[Row]:
    found = [figures[name] for name in ("jax", "function", "workers")]
    wrong = max(abs(one - _CAP) for one in found)
    return [
        _row(
            f"{_THREADS} threads, {_STORM} signatures: compilations off the {_CAP}",
            "",
            [wrong],
            Limit(0.0),
            "{} seen by jax.monitoring, {} by the function, {} by the workers".format(
                *found
            ),
        )
    ]


# --- ahead of time ----------------------------------------------------------------


def _ahead(quick: bool) -> _Figures:
    count = 4 if quick else 8
    kinds = {
        "on one core": [_corpus.serial(n + 200 - 100 * quick) for n in range(count)],
        "on two cores": [_corpus.slow(n + 24 - 10 * quick) for n in range(count)],
    }
    for isolation in ("process", "none"):
        _precompiled([_corpus.slow(4), _corpus.slow(5)], isolation)
    found = {
        kind: _in_rounds(programs, 1 if quick else 3)
        for kind, programs in kinds.items()
    }
    return {"kinds": found, "quick": quick}


def _in_rounds(programs: Sequence[Program], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"loop": [], "process": [], "none": []}
    for _ in range(rounds):
        found["loop"].append(_timed(lambda: _looped(programs)))
        for isolation in ("process", "none"):
            one = _timed(lambda how=isolation: _precompiled(programs, how))  # type: ignore[misc]
            found[isolation].append(one)
    return found


def _again(program: Program) -> Callable[..., Any]:
    """The same function as another object, so that no trace is found again."""
    return functools.partial(program.function)


def _looped(programs: Sequence[Program]) -> None:
    for program in programs:
        jax.jit(_again(program)).lower(*program.args).compile()


def _precompiled(programs: Sequence[Program], isolation: Any) -> None:
    work = []
    for program in programs:
        function = safejax.safe_jit(
            _again(program), limits=_LIMITS, isolation=isolation
        )
        work.append((function, program.args))
    for report in safejax.precompile(work, workers=2):
        assert report.error is None


def _ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ones, others, strict=True)]


def _ahead_rows(figures: _Figures) -> list[Row]:
    return [
        _row(
            f'precompile what XLA compiles {kind}, 2 workers, isolation="{isolation}"',
            "x faster",
            [
                one / ours
                for one, ours in zip(found["loop"], found[isolation], strict=True)
            ],
            # No limit where XLA itself spreads one compilation over both cores, nor
            # for a short run: it needs two cores to itself.
            _TWICE if kind == "on one core" and not figures["quick"] else None,
            f"{statistics.median(found[isolation]):.1f} s, a loop over jax.jit "
            f"{statistics.median(found['loop']):.1f} s",
        )
        for kind, found in figures["kinds"].items()
        for isolation in ("process", "none")
    ]


# --- the same results -------------------------------------------------------------


def _equal(quick: bool) -> _Figures:
    jax.config.update("jax_num_cpu_devices", 4)

    def programs() -> list[Program]:
        ordinary = _corpus.ordinary()
        return (ordinary[::4] if quick else ordinary) + _corpus.sharded()

    different, compared = [], programs()
    for plain, ours in zip(compared, programs(), strict=True):
        function = safejax.safe_jit(ours.function, limits=_LIMITS, isolation="process")
        if not _same_bits(jax.jit(plain.function)(*plain.args), function(*ours.args)):
            different.append(plain.name)
    used = safejax.compile_status()["outcomes"]["ok"]
    return {"count": len(compared), "different": different, "workers": used}


def _same_bits(one: Any, other: Any) -> bool:
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(
        a.dtype == b.dtype
        and a.sharding == b.sharding
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(leaves, others, strict=True)
    )


def _equal_rows(figures: _Figures) -> list[Row]:
    count, different = figures["count"], figures["different"]
    return [
        _row(
            f"results that differ in a bit, of {count} programs",
            "",
            [len(different)],
            Limit(0.0),
            ", ".join(different) or f"{figures['workers']} compiled in workers",
        )
    ]


_ROWS: dict[str, Callable[[_Figures], list[Row]]] = {
    "added": _added_rows,
    "bombs": _bomb_rows,
    "after_kill": _kill_rows,
    "storm": _storm_rows,
    "ahead": _ahead_rows,
    "equal": _equal_rows,
}
_PARTS: dict[str, Callable[[bool], _Figures]] = {
    "added": _added,
    "bombs": _bombs,
    "after_kill": _after_kill,
    "storm": _storm,
    "ahead": _ahead,
    "equal": _equal,
}


if __name__ == "__main__":
    logging.getLogger("safejax.compile").setLevel(logging.ERROR)
    print(json.dumps(_PARTS[sys.argv[1]](sys.argv[2] == "quick")))
