"""A report as a page of its own: no scripts, nothing loaded, every text escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from safejax.review._sources import bytes_in_words
from safejax.review._text import array_in_words, count_in_words

_WIDTH, _HEIGHT = 760, 220
_LEFT, _BOTTOM, _TOP = 76, 24, 12
_STYLE = """
.safejax-report { font: 14px/1.5 system-ui, sans-serif; max-width: 56rem; }
.safejax-report table { border-collapse: collapse; margin: .3rem 0 1.2rem; }
.safejax-report td, .safejax-report th { padding: .15rem .8rem .15rem 0;
  text-align: left; vertical-align: top; }
.safejax-report td.n { text-align: right; font-variant-numeric: tabular-nums; }
.safejax-report th { border-bottom: 1px solid #8888; font-weight: 600; }
.safejax-report code { font-size: 92%; }
.safejax-report .bad { color: #b3261e; font-weight: 600; }
.safejax-report svg { max-width: 100%; height: auto; }
"""


def page(report: Any) -> str:
    """The whole page."""
    title = html.escape(f"{report.function}: review")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title></head>\n<body>{fragment(report)}</body></html>\n"
    )


def fragment(report: Any) -> str:
    """What stands in the page, and in a notebook."""
    exact = "" if report.flops_are_exact else "at least "
    parts = [
        f'<style>{_STYLE}</style><div class="safejax-report">',
        f"<h2><code>{html.escape(report.function)}()</code></h2>",
        f"<p>{report.equations:,} equations · peak "
        f"{bytes_in_words(report.peak_bytes)} · "
        f"{exact}{count_in_words(report.flops)}FLOP · "
        f"{report.loop_nesting} nested loops</p>",
        _refused(report),
        _plot(report),
        _alive(report),
        _advice(report),
        _arrays("Inputs", report.inputs),
        _arrays("Outputs", report.outputs),
        _arrays("Captured arrays", report.constants),
        _loops(report),
        _primitives(report),
        "</div>",
    ]
    return "\n".join(part for part in parts if part)


def _plot(report: Any) -> str:
    """Live memory over the operations of the program, as steps."""
    curve: Sequence[int] = report.curve
    highest = max(curve, default=0)
    if not highest:
        return ""
    width, height = _WIDTH - _LEFT, _HEIGHT - _BOTTOM - _TOP
    step = width / len(curve)
    points = [f"M{_LEFT},{_TOP + height}"]
    for at, value in enumerate(curve):
        y = _TOP + height * (1 - value / highest)
        points.append(f"L{_LEFT + at * step:.1f},{y:.1f}H{_LEFT + (at + 1) * step:.1f}")
    points.append(f"V{_TOP + height}Z")
    marks = "".join(
        f'<text x="{_LEFT - 6}" y="{_TOP + height * (1 - part) + 4:.1f}" '
        f'text-anchor="end">{bytes_in_words(highest * part)}</text>'
        f'<path d="M{_LEFT},{_TOP + height * (1 - part):.1f}h{width}" '
        'stroke="#8884" fill="none"/>'
        for part in (0, 0.5, 1)
    )
    return (
        "<h3>Live memory over the program</h3>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        'aria-label="live memory over the program" font-size="11" '
        f'fill="currentColor">{marks}'
        f'<path d="{"".join(points)}" fill="#4a7ebb66" stroke="#4a7ebb"/>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">first operation</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">last</text></svg>'
    )


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if i == 0 else ''}>{html.escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    return f"<h3>{html.escape(title)}</h3><table><tr>{top}</tr>\n{body}</table>"


def _refused(report: Any) -> str:
    if not report.refused:
        return ""
    rows = [(r.verdict, r.path, r.source) for r in report.refused]
    return (
        '<div class="bad">'
        + _table("Not admitted", ("", "what", "line"), rows)
        + ("</div>")
    )


def _alive(report: Any) -> str:
    rows = [
        (bytes_in_words(b.nbytes), b.kind, b.name, array_in_words(b), b.source)
        for b in report.alive
    ]
    heads = ("bytes", "kind", "made by", "type", "line")
    return _table("Alive at the peak", heads, rows)


def _advice(report: Any) -> str:
    if not report.advice:
        return ""
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in report.advice)
    return f"<h3>Advice</h3><ul>{items}</ul>"


def _arrays(title: str, arrays: Sequence[Any]) -> str:
    rows = [
        (
            "?" if a.nbytes is None else bytes_in_words(a.nbytes),
            a.name,
            array_in_words(a),
            "donated" if a.donated else "",
        )
        for a in arrays
    ]
    return _table(title, ("bytes", "name", "type", ""), rows)


def _loops(report: Any) -> str:
    rows = [
        (
            "?" if loop.trips is None else f"{loop.trips:,}",
            loop.kind,
            f"{loop.equations:,}",
            str(loop.nesting),
            loop.source,
        )
        for loop in report.loops
    ]
    return _table("Loops", ("trips", "kind", "equations", "nesting", "line"), rows)


def _primitives(report: Any) -> str:
    counts = sorted(report.primitives.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [(f"{count:,}", name) for name, count in counts]
    return _table("Primitives", ("count", "name"), rows)
