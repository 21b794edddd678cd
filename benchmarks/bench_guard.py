"""What the guard costs: calls outside of scopes, and tracing inside."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import safejax
from benchmarks._harness import (
    Effort,
    Limit,
    Row,
    in_fresh_process,
    no_garbage_collection,
    pair,
)

GROUP = "guard"

_EQUATIONS = 1_000
_SPEC = jax.ShapeDtypeStruct((8,), jnp.float32)
# Tracing is what is measured, so it is admitted by name; all else is watched.
_POLICY = safejax.Policy.strict().replace(allow={"jax.jit(f).trace"})
_TRACES = 12


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    return [*_tracing(effort), *_calls(effort), _scope(effort)]


def _tracing(effort: Effort) -> list[Row]:
    # Each ratio from a process of its own: what the first scope installs stays, so
    # plain tracing can be measured only before it.
    runs = [in_fresh_process("bench_guard") for _ in range(5 if effort.quick else 15)]
    plain = min(run["plain"] for run in runs) * 1e3
    bound = 1.06 if sys.version_info >= (3, 12) else 2.5
    rows = {
        "guarded": Row(
            group=GROUP,
            name=f"tracing {_EQUATIONS:,} equations in a scope",
            unit="x",
            samples=tuple(run["guarded"] / run["plain"] for run in runs),
            limit=Limit(bound),
            note=f"plain {plain:.1f} ms",
        ),
        "after": Row(
            group=GROUP,
            name="the same after the first scope, none open",
            unit="x",
            samples=tuple(run["after"] / run["plain"] for run in runs),
            note="the audit hook stays to the end of the process",
        ),
    }
    return list(rows.values())


def _calls(effort: Effort) -> list[Row]:
    x = jnp.ones((8, 16))
    contract = {"x": jax.ShapeDtypeStruct(("b", 16), jnp.float32)}
    with safejax.guard():
        pass
    calls = {
        "no contract": safejax.safe_jit(_one),
        "contract": safejax.safe_jit(_one, contract=contract),
    }
    limits = {"no contract": 1.02, "contract": 1.10}
    return [
        pair(
            GROUP,
            f"known call, no scope open, {name}",
            (jax.jit(_one), call),
            (x,),
            effort,
            Limit(limits[name]),
        )
        for name, call in calls.items()
    ]


def _scope(effort: Effort) -> Row:
    guard = safejax.guard()
    samples = []
    for _ in range(effort.rounds):
        start = time.perf_counter()
        for _ in range(50):
            with guard:
                pass
        samples.append((time.perf_counter() - start) / 50 * 1e6)
    name = "opening and closing a scope"
    return Row(group=GROUP, name=name, unit="µs", samples=tuple(samples))


def _one(x: jax.Array) -> jax.Array:
    return x + 1


# --- in a fresh process -----------------------------------------------------------


def _many() -> Callable[[jax.Array], jax.Array]:
    def many(x: jax.Array) -> jax.Array:
        for _ in range(_EQUATIONS // 2):
            x = jnp.sin(x) * 2.0
        return x

    return many


def _plain() -> float:
    jitted = jax.jit(_many())
    start = time.perf_counter()
    jitted.trace(_SPEC)
    return time.perf_counter() - start


def _guarded() -> float:
    jitted = jax.jit(_many())
    start = time.perf_counter()
    with safejax.guard(_POLICY):
        jitted.trace(_SPEC)
    return time.perf_counter() - start


def _fastest(trace: Callable[[], float]) -> float:
    with no_garbage_collection():
        return min(trace() for _ in range(_TRACES))


def main() -> None:
    """Measures plain tracing, then guarded, then plain again; prints JSON."""
    _plain()
    facts: dict[str, Any] = {"plain": _fastest(_plain)}
    _guarded()
    facts["guarded"] = _fastest(_guarded)
    facts["after"] = _fastest(_plain)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
