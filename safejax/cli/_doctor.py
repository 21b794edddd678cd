"""``safejax doctor``: what makes safejax worth less here, and what to do."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from safejax._version import __version__
from safejax.cli._sealed import printable
from safejax.doctor._checks import examine
from safejax.doctor._gather import gather
from safejax.doctor._records import Finding

_USAGE = 2
# Of each check: a folder of pickles is one thing to do, not ten thousand.
_MOST = 20


def run(
    *, paths: Sequence[str], module: str | None, as_json: bool, strict: bool
) -> int:
    """Examines this installation, this process and the folders that are named.

    Args:
        paths: Files and folders to look through.
        module: A module to import first, which sets JAX up as the service does.
        as_json: Whether to print a JSON document instead of the table.
        strict: Whether warnings count.

    Returns:
        0; 1 where there is a problem; 2 where the command is used wrongly.
    """
    places = [Path(path) for path in paths]
    missing = [str(place) for place in places if not place.exists()]
    if missing:
        return _wrong(f"there is no {missing[0]}")
    if module is not None and not _imported(module):
        return _wrong(f"no module named {module!r}")
    findings = examine(gather(places))
    print(_document(findings) if as_json else "\n".join(_table(findings)))
    levels = {finding.level for finding in findings}
    return int("problem" in levels or (strict and "warning" in levels))


def _wrong(text: str) -> int:
    print(f"safejax doctor: {printable(text)}", file=sys.stderr)
    return _USAGE


def _imported(module: str) -> bool:
    # As `python -m` does: what is in the current folder can be imported.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            return False
        raise
    return True


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    counted = Counter(finding.level for finding in findings)
    return {f"{level}s": counted[level] for level in ("problem", "warning", "note")}


def _document(findings: Sequence[Finding]) -> str:
    document = {
        "safejax": __version__,
        **_counts(findings),
        "findings": [finding.as_dict() for finding in findings],
    }
    return json.dumps(document)


def _table(findings: Sequence[Finding]) -> list[str]:
    lines: list[str] = []
    shown: Counter[str] = Counter()
    for finding in findings:
        shown[finding.check] += 1
        if shown[finding.check] <= _MOST:
            lines += _lines(finding)
    for check, count in shown.items():
        if count > _MOST:
            lines.append(f"         {check}: {count - _MOST} more; --json has them all")
    counts = _counts(findings)
    return [*lines, ", ".join(f"{count} {name}" for name, count in counts.items())]


def _lines(finding: Finding) -> list[str]:
    where = f"{printable(finding.path)}: " if finding.path else ""
    first = f"{finding.level:<8} {finding.check:<13} {where}{printable(finding.text)}"
    return [first, *([f"{'':22} {finding.advice}"] if finding.advice else [])]
