"""A report as a table of at most 88 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from safejax.review._sources import bytes_in_words

_WIDTH = 88
_MOST = 12


def table(report: Any) -> str:
    """The report in words, the most important first."""
    lines = [f"{report.function}(): {_first_line(report)}"]
    for title, rows in _parts(report):
        if rows:
            lines += ["", title]
            lines += _aligned(rows)
    if report.advice:
        lines += ["", "advice"]
        for sentence in report.advice:
            lines += textwrap.wrap(
                sentence, _WIDTH - 4, initial_indent="  - ", subsequent_indent="    "
            )
    return "\n".join(line[:_WIDTH].rstrip() for line in lines)


def _first_line(report: Any) -> str:
    exact = "" if report.flops_are_exact else " at least"
    return (
        f"{report.equations:,} equations, peak {bytes_in_words(report.peak_bytes)},"
        f"{exact} {count_in_words(report.flops)}FLOP"
    )


def count_in_words(count: float) -> str:
    """``1.2 G``: a number and the letter of its unit."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:,.0f} " if not unit else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count * 1e15:.2g} "


def array_in_words(item: Any) -> str:
    """``float32[8,64]``; nothing of what has no dtype."""
    return item.dtype and f"{item.dtype}[{','.join(map(str, item.shape))}]"


def _parts(report: Any) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    yield "not admitted", [(r.verdict, r.path, r.source) for r in report.refused]
    yield (
        f"alive at the peak ({bytes_in_words(report.held_bytes)} are arguments, "
        "results and constants)",
        _shortened(
            (bytes_in_words(b.nbytes), b.kind, b.name, array_in_words(b), b.source)
            for b in report.alive
        ),
    )
    for title, arrays in (
        ("inputs", report.inputs),
        ("outputs", report.outputs),
        ("captured arrays", report.constants),
    ):
        yield title, _shortened(map(_array_row, arrays))
    yield (
        f"loops (at most {report.loop_nesting} inside one another)",
        _shortened(map(_loop_row, report.loops)),
    )
    counts = sorted(report.primitives.items(), key=lambda pair: (-pair[1], pair[0]))
    yield "primitives", _shortened((f"{count:,}", name) for name, count in counts)
    if report.uncounted:
        what = f"{report.uncounted:,} arrays have named dimensions"
        yield "not counted", [(what,)]


def _array_row(item: Any) -> tuple[str, ...]:
    size = "?" if item.nbytes is None else bytes_in_words(item.nbytes)
    donated = ("donated",) if item.donated else ()
    return (size, item.name, array_in_words(item), *donated)


def _loop_row(loop: Any) -> tuple[str, ...]:
    trips = "unknown trips" if loop.trips is None else f"{loop.trips:,} trips"
    return (loop.kind, trips, f"{loop.equations:,} equations", loop.source)


def _shortened(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    every = list(rows)
    if len(every) <= _MOST:
        return every
    return [*every[:_MOST], (f"... and {len(every) - _MOST:,} more",)]


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    columns = max(map(len, rows))
    widths = [
        min(32, max((len(row[i]) for row in rows if i < len(row) > 1), default=0))
        for i in range(columns)
    ]
    for row in rows:
        cells = [_cell(cell, widths[i], i) for i, cell in enumerate(row)]
        yield "  " + "  ".join(cells)


def _cell(cell: str, width: int, column: int) -> str:
    if column == 0:
        return cell.rjust(width)
    if len(cell) > width:
        # The end of a name tells more than its beginning.
        cell = "..." + cell[len(cell) - width + 3 :]
    return cell.ljust(width)
