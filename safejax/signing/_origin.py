"""Where a signed file comes from, and whether it is the one that was asked for."""

from __future__ import annotations

import dataclasses
import operator
import re
import time
from collections.abc import Mapping
from typing import Any, Final

from safejax._file_errors import FormatError, RollbackError
from safejax.signing._canonical import decode, encode

_INT: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_MAX_TEXT: Final = 1024
_LONGEST_S: Final = 1e9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a signed file says of where it comes from.

    Attributes:
        context: Which model it is of.
        step: The training step, or None.
        run_id: The run, or an empty string.
        created: When it was made, in milliseconds since 1970.
        metadata: Plain data of the user's.
        expires: Until when it may be used, in milliseconds since 1970, or None.
    """

    context: str
    step: int | None
    run_id: str
    created: int
    metadata: Any
    expires: int | None = None

    def fields(self) -> dict[str, str]:
        """As texts for a header."""
        fields = {
            "context": self.context,
            "step": "" if self.step is None else str(self.step),
            "run_id": self.run_id,
            "created": str(self.created),
            "metadata": encode(self.metadata).decode(),
        }
        if self.expires is not None:
            fields["expires"] = str(self.expires)
        return fields


def new_origin(
    context: str,
    step: int | None,
    run_id: str,
    metadata: Any,
    *,
    function: str = "signed_save",
    expires_in_s: float | None = None,
) -> Origin:
    """The origin of a file that is made now.

    Raises:
        FormatError: The metadata is not plain data (``SJ507``).
        TypeError: An argument has the wrong type.
        ValueError: A text is too long or no Unicode, the step has more than 63 bits,
            or the file would have expired already.
    """
    for name, text in (("context", context), ("run_id", run_id)):
        if not isinstance(text, str):
            raise TypeError(f"{function}({name}=...) must be a str")
        if len(text) > _MAX_TEXT:
            raise ValueError(f"{function}({name}=...) is over {_MAX_TEXT} characters")
        if not _is_unicode(text):
            raise ValueError(f"{function}({name}=...) is no Unicode text")
    if step is not None:
        step = operator.index(step) if not isinstance(step, bool) else None
        if step is None or not 0 <= step < 1 << 63:
            raise ValueError(f"{function}(step=...) must be an integer of at least 0")
    try:
        encode(metadata)
    except FormatError as error:
        raise FormatError(
            f"{function}(metadata=...) is {error.message}", code="SJ507"
        ) from None
    created, expires = time.time_ns() // 1_000_000, None
    if expires_in_s is not None:
        if not 0 < expires_in_s <= _LONGEST_S:
            raise ValueError(
                f"{function}(expires_in_s=...) must be over 0 and at most "
                f"{_LONGEST_S:.0f} seconds"
            )
        expires = created + round(expires_in_s * 1000)
    return Origin(
        context=context,
        step=step,
        run_id=run_id,
        created=created,
        metadata=metadata,
        expires=expires,
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_origin(fields: Mapping[str, str]) -> Origin:
    """Where a verified file comes from.

    Raises:
        FormatError: A field is malformed.
    """
    try:
        step, created = fields["step"], fields["created"]
        numbers = (step or "0", created, fields.get("expires", "0"))
        if not all(map(_INT.fullmatch, numbers)):
            raise FormatError("a number in the header is malformed")
        return Origin(
            context=fields["context"],
            step=int(step) if step else None,
            run_id=fields["run_id"],
            created=int(created),
            metadata=decode(fields["metadata"], "metadata"),
            expires=int(fields["expires"]) if "expires" in fields else None,
        )
    except KeyError:
        raise FormatError("the header lacks a field") from None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which file will do; see :func:`safejax.signed_load`."""

    context: str | None = ""
    min_step: int | None = None
    max_age_s: float | None = None
    expect_run_id: str | None = None

    def check(self, origin: Origin, what: str = "checkpoint") -> None:
        """Refuses another file than the one asked for.

        Raises:
            RollbackError: It is another model's or run's, too old, or has expired.
        """
        if self.context is not None and origin.context != self.context:
            raise _another(what, "context", self.context, origin.context)
        if self.expect_run_id is not None and origin.run_id != self.expect_run_id:
            raise _another(what, "run_id", self.expect_run_id, origin.run_id)
        if self.min_step is not None and (
            origin.step is None or origin.step < self.min_step
        ):
            raise _another(what, "step", self.min_step, origin.step)
        now = time.time()
        age_s = now - origin.created / 1000
        if self.max_age_s is not None and not age_s <= self.max_age_s:
            raise _another(what, "age", self.max_age_s, round(age_s, 3))
        if origin.expires is not None and now > origin.expires / 1000:
            late_s = round(now - origin.expires / 1000, 3)
            raise _another(what, "expiry", 0, late_s)


_ASKED: Final = {
    "context": "is of context",
    "run_id": "is of run",
    "step": "is of step",
    "age": "has an age in seconds of",
    "expiry": "has expired; seconds since:",
}


def _another(what: str, field: str, expected: Any, got: Any) -> RollbackError:
    least = {"step": "at least ", "age": "at most ", "expiry": "at most "}
    return RollbackError(
        f"the {what} {_ASKED[field]} {got!r}, "
        f"expected {least.get(field, '')}{expected!r}",
        details={"field": field, "expected": expected, "got": got},
        hint="it is genuine, but not the one asked for: an older or another model's",
    )
