"""The memory of a process that sees one new shape after another.

``python -m benchmarks.bench_memory KIND COUNT`` is the fresh process in which a curve
is measured: it prints the points. ``--plot`` of ``benchmarks.run`` draws them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import safejax
from benchmarks._harness import (
    OUT,
    Effort,
    Limit,
    Row,
    can_measure_memory,
    in_fresh_process,
    optional,
    resident_mb,
)

GROUP = "memory"

_CAP = 8
_STEP = 10
_COLUMNS = 64
_LABELS = {
    "plain": "jax.jit",
    "evict": f'safe_jit, max_compiles={_CAP}, on_limit="evict"',
    "raise": f'safe_jit, max_compiles={_CAP}, on_limit="raise"',
    # What JAX keeps of a function that is dropped after one call: its traces of the
    # functions of jax.numpy that were called in it.
    "dropped": "a new jax.jit for each shape, then dropped",
}
_Curve = list[tuple[int, float]]


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark; the curves go to ``benchmarks/out/memory.json``."""
    if not can_measure_memory():
        return [Row(group=GROUP, name="resident", unit="MB", note="not measured here")]
    shapes = 60 if effort.quick else 500
    # A short curve is still warming up in its second half.
    limit = Limit(0.40 if effort.quick else 0.10)
    kinds = [kind for kind in _LABELS if kind != "dropped" or not effort.quick]
    curves: dict[str, _Curve] = {
        kind: in_fresh_process("bench_memory", kind, str(shapes)) for kind in kinds
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "memory.json").write_text(json.dumps(curves) + "\n", encoding="utf-8")
    rows = [_growth(kind, curve) for kind, curve in curves.items()]
    rows += [_share("evict", curves, None), _share("raise", curves, limit)]
    if "dropped" in curves:
        rows.append(_share("evict", curves, limit, beyond="dropped"))
    return rows


def _growth(kind: str, curve: _Curve) -> Row:
    return Row(
        group=GROUP,
        name=f"growth over {curve[-1][0]} shapes: {_LABELS[kind]}",
        unit="MB",
        samples=(curve[-1][1] - curve[0][1],),
        note=f"{_late_growth(curve):+.1f} MB in the second half",
    )


def _share(
    kind: str,
    curves: Mapping[str, _Curve],
    limit: Limit | None,
    *,
    beyond: str | None = None,
) -> Row:
    """Growth in the second half, as a share of plain JAX's.

    ``beyond`` takes off what JAX keeps of a function that was called once and dropped:
    traces of the functions of jax.numpy, which are not the evicted function's.
    """
    late = _late_growth(curves[kind])
    name = f'growth in the second half, on_limit="{kind}"'
    if beyond is not None:
        late -= _late_growth(curves[beyond])
        name += ", beyond what JAX keeps of a dropped function"
    return Row(
        group=GROUP,
        name=name,
        unit="x",
        samples=(max(late, 0.0) / _late_growth(curves["plain"]),),
        limit=limit,
    )


def _late_growth(curve: _Curve) -> float:
    """Growth over the second half of the shapes, in MB."""
    half = curve[-1][0] / 2
    middle = next(mb for shapes, mb in curve if shapes >= half)
    return curve[-1][1] - middle


# --- in the fresh process ---------------------------------------------------------


def _predict(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    hidden = jnp.tanh(x @ params["w1"] + params["b1"])
    return jax.nn.softmax(hidden @ params["w2"] + params["b2"])


def _params() -> dict[str, jax.Array]:
    random = np.random.default_rng(0)
    return {
        "w1": jnp.asarray(random.normal(size=(_COLUMNS, 32)), jnp.float32),
        "b1": jnp.zeros(32),
        "w2": jnp.asarray(random.normal(size=(32, 10)), jnp.float32),
        "b2": jnp.zeros(10),
    }


def _called_once(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    def predict(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return _predict(params, x)

    result: jax.Array = jax.jit(predict)(params, x)
    return result


def _function(kind: str) -> Callable[..., Any]:
    if kind == "plain":
        return jax.jit(_predict)
    if kind == "dropped":
        return _called_once
    logging.getLogger("safejax.compile").setLevel(logging.ERROR)
    limits = safejax.Limits(
        max_compiles=_CAP, on_limit="evict" if kind == "evict" else "raise"
    )
    return safejax.safe_jit(_predict, limits=limits)


def _curve(kind: str, shapes: int) -> _Curve:
    call, params = _function(kind), _params()
    buffer = np.zeros((shapes + 1, _COLUMNS), np.float32)
    points: _Curve = []
    for size in range(1, shapes + 1):
        try:
            jax.block_until_ready(call(params, buffer[:size]))
        except safejax.CompileLimitError:
            assert size > _CAP
        else:
            assert kind != "raise" or size <= _CAP
        if size == 1 or size % _STEP == 0:
            points.append((size, round(resident_mb(), 3)))
    return points


# --- the plot ---------------------------------------------------------------------


def plot(target: Path) -> str:
    """Draws the curves that were measured last; what happened, in words."""
    matplotlib = optional("matplotlib")
    source = OUT / "memory.json"
    if matplotlib is None or not source.exists():
        return "no plot: matplotlib is not installed, or nothing was measured"
    matplotlib.use("svg")
    # The same curves make the same file; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "safejax", "svg.fonttype": "none"})
    measured = json.loads(source.read_text(encoding="utf-8"))
    target.parent.mkdir(parents=True, exist_ok=True)
    _draw(measured, target)
    return f"drawn: {target.name}"


def _draw(curves: Mapping[str, _Curve], target: Path) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415  it is optional

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    colors = ("#c44e52", "#4c72b0", "#55a868", "#8c8c8c")
    for (kind, points), color in zip(curves.items(), colors, strict=False):
        grown = [mb - points[0][1] for _, mb in points]
        axes.plot([n for n, _ in points], grown, label=_LABELS[kind], color=color)
    axes.set_xlabel("shapes seen")
    axes.set_ylabel("growth of resident memory, MB")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    print(json.dumps(_curve(sys.argv[1], int(sys.argv[2]))))
