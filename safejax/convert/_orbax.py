"""Folders that Orbax wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from safejax._file_errors import FormatError
from safejax.limits import LoadLimits


def read(path: Path, limits: LoadLimits, separator: str) -> Any:
    """The tree of a checkpoint of Orbax's.

    Raises:
        FormatError: It is none.
    """
    del separator, limits  # it has a tree already; Orbax has no limits
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(path.absolute())
    except (ValueError, FileNotFoundError, KeyError, TypeError) as error:
        raise FormatError(
            f"not a checkpoint of Orbax's: {type(error).__name__}"
        ) from None
