"""What the review of a traced program costs, and how good its estimates are."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import safejax
from benchmarks._harness import Effort, Limit, Row
from benchmarks._programs import programs
from safejax.review._judge import judge
from safejax.review._report import report_of

GROUP = "review"

_EQUATIONS = 5000
_STRICT = (safejax.Policy.strict(),)
# On CPU XLA hands whole parts of a program to a library, and what the library needs
# is not in XLA's figures. Without that, they are XLA's own buffers.
_NO_LIBRARY = {"xla_cpu_experimental_ynn_fusion_type": ""}


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    rounds = 5 if effort.quick else 21
    rows = [
        _cost("5,000 equations, against trace + lower", _flat, rounds, Limit(0.05)),
        _cost("5,000 in nested calls", _nested, rounds, Limit(0.05)),
        _cost("5,000, memory judged in full", _flat, rounds, None, tight=True),
    ]
    rows += _peaks("peak", {}, limited=True)
    if not effort.quick and jax.default_backend() == "cpu":
        rows += _peaks("peak, no library fusion", _NO_LIBRARY, limited=False)
    return rows


# --- what it costs ----------------------------------------------------------------


def _flat(w: jax.Array, x: jax.Array) -> jax.Array:
    for _ in range(_EQUATIONS // 5):
        x = jax.lax.tanh(jax.lax.dot(x, w) + x) * x - x
    return x


def _nested(w: jax.Array, x: jax.Array) -> jax.Array:
    for _ in range(_EQUATIONS // 8):
        x = jnp.tanh(x @ w) * 0.5 + jnp.where(x > 0, x, 0.1 * x)
    return x


def _cost(
    name: str,
    model: Callable[..., Any],
    rounds: int,
    limit: Limit | None,
    *,
    tight: bool = False,
) -> Row:
    """The review under strict limits against the tracing and lowering before it."""
    limits = safejax.Limits.serving()
    args = (jnp.ones((64, 64)), jnp.ones((8, 64)))
    if tight:
        # Just above the estimate: what bounds it from above does not suffice.
        peak = report_of(jax.jit(model).trace(*args), function="f").peak_bytes
        limits = safejax.Limits.serving(max_memory_bytes=peak + 1)
    ratios, reviews, before = [], [], []
    for _ in range(rounds):
        jax.clear_caches()
        gc.collect()
        start = time.perf_counter()
        traced = jax.jit(model).trace(*args)
        traced.lower()
        middle = time.perf_counter()
        judge(traced, function="f", limits=limits, policies=_STRICT)
        end = time.perf_counter()
        ratios.append((end - middle) / (middle - start))
        reviews.append(end - middle)
        before.append(middle - start)
    note = (
        f"{statistics.median(reviews) * 1e3:.1f} ms, "
        f"trace + lower {statistics.median(before) * 1e3:.0f} ms"
    )
    return Row(
        group=GROUP, name=name, unit="x", samples=tuple(ratios), limit=limit, note=note
    )


# --- how good it is ---------------------------------------------------------------


def _peaks(title: str, options: Mapping[str, Any], *, limited: bool) -> list[Row]:
    """Estimates against what XLA says of the compiled programs."""
    ratios = {
        name: _estimated(fun, args) / _real(fun, args, options)
        for name, fun, args in programs()
    }
    low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    middle = statistics.median(ratios.values())
    bounds = (Limit(0.9, at_most=False), Limit(1.5), Limit(4.0))
    rows = (
        ("lowest", ratios[low], low, bounds[0]),
        ("median", middle, "estimated / XLA's", bounds[1]),
        ("highest", ratios[high], high, bounds[2]),
    )
    return [
        Row(
            group=GROUP,
            name=f"{title}, {which} of {len(ratios)} programs",
            unit="x",
            samples=(ratio,),
            limit=limit if limited else None,
            note=note,
        )
        for which, ratio, note, limit in rows
    ]


def _estimated(fun: Callable[..., Any], args: Sequence[Any]) -> int:
    return report_of(jax.jit(fun).trace(*args), function="f").peak_bytes


def _real(
    fun: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]
) -> int:
    """Arguments, results and temporaries."""
    compiled = jax.jit(fun).lower(*args).compile(compiler_options=dict(options))
    stats = compiled.memory_analysis()
    return int(
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
    )
