"""The plots of the documentation, drawn from figures."""

from __future__ import annotations

import runpy
import types
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The benchmarks are not installed with the package.
plot_peers = types.SimpleNamespace(
    **runpy.run_path(str(ROOT / "benchmarks" / "plot_peers.py"))
)
SVG = "{http://www.w3.org/2000/svg}"


def row(name: str, median: float | None, unit: str = "x ours") -> dict[str, object]:
    return {"group": "peers", "name": name, "unit": unit, "median": median}


REPORT = {
    "machine": {"python": "3", "cpus": 2, "load": 0.1, "versions": {"jax": "1"}},
    "rows": [
        row("shape and dtype: safejax adds", 0.5, "µs"),
        row("shape and dtype: slow & <old>", 40.0),
        row("shape and dtype: quick", 10.0),
        row("shape and dtype: absent", None),
        row("finite: another", 3.0),
    ],
}


def test_bars_are_in_order_and_ours_is_first():
    assert plot_peers.bars(REPORT["rows"]) == [
        ("safejax", 1.0),
        ("quick", 10.0),
        ("slow & <old>", 40.0),
    ]


def test_plot_is_xml_with_bars_as_long_as_their_figures():
    root = ET.fromstring(plot_peers.drawn(REPORT))

    lengths = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect")]
    assert lengths[2] == pytest.approx(4 * lengths[1])
    text = [entry.text for entry in root.iter(f"{SVG}text")]
    assert {"slow & <old>", "0.5 µs", "40 times"} <= set(text)


def test_plot_of_the_documentation_has_both_themes():
    text = (ROOT / "docs" / "_static" / "peers.svg").read_text(encoding="utf-8")

    assert ET.fromstring(text).tag == f"{SVG}svg"
    assert "prefers-color-scheme: dark" in text
