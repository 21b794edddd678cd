"""The tables of the documentation, made of the exploits and the bypasses."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[i]) for i in (1, 2)]

from threats.bypasses import CORPUS
from threats.bypasses._kit import Bypass
from threats.exploits import EXPLOITS
from threats.exploits.elsewhere import ELSEWHERE

DOCS = Path(__file__).parents[2] / "docs"
ALL = DOCS / "bypasses.md"
MODEL = DOCS / "threat-model.md"
PLACE = re.compile(
    r"(?P<start><!-- (?P<what>bypasses|exploits|not defended) (?P<threat>T\d+) -->\n)"
    r".*?(?P<end><!-- end -->\n)",
    re.DOTALL,
)

OVERVIEW = re.compile(
    r"(?P<start><!-- overview -->\n).*?(?P<end><!-- end -->\n)", re.DOTALL
)
HEADING = re.compile(r"^## (?P<threat>T\d+) (?P<title>.+)$", re.MULTILINE)


def _name(one: Bypass) -> str:
    newer = "" if one.since == (3, 11) else f" (Python {one.since[0]}.{one.since[1]})"
    return one.name + newer


def _stopped_by(one: Bypass) -> str:
    older = "" if one.on_311 == one.stopped_by else f" (Python 3.11: {one.on_311})"
    return one.stopped_by + older


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n"
        for line in lines
    )


def table(what: str, threat: str) -> str:
    """One table: exploits of a threat, all its bypasses, or those not defended."""
    if what == "exploits":
        exploits = [one for one in (*EXPLOITS, *ELSEWHERE) if one.threat == threat]
        shown = [
            (one.name, one.how, one.against, one.code or "no harm") for one in exploits
        ]
        return _table(("Exploit", "How", "Works on", "Here"), shown)
    found = [one for one in CORPUS if one.threat == threat]
    if what == "bypasses":
        rows = [(_name(one), one.how, _stopped_by(one)) for one in found]
        return _table(("Bypass", "How", "Stopped by"), rows)
    rows = [(_name(one), one.how, one.reason) for one in found if one.reason]
    return _table(("Bypass", "How", "Why it is not defended"), rows)


def overview(text: str) -> str:
    """All threats of the page, with how many attacks are carried out."""
    rows = []
    for found in HEADING.finditer(text):
        threat = found["threat"]
        exploits = [one for one in (*EXPLOITS, *ELSEWHERE) if one.threat == threat]
        bypasses = [one for one in CORPUS if one.threat == threat]
        tried = len(exploits) + len(bypasses)
        gaps = sum(bool(one.reason) for one in bypasses)
        ends = {one.code or "no harm" for one in exploits}
        ends |= {one.stopped_by for one in bypasses if not one.reason}
        cells = (threat, found["title"], str(tried), "; ".join(sorted(ends)))
        if tried and (bypasses or f"<!-- exploits {threat} -->" in text):
            rows.append((*cells, str(gaps) if gaps else ""))
    heads = ("", "Threat", "Attacks tried", "They end in", "Not defended")
    return _table(heads, rows)


def filled(text: str) -> str:
    """A page with the tables of today in their places."""
    text = PLACE.sub(
        lambda m: f"{m['start']}\n{table(m['what'], m['threat'])}\n{m['end']}", text
    )
    return OVERVIEW.sub(lambda m: f"{m['start']}\n{overview(text)}\n{m['end']}", text)


if __name__ == "__main__":
    for page in (ALL, MODEL):
        page.write_text(filled(page.read_text("utf-8")), encoding="utf-8")
