"""What a refusal says: how a signature differs from the known ones, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from safejax.compile._rows import Row

_MAX_LINES = 8
# From how many distinct sizes of one axis buckets are proposed.
_MANY = 4


def difference(new: list[Row], known: Sequence[list[Row]]) -> list[str]:
    """How a signature differs from the nearest known one, one line a leaf."""
    if not known:
        return []
    nearest = min(known, key=lambda rows: _distance(new, rows))
    changes = _changes(new, nearest)
    if not changes:
        return ["same shapes and dtypes as a known one; another sharding or setting"]
    lines = [
        f"{path}  another {now}"
        if now == before
        else f"{path}  {now} (nearest known: {before})"
        for path, now, before in changes
    ]
    rest = len(lines) - _MAX_LINES
    return [*lines[:_MAX_LINES], *([f"and {rest} more"] if rest > 0 else [])]


def _distance(new: list[Row], known: list[Row]) -> tuple[int, int]:
    """How many leaves differ, and by how much where only sizes do."""
    before = {row.path: row.shape or () for row in known}
    apart = sum(
        abs(now - then)
        for row in new
        for now, then in zip(row.shape or (), before.get(row.path, ()), strict=False)
        if isinstance(now, int) and isinstance(then, int)
    )
    return len(_changes(new, known)), apart


def _changes(new: list[Row], known: list[Row]) -> list[tuple[str, str, str]]:
    before = {row.path: row for row in known}
    now = {row.path: row for row in new}
    paths = [*now, *(path for path in before if path not in now)]
    return [
        (path, _text(now.get(path)), _text(before.get(path)))
        for path in paths
        if now.get(path) != before.get(path)
    ]


def _text(row: Row | None) -> str:
    if row is None:
        return "absent"
    if row.shape is None:
        return f"static {row.kind} value"
    return f"{row.kind}[{','.join(map(str, row.shape))}]"


def advice(history: Sequence[list[Row]]) -> str:
    """What the history of signatures suggests, in one sentence."""
    sizes: dict[tuple[str, int], set[int]] = {}
    kinds: dict[str, set[str]] = {}
    for rows in history:
        for row in rows:
            kinds.setdefault(row.path, set()).add(row.kind)
            for axis, size in enumerate(row.shape or ()):
                if isinstance(size, int):
                    sizes.setdefault((row.path, axis), set()).add(size)
    axis_key = max(sizes, key=lambda k: len(sizes[k]), default=None)
    if axis_key is not None and len(sizes[axis_key]) >= _MANY:
        return _bucket_advice(*axis_key, sizes[axis_key])
    varied = next((path for path, seen in kinds.items() if len(seen) > 1), None)
    if varied is not None:
        seen = ", ".join(sorted(kinds[varied]))
        return f"{varied} came as {seen}: convert it before the call"
    return "raise Limits(max_compiles=...) if these programs are all wanted"


def _bucket_advice(path: str, axis: int, seen: set[int]) -> str:
    return (
        f"argument {path} axis {axis} took {len(seen)} sizes in "
        f"{min(seen)}..{max(seen)}: declare bounds, or pad to "
        f"{', '.join(map(str, buckets(min(seen), max(seen))))}"
    )


def buckets(smallest: int, largest: int) -> list[int]:
    """Powers of two that cover ``smallest`` to ``largest``; at most six of them."""
    top = max(1, largest)
    ends = [1 << (top - 1).bit_length()]
    while ends[0] // 2 >= max(1, smallest) and len(ends) < 6:
        ends.insert(0, ends[0] // 2)
    return ends
