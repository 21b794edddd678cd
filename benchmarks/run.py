"""Runs all benchmarks and prints one table.

``python -m benchmarks.run [--quick] [--markdown] [--json FILE] [--plot FILE]``; exits
with status 1 where a figure is beyond its limit by more than the noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    bench_buckets,
    bench_cache,
    bench_checkpoint,
    bench_compile,
    bench_dispatch,
    bench_export,
    bench_guard,
    bench_import,
    bench_memory,
    bench_metrics,
    bench_peers,
    bench_refusal,
    bench_review,
)
from benchmarks._harness import FULL, QUICK, Effort, Row, machine_facts

_MODULES = (
    bench_dispatch,
    bench_refusal,
    bench_peers,
    bench_import,
    bench_memory,
    bench_compile,
    bench_guard,
    bench_review,
    bench_checkpoint,
    bench_metrics,
    bench_cache,
    bench_buckets,
    bench_export,
)
_HEADS = ("what", "measured", "middle half", "limit", "verdict", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    options = _parser().parse_args(arguments)
    effort = QUICK if options.quick else FULL
    facts = machine_facts()
    rows: list[Row] = []
    for module in _MODULES:
        if not options.only or module.GROUP in options.only:
            rows += _measured(module, effort)
    if options.plot:
        print(bench_memory.plot(options.plot), file=sys.stderr)
    if options.json:
        report = {
            "machine": facts,
            "quick": effort.quick,
            "tolerance": effort.tolerance,
            "rows": [row.as_json(effort.tolerance) for row in rows],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(_markdown(rows, effort) if options.markdown else _text(rows, effort))
    print(_facts_text(facts, effort))
    missed = [row for row in rows if row.verdict(effort.tolerance) == "MISSED"]
    for row in missed:
        print(f"missed: {row.group}: {row.name}", file=sys.stderr)
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, lax limits")
    parser.add_argument("--markdown", action="store_true", help="a table for the docs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, too")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the memory curves (SVG)"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[module.GROUP for module in _MODULES],
        help="leave the others out; may be repeated",
    )
    return parser


def _measured(module: Any, effort: Effort) -> list[Row]:
    print(f"{module.GROUP} ...", end=" ", file=sys.stderr, flush=True)
    start = time.perf_counter()
    rows: list[Row] = module.measure(effort)
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return rows


# --- the table --------------------------------------------------------------------


def _cells(row: Row, effort: Effort) -> tuple[str, ...]:
    if row.median is None:
        return row.name, "", "", str(row.limit or ""), "", row.note
    spread = ""
    if row.quartiles is not None:
        low, high = row.quartiles
        spread = f"{_number(low, row.unit)} to {_number(high, row.unit)}"
    return (
        row.name,
        f"{_number(row.median, row.unit)} {row.unit}".removesuffix(" x"),
        spread,
        str(row.limit or ""),
        row.verdict(effort.tolerance),
        row.note,
    )


def _number(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.3f}"
    return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"


def _text(rows: Sequence[Row], effort: Effort) -> str:
    lines: list[str] = []
    table = [(row.group, _cells(row, effort)) for row in rows]
    cells = [_HEADS, *(cells for _, cells in table)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADS))]
    lines.append(_line(_HEADS, widths))
    group = ""
    for name, line in table:
        if name != group:
            lines.append(f"-- {name} ".ljust(sum(widths) + 2 * len(widths), "-"))
            group = name
        lines.append(_line(line, widths))
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        cell.ljust(width) if i in (0, 5) else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join([first, *others]).rstrip()


def _markdown(rows: Sequence[Row], effort: Effort) -> str:
    lines = ["| what | measured | middle half | limit | |", "|---|---|---|---|---|"]
    for row in rows:
        name, measured, spread, limit, _, note = _cells(row, effort)
        name = (
            f"{row.group}: {name}".replace('on_limit="', '`on_limit="')
            .replace('"evict"', '"evict"`')
            .replace('"raise"', '"raise"`')
        )
        lines.append(f"| {name} | {measured} | {spread} | {limit} | {note} |")
    return "\n".join(lines)


def _facts_text(facts: dict[str, Any], effort: Effort) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    text = (
        f"\nPython {facts['python']}, {facts['system']} {facts['machine']}, "
        f"{facts['cpus']} CPUs (load {facts['load']}), {facts['backend']}; {versions}"
    )
    if effort.tolerance != 1.0:
        text += f"\nlimits are taken times {effort.tolerance:g}"
    return text


if __name__ == "__main__":
    sys.exit(main())
