"""Every example in README.md and docs/ runs, in the order of its page.

A page is one session: its ```python blocks share a namespace, and its ```pycon
blocks are checked against what they print, refusals included. Each page runs in a
process of its own, started with `python tests/test_docs.py PAGE`.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$",
    re.DOTALL | re.MULTILINE,
)
COMMANDS = {
    "demo-command": "python3 -m venv .venv && .venv/bin/pip install '.[demo]' "
    "&& .venv/bin/safejax demo\n",
    "test-command": "python3 -m venv .venv && .venv/bin/pip install '.[test]' "
    "&& .venv/bin/python -P -m pytest\n",
}


def blocks(text: str) -> Iterator[tuple[str, int, str]]:
    """(language, first line, source) of the fenced blocks that are to be run."""
    for found in BLOCK.finditer(text):
        language, *tags = found["info"].split() or [""]
        if language in ("python", "pycon") and "notest" not in tags:
            yield language, text[: found.start("body")].count("\n"), found["body"]


PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if any(blocks(page.read_text(encoding="utf-8")))
]


def run_page(name: str, text: str) -> int:
    """Run a page; report what fails in the words of doctest. Returns the count."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    parser = doctest.DocTestParser()
    for language, line, source in blocks(text):
        if language == "python":
            # The blank lines make a traceback show the line of the page.
            exec(compile("\n" * line + source, name, "exec"), namespace)
        else:
            session = parser.get_doctest(source, namespace, name, name, line)
            runner.run(session, clear_globs=False)
            namespace.update(session.globs)
    return runner.failures


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_page_run_as_printed(page: Path):
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", __file__, str(page)],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "```python\nraise ValueError\n```\n",
        "text\n\n```pycon\n>>> 1 + 1\n3\n```\n",
        "```python\nx = 1\n```\n```pycon\n>>> x\n2\n```\n",
    ],
)
def test_a_wrong_example_is_noticed(text: str, tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", __file__, str(page)], capture_output=True, check=False
    )

    assert done.returncode != 0


def test_blocks_of_a_page_share_what_they_define():
    assert run_page("page", "```python\nx = 1\n```\n```pycon\n>>> x\n1\n```\n") == 0


@pytest.mark.parametrize("marker", COMMANDS)
def test_readme_has_the_command_once(marker: str):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"^<!-- {marker} -->\n```sh\n(.*?)^```$", readme, re.M | re.S)

    assert found == [COMMANDS[marker]]


def test_every_error_code_is_explained():
    package = Path(sys.modules["safejax"].__file__ or "").parent
    used = {
        code
        for path in package.rglob("*.py")
        for code in re.findall(r"\bSJ\d{3}\b", path.read_text(encoding="utf-8"))
    }
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^## (SJ\d{3})\b", page, re.MULTILINE))

    assert used - {"SJ000"} == explained


# They can't be provoked in a page: another JAX, a full queue, a crash, a fork.
SHOWN_AS_TEXT = {"SJ001", "SJ209", "SJ230", "SJ231"}


def test_every_error_has_a_program_its_message_and_a_fix():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    missing = [
        (section[:5], part)
        for section in re.split(r"^## (?=SJ\d)", page, flags=re.MULTILINE)[1:]
        for part, found in (
            ("a program", any(blocks(section)) or section[:5] in SHOWN_AS_TEXT),
            ("its message", f"[{section[:5]}]" in section),
            ("a fix", re.search(r"\bFix\b", section)),
        )
        if not found
    ]

    assert missing == []


def test_every_public_name_is_in_the_api():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"^\.\. (?:auto)?\w+:: (\w+)$", page, re.MULTILINE)

    assert set(described) >= set(safejax.__all__)


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {
        str(page.relative_to(ROOT / "docs").with_suffix(""))
        for page in (ROOT / "docs").rglob("*.md")
        if "_build" not in page.parts
    }

    assert pages - {"index"} <= set(index.split())


def test_every_threat_has_its_four_parts():
    page = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    threats = re.split(r"^## (?=T\d+ )", page, flags=re.MULTILINE)[1:]

    assert len(threats) >= 8
    for number, section in enumerate(threats, start=1):
        threat = section.partition("\n## ")[0]
        assert threat.startswith(f"T{number} ")
        for part in ("Attack", "Mitigation", "Limits", "Not defended"):
            assert f"**{part}.**" in threat, (number, part)


if __name__ == "__main__":
    sys.exit(run_page(sys.argv[1], Path(sys.argv[1]).read_text(encoding="utf-8")))
else:
    import safejax
