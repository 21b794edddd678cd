"""One row of the table of what a guard watches, and how it is written."""

from __future__ import annotations

import dataclasses

from safejax.guard._policy import Category


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One API that a guard watches.

    Attributes:
        api: How users know it, and how a policy allows it by name.
        category: The field of the policy that decides.
        reason: Why it is watched.
        paths: Where the function lies, public place first.
        events: Audit events that tell of it.
    """

    api: str
    category: Category
    reason: str
    paths: tuple[str, ...]
    events: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """The names by which code mentions it."""
        found = {part for path in (self.api, *self.paths) for part in _ends(path)}
        # A with statement mentions no name of what it enters.
        enters = any(path.endswith(".__enter__") for path in self.paths)
        return frozenset(found | {"__init__"} | ({""} if enters else set()))


def _ends(path: str) -> tuple[str, ...]:
    parts = path.split(".")
    is_method = len(parts) > 1 and parts[-2][:1].isupper()
    return tuple(parts[-2:]) if is_method else (parts[-1],)


def parsed(category: Category, text: str) -> list[Row]:
    """The rows of one category."""
    lines: list[str] = []
    for line in text.strip().splitlines():
        if line.startswith(" "):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return [_row(category, line) for line in lines]


def _row(category: Category, line: str) -> Row:
    left, _, reason = line.partition(" : ")
    api, _, listed = left.partition(" = ")
    sources = listed.split() if listed else [api]
    events = tuple(s[1:] for s in sources if s.startswith("!"))
    paths = tuple(s for s in sources if not s.startswith("!"))
    if "." in api and "(" not in api and not events and api not in paths:
        paths = (api, *paths)
    return Row(api.strip(), category, reason, paths, events)
