"""``safejax convert``: other formats into signed checkpoints, and back."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

from safejax._file_errors import FormatError, StorageError
from safejax.checkpoint._copy import to_safetensors
from safejax.checkpoint._save import signed_save
from safejax.cli._checkpoints import bar, printable_lines
from safejax.cli._keys import need_ring
from safejax.errors import SafeJaxError
from safejax.keys import Digest
from safejax.limits import LoadLimits

# What each format's module needs besides, by the name it is imported by.
FORMATS: Final = {
    "safetensors": "",
    "npz": "",
    "flax": "flax",
    "orbax": "orbax.checkpoint",
}
_SUFFIXES: Final = {
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".msgpack": "flax",
    ".flax": "flax",
}


def run(  # noqa: PLR0913  one for each option of the command
    *,
    source: str,
    target: str,
    kind: str | None,
    to: str,
    separator: str,
    step: int | None,
    context: str,
    overwrite: bool,
    key_file: str | None,
    key_env: str | None,
    digest: Digest,
) -> int:
    """Converts one checkpoint.

    Returns:
        The exit status: 0, 1 where it does not verify or is malformed, 2 for another
        error.
    """
    try:
        ring = need_ring(key_file, key_env, digest)
        place = Path(target)
        if to == "safetensors":
            to_safetensors(Path(source), place, ring, overwrite=overwrite)
            print(f"verified {source}; wrote {target}, which is not signed any more")
            return 0
        tree = _read(Path(source), kind, separator)
        signed_save(
            place,
            tree,
            key=ring,
            step=step,
            context=context,
            overwrite=overwrite,
            progress=bar(place.name),
        )
    except SafeJaxError as error:
        print(f"safejax convert: {printable_lines(str(error))}", file=sys.stderr)
        return 2 if error.code in ("SJ504", "SJ505") else 1
    print(f"signed {target}; the source was not verified: nothing says who wrote it")
    return 0


def _read(source: Path, kind: str | None, separator: str) -> Any:
    form = kind or _guess(source)
    needed = FORMATS[form]
    if needed and not _is_installed(needed):
        package = {"orbax.checkpoint": "orbax-checkpoint"}.get(needed, needed)
        raise StorageError(
            f"the format {form} needs {package}",
            hint=f"install with `python -m pip install {package}`",
        )
    module = importlib.import_module(f"safejax.convert._{form}")
    return module.read(source, LoadLimits(), separator)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _guess(source: Path) -> str:
    if source.is_dir():
        return "orbax"
    if source.suffix in _SUFFIXES:
        return _SUFFIXES[source.suffix]
    if source.is_file() and zipfile.is_zipfile(source):
        return "npz"
    raise FormatError(
        f"what is {source}?", hint=f"pass --from with one of {', '.join(FORMATS)}"
    )
