"""A stream of requests of many sizes: from buckets, and as plain ``jax.jit`` takes it.

``python -m benchmarks.bench_buckets REQUESTS SIZES`` is the fresh process of one run:
it serves the same stream both ways, compares all answers, and prints the figures.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

import safejax
from benchmarks._harness import (
    Effort,
    Limit,
    Row,
    in_fresh_process,
    pair,
)

GROUP = "buckets"

_LARGEST = 512
_WIDTH = 64
_SIZES = safejax.powers_of_two(8, _LARGEST)
_CONTRACT = {"params": None, "x": safejax.spec(f"f32[b, {_WIDTH}]")}
_COMPILED = "/jax/core/compile/backend_compile_duration"


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    return [*_streams(effort), *_calls(effort)]


def _predict(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["w"])
    return jax.nn.softmax(hidden @ params["v"])


def _params() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    shapes = {"w": (_WIDTH, 128), "v": (128, 10)}
    pairs = zip(shapes.items(), keys, strict=True)
    return {name: jax.random.normal(key, shape) / 8 for (name, shape), key in pairs}


# --- a stream ---------------------------------------------------------------------


def _streams(effort: Effort) -> list[Row]:
    requests, sizes, runs = (400, 170, 1) if effort.quick else (2_000, 300, 5)
    found = [
        in_fresh_process("bench_buckets", str(requests), str(sizes))
        for _ in range(runs)
    ]
    what = f"{requests:,} requests of {sizes} sizes"
    last = found[-1]
    return [
        _ratio(
            f"{what}: compilations, plain over buckets",
            [run["plain"]["compiled"] / run["buckets"]["compiled"] for run in found],
            Limit(20.0, at_most=False),
            f"{last['plain']['compiled']} and {last['buckets']['compiled']}",
        ),
        _ratio(
            f"{what}: throughput, buckets made ahead and all, over plain",
            [run["plain"]["s"] / run["buckets"]["s"] for run in found],
            Limit(5.0, at_most=False),
            f"{last['buckets']['s']:.1f} s of them {last['buckets']['ahead_s']:.1f} "
            f"ahead, plain {last['plain']['s']:.1f} s",
        ),
        _ratio(
            f"{what}: slowest request, plain over buckets",
            [run["plain"]["worst_s"] / run["buckets"]["worst_s"] for run in found],
            None,
            f"{last['plain']['worst_s'] * 1e3:.0f} ms and "
            f"{last['buckets']['worst_s'] * 1e3:.1f}",
        ),
    ]


def _ratio(name: str, samples: Sequence[float], limit: Limit | None, note: str) -> Row:
    return Row(
        group=GROUP,
        name=name,
        unit="x",
        samples=tuple(samples),
        limit=limit,
        note=note,
    )


def _stream(requests: int, sizes: int) -> list[np.ndarray[Any, Any]]:
    """Every size at least once, in no order."""
    rng = random.Random(0)
    distinct = rng.sample(range(1, _LARGEST + 1), sizes)
    counts = distinct + rng.choices(distinct, k=requests - sizes)
    rng.shuffle(counts)
    rows = np.random.default_rng(0).standard_normal((_LARGEST, _WIDTH))
    return [rows[:count].astype(np.float32) for count in counts]


def _served(
    call: Callable[..., Any],
    stream: Sequence[Any],
    params: Any,
    compiled: list[str],
    ahead: Callable[[], object],
) -> tuple[dict[str, Any], list[Any]]:
    compiled.clear()
    start = time.perf_counter()
    ahead()
    ready = time.perf_counter()
    answers, worst = [], 0.0
    for x in stream:
        before = time.perf_counter()
        answers.append(np.asarray(call(params, x)))
        worst = max(worst, time.perf_counter() - before)
    figures = {
        "s": time.perf_counter() - start,
        "ahead_s": ready - start,
        "worst_s": worst,
        "compiled": len(compiled),
    }
    return figures, answers


def _run(requests: int, sizes: int) -> dict[str, Any]:
    compiled: list[str] = []

    def note(name: str, *_: Any, **__: Any) -> None:
        if name == _COMPILED:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    params, stream = _params(), _stream(requests, sizes)
    bucketed = safejax.safe_jit(_predict, contract=_CONTRACT, buckets={"b": _SIZES})

    def ahead() -> None:
        bucketed.precompile(params)
        bucketed.freeze()

    # Ours first: what both need of JAX is warm for plain JAX then.
    ours, our_answers = _served(bucketed, stream, params, compiled, ahead)
    plain, answers = _served(jax.jit(_predict), stream, params, compiled, lambda: None)
    for mine, theirs in zip(our_answers, answers, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    return {"plain": plain, "buckets": ours}


# --- one call ---------------------------------------------------------------------


def _add(x: jax.Array) -> jax.Array:
    return x + 1


def _calls(effort: Effort) -> list[Row]:
    spec = {"x": safejax.spec("f32[b, 16]")}
    plain = jax.jit(_add)
    bucketed = safejax.safe_jit(_add, contract=spec, buckets={"b": (8, 64)})

    def waited(x: Any) -> Any:
        return plain(x).block_until_ready()

    small, full = np.ones((5, 16), np.float32), np.ones((8, 16), np.float32)
    on_device = jnp.asarray(small)
    return [
        pair(
            GROUP, "a call that is padded, NumPy", (waited, bucketed), [small], effort
        ),
        pair(
            GROUP,
            "a call that is padded, jax.Array",
            (waited, bucketed),
            [on_device],
            effort,
        ),
        pair(
            GROUP,
            "a call that fills its bucket, NumPy",
            (plain, bucketed),
            [full],
            effort,
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(_run(int(sys.argv[1]), int(sys.argv[2]))))
