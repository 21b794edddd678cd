"""Small plain data in a signed file: configurations, label maps, tables.

Where people reach for pickle (T28). What is read is what JSON can say, and nothing of
it names a class.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safejax._file_errors import FormatError
from safejax._files import remove_leftovers, write_small
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._blob import read_sealed, seal
from safejax.signing._canonical import decode, encode
from safejax.signing._origin import Wanted, new_origin, read_origin

PURPOSE: Final = "data"
# Metadata is small. Larger things are arrays, or none of ours.
DEFAULTS: Final = LoadLimits(max_data_bytes=64 << 20, max_header_bytes=16 << 20)

_LEAST_INT: Final = -(1 << 63)
_MOST_INT: Final = (1 << 64) - 1


def signed_dump(  # noqa: PLR0913  each is a fact about the file
    path: str | os.PathLike[str],
    data: Any,
    *,
    key: KeyRing,
    context: str = "",
    step: int | None = None,
    run_id: str = "",
    metadata: Mapping[str, Any] | None = None,
    expires_in_s: float | None = None,
    overwrite: bool = True,
) -> None:
    """Saves plain data as a signed file, whole or not at all.

    Plain data is ``dict`` with ``str`` keys, ``list``, ``str``, ``int`` of at most 64
    bits, finite ``float``, ``bool`` and ``None``, and nothing that only behaves like
    them: what :func:`signed_load` gives back equals what was saved, types included.

    Args:
        path: Where the file is to stand. Its folder must exist.
        data: The data, at most 64 MiB as JSON.
        key: Its primary key signs.
        context: What this is: loading needs the same text.
        step: A version or a training step, which loading can ask for.
        run_id: Which run this is, which loading can ask for.
        metadata: Further plain data about the file.
        expires_in_s: After how many seconds it is refused; None for never.
        overwrite: Whether a file at ``path`` may be replaced.

    Raises:
        FormatError: It is not plain data (``SJ507``, with the path), or too large.
        SigningKeyError: The ring can't sign.
        StorageError: The system refused; what stood at ``path`` still does.

    Example:
        >>> import tempfile, safejax
        >>> path, ring = tempfile.mkdtemp() + "/labels", safejax.KeyRing.generate()
        >>> safejax.signed_dump(path, {"cat": 0, "dog": 1}, key=ring, context="v1")
        >>> safejax.signed_load(path, key=ring, context="v1")
        {'cat': 0, 'dog': 1}
    """
    place = Path(path)
    origin = new_origin(
        context,
        step,
        run_id,
        dict(metadata or {}),
        function="signed_dump",
        expires_in_s=expires_in_s,
    )
    _check_plain(data, DEFAULTS, code="SJ507")
    payload = encode(data)
    if len(payload) > DEFAULTS.max_data_bytes:
        raise FormatError(
            f"the data has {len(payload)} bytes as JSON, "
            f"at most {DEFAULTS.max_data_bytes} are saved",
            code="SJ507",
            hint="save arrays with signed_save",
        )
    sealed = seal(payload, purpose=PURPOSE, ring=key, fields=origin.fields())
    remove_leftovers(place.parent, place.name)
    write_small(place, sealed, overwrite=overwrite, mode=0o644)


def load_data(path: Path, ring: KeyRing, wanted: Wanted, limits: LoadLimits) -> Any:
    """What :func:`signed_dump` saved, once it is verified.

    Raises:
        SignatureError: It does not verify.
        RollbackError: It is genuine, but not the one asked for.
        FormatError: It is no such file, or not one that the limits admit.
        StorageError: It can't be read.
    """
    payload, fields = read_sealed(path, purpose=PURPOSE, ring=ring, limits=limits)
    wanted.check(read_origin(fields), "file")
    data = decode(payload, "data")
    _check_plain(data, limits, code="SJ503")
    return data


def _check_plain(data: Any, limits: LoadLimits, *, code: str) -> None:
    """Refuses what would come back as something else, and what is too deep.

    Raises:
        FormatError: With the path of the first value that is not plain.
    """
    count, stack = 1, [(data, "data", 0)]
    while stack:
        value, path, depth = stack.pop()
        fault = _fault_of(value)
        if depth > limits.max_depth:
            fault = f"is nested deeper than LoadLimits.max_depth={limits.max_depth}"
        if fault:
            raise FormatError(
                f"{path} {fault}",
                code=code,
                details={"path": path},
                hint="plain data is dict with str keys, list, str, int of at most 64 "
                "bits, finite float, bool and None",
            )
        count += len(value) if type(value) in (dict, list) else 0
        if count > limits.max_leaves:
            raise FormatError(
                f"the data has more values than LoadLimits.max_leaves="
                f"{limits.max_leaves}",
                code=code,
            )
        if type(value) is dict:
            stack += [(v, f"{path}[{k[:50]!r}]", depth + 1) for k, v in value.items()]
        elif type(value) is list:
            stack += [(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]


def _fault_of(value: Any) -> str:
    """Why a value is not plain, or an empty string."""
    kind = type(value)
    if kind is dict:
        odd = [type(key).__name__ for key in value if type(key) is not str]
        return f"has a key of type {odd[0]}" if odd else ""
    if kind is int:
        fits = _LEAST_INT <= value <= _MOST_INT
        return "" if fits else "is an integer of more than 64 bits"
    if kind is float:
        return "" if math.isfinite(value) else "is no finite number"
    if kind in (list, str, bool, type(None)):
        return ""
    return f"is of type {kind.__module__}.{kind.__qualname__}"


signed_dump.__module__ = "safejax"
