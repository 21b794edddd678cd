"""Reads the bytes of ``jax.export`` as plain data, or refuses them.

JAX's own reader follows whatever offsets it finds: a table that is its own child keeps
it busy until the stack ends, and thirty tables that each name the next one twice stand
for a billion (T27). Here every offset is held against the length, and everything that
is read counts, each time it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from safejax._file_errors import FormatError
from safejax.export._schema import TABLES, Field

Table = dict[str, Any]

_MOST_READ: Final = 300_000  # tables, texts and numbers
_MOST_TEXT: Final = 1 << 20  # bytes of one text
_DEEPEST: Final = 100
_NUMBERS: Final[Mapping[str, struct.Struct]] = {
    letter: struct.Struct(f"<{letter}") for letter in "bBhHiI"
}
_SLOTS_AT: Final = 4  # a table of slots begins with two lengths


def read_program(data: bytes) -> Table:
    """What the bytes of ``Exported.serialize()`` say.

    Raises:
        FormatError: They are no such bytes, or larger in the reading than any that JAX
            writes.
    """
    reader = _Reader(data)
    try:
        return reader.table(reader.offset(0), "Program", 0)
    except struct.error:
        raise malformed("an offset leads out of it") from None


def malformed(why: str) -> FormatError:
    """The error for what can't be read."""
    return FormatError(
        f"the exported program is malformed: {why}",
        details={"reason": why},
        hint="export it again with the JAX that you run",
    )


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        # Each takes a byte at least, unless it is named more than once.
        self._most = self._left = min(_MOST_READ, len(data))

    def _number(self, kind: str, at: int) -> int:
        if at < 0:
            raise malformed("an offset leads out of it")
        value: int = _NUMBERS[kind].unpack_from(self._data, at)[0]
        return value

    def offset(self, at: int) -> int:
        """The place that an offset leads to."""
        return at + self._number("I", at)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise malformed(f"it stands for more than {self._most} values")

    def table(self, at: int, name: str, depth: int) -> Table:
        """The fields of a table that are there."""
        if depth > _DEEPEST:
            raise malformed(f"it is nested deeper than {_DEEPEST} levels")
        fields = TABLES[name]
        slots = at - self._number("i", at)
        length = self._number("H", slots)
        self._spend(1)
        found: Table = {}
        count = max(0, length - _SLOTS_AT) // 2
        steps = struct.unpack_from(f"<{count}H", self._data, slots + _SLOTS_AT)
        for slot, step in enumerate(steps):
            if step == 0:
                continue
            if slot >= len(fields):
                raise malformed("it has a field that this version does not know")
            field = fields[slot]
            found[field.name] = self._field(at + step, field, depth)
        return found

    def _field(self, at: int, field: Field, depth: int) -> Any:
        if field.kind in _NUMBERS and not field.many:
            return self._number(field.kind, at)
        start = self.offset(at)
        if not field.many:
            return self._one(start, field.kind, depth)
        count = self._number("I", start)
        self._spend(count)
        start += 4
        if field.kind in _NUMBERS:
            return list(struct.unpack_from(f"<{count}{field.kind}", self._data, start))
        places = range(start, start + 4 * count, 4)
        return [self._one(self.offset(p), field.kind, depth) for p in places]

    def _one(self, at: int, kind: str, depth: int) -> Any:
        if kind not in ("text", "bytes"):
            return self.table(at, kind, depth + 1)
        length = self._number("I", at)
        end = at + 4 + length
        if end > len(self._data):
            raise malformed("a text is cut off")
        found = self._data[at + 4 : end]
        if kind == "bytes":
            # The copies of one module, in many tables, would be its size many times.
            self._spend(1 + length // 1024)
            return found
        if length > _MOST_TEXT:
            raise malformed("a text is too long")
        self._spend(1 + length // 64)
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise malformed("a text is not UTF-8") from None
