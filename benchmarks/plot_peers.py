"""Draws what each library's check adds to a call, from the figures of a run.

``python -m benchmarks.plot_peers FIGURES.json PLOT.svg``, after
``python -m benchmarks.run --only peers --json FIGURES.json``. The drawing has the
colours of the reader's theme, light or dark.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CHECK = "shape and dtype: "
_WIDTH, _LEFT, _RIGHT, _TOP, _STEP, _BAR = 720, 170, 150, 52, 34, 20
_STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .faint { fill: #57606a; font-size: 12px }
  .peer { fill: #8c959f }
  .ours { fill: #1f883d }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .faint { fill: #9198a1 }
    .peer { fill: #6e7681 }
    .ours { fill: #3fb950 }
  }
"""


def bars(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Names, each with how many times ours its check costs; ours is first."""
    found = [("safejax", 1.0)]
    for row in rows:
        name, unit = row["name"], row["unit"]
        if name.startswith(_CHECK) and unit == "x ours" and row["median"]:
            found.append((name.removeprefix(_CHECK), row["median"]))
    return [found[0], *sorted(found[1:], key=lambda bar: bar[1])]


def drawn(report: Mapping[str, Any]) -> str:
    """The plot, as SVG."""
    found = bars(report["rows"])
    ours = next(row for row in report["rows"] if row["name"] == _CHECK + "safejax adds")
    longest = max(value for _, value in found)
    height = _TOP + _STEP * len(found) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" '
        'aria-label="What one check of a shape and a dtype adds to a call">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="0" y="20">{_TITLE}</text>',
    ]
    for i, (name, value) in enumerate(found):
        y = _TOP + _STEP * i
        length = max(2.0, (_WIDTH - _LEFT - _RIGHT) * value / longest)
        label = f"{value:.0f} times" if i else f"{ours['median']:.1f} µs"
        lines += [
            f'<text x="{_LEFT - 10}" y="{y + 15}" text-anchor="end">'
            f"{html.escape(name)}</text>",
            f'<rect class="{"peer" if i else "ours"}" x="{_LEFT}" y="{y}" '
            f'width="{length:.1f}" height="{_BAR}" rx="3"/>',
            f'<text x="{_LEFT + length + 8:.1f}" y="{y + 15}">{label}</text>',
        ]
    lines.append(
        f'<text class="faint" x="0" y="{height - 6}">{_machine(report["machine"])}'
        "</text>\n</svg>\n"
    )
    return "\n".join(lines)


_TITLE = "What checking the shape and dtype of one array adds to a call of jax.jit"


def _machine(facts: Mapping[str, Any]) -> str:
    versions = facts["versions"]
    return html.escape(
        f"Python {facts['python']}, JAX {versions['jax']}, {facts['cpus']} CPUs, "
        f"load {facts['load']}; medians of interleaved rounds in one process"
    )


def main(source: str, target: str) -> None:
    """Reads the figures and writes the plot."""
    report = json.loads(Path(source).read_text(encoding="utf-8"))
    Path(target).write_text(drawn(report), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
