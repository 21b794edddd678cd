"""The picture of the storm: honest latency over time, one line for each server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks._harness import optional

_COLORS = {"plain": "#c44e52", "checked": "#dd8452", "safejax": "#4c72b0"}
_WINDOW_S = 1.0


def plot(document: Mapping[str, Any], target: Path) -> str:
    """Draws what was measured; what happened, in words."""
    matplotlib = optional("matplotlib")
    if matplotlib is None:
        return "no plot: matplotlib is not installed"
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "safejax", "svg.fonttype": "none"})
    target.parent.mkdir(parents=True, exist_ok=True)
    _draw(document, target)
    return f"drawn: {target.name}"


def _slowest(phases: Any, before_s: float, attack_s: float, after_s: float) -> Any:
    """Points of the slowest of each second, on one time for all servers."""
    points = []
    for i, phase in enumerate(phases):
        offset = {"before": 0.0, "during": before_s, "after": before_s + attack_s}
        round_s = before_s + attack_s + after_s
        start = i // 3 * round_s + offset[phase["part"]]
        windows: dict[int, float] = {}
        for at, took in zip(phase["at_s"], phase["took_ms"], strict=True):
            window = int((at - phase["began_s"]) / _WINDOW_S)
            if (window + 1) * _WINDOW_S > phase["seconds"]:
                continue
            windows[window] = max(windows.get(window, 0.0), took)
        points += [
            (start + (window + 0.5) * _WINDOW_S, took)
            for window, took in sorted(windows.items())
        ]
    return points


def _draw(document: Mapping[str, Any], target: Path) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415  it is optional

    plan = document["plan"]
    parts = (plan["before_s"], plan["attack_s"], plan["after_s"])
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    attacks = document["attacks"]
    for i, attack in enumerate(attacks.values()):
        start = i * sum(parts) + parts[0]
        axes.axvspan(start, start + parts[1], color="#000000", alpha=0.06, lw=0)
        axes.text(
            start + parts[1] / 2,
            1.02,
            attack["title"].replace(" of ", "\nof ").replace(" by ", "\nby ")
            .replace(" in ", "\nin ").replace(", ", ",\n").replace(" at ", "\nat "),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=7,
        )  # fmt: skip
    for kind, server in document["servers"].items():
        points = _slowest(server["phases"][: 3 * len(attacks)], *parts)
        axes.plot(
            [at for at, _ in points],
            [took for _, took in points],
            label=server["title"],
            color=_COLORS[kind],
            lw=1.6,
            zorder=3 if kind == "safejax" else 2,
        )
    axes.set_yscale("log")
    axes.set_xlim(0, len(attacks) * sum(parts))
    axes.set_xlabel("seconds (attacks shaded)")
    axes.set_ylabel("slowest honest answer of each second, ms")
    axes.grid(alpha=0.3)
    figure.legend(
        frameon=False, loc="outside lower center", ncols=len(document["servers"])
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)
