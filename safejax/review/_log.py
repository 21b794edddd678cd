"""What a review admits although a stricter policy would not, is logged."""

from __future__ import annotations

import logging

_logger = logging.getLogger("safejax.guard")


def admitted(function: str, kind: str, name: str) -> None:
    """Tells that a program of a function holds something that only a log admits."""
    _logger.warning("%s() holds the %s %s; its policy logs it", function, kind, name)
