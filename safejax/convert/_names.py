"""Names of arrays, and the tree of dicts that they may stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safejax._file_errors import FormatError


def nested(arrays: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """A tree of dicts, names split at the separator; flat without one.

    Raises:
        FormatError: One name is the beginning of another.
    """
    if not separator:
        return dict(arrays)
    root: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split(separator)
        at = root
        for folder in folders:
            at = at.setdefault(folder, {})
            if not isinstance(at, dict):
                raise FormatError(f"{name!r} lies below another array")
        if last in at:
            raise FormatError(f"{name!r} is an array and the beginning of another name")
        at[last] = array
    return root
