"""An attack on an exported program: a constant of it is another (T27)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import safejax
from safejax.demo._measure import Meter
from safejax.demo._outcome import Outcome

# What may be paid without a second look; its bytes stand in the program once.
_LIMIT: Final = np.float32(1234.5677)
_RAISED: Final = np.float32(1e9)
_AMOUNT: Final = np.full(4, 1e6, np.float32)
_SPEC: Final = safejax.spec("f32[4]")


def _approve(amounts: Any) -> Any:
    return jnp.all(amounts <= _LIMIT)


def _change(path: Path) -> None:
    """Four bytes of the file: the limit is a million times what it was."""
    data = path.read_bytes()
    path.write_bytes(data.replace(_LIMIT.tobytes(), _RAISED.tobytes()))


def _approved(save: Callable[[Path], None], load: Callable[[Path], Any]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "approve"
        save(path)
        _change(path)
        return bool(load(path)(_AMOUNT))


def plain_program(seed: int) -> Outcome:
    """T27: against ``jax.export``: the changed program is loaded and called."""
    del seed

    def save(path: Path) -> None:
        amounts = jax.ShapeDtypeStruct((4,), jnp.float32)  # type: ignore[no-untyped-call]
        path.write_bytes(export.export(jax.jit(_approve))(amounts).serialize())

    def load(path: Path) -> Any:
        return export.deserialize(bytearray(path.read_bytes())).call

    with Meter() as meter:
        approved = _approved(save, load)
    text = "a million is approved, the limit was 1,234.57" if approved else "nothing"
    return meter.outcome(text, succeeded=approved)


def safe_program(seed: int) -> Outcome:
    """T27: against ``signed_import``."""
    del seed
    ring = safejax.KeyRing.generate()
    with Meter() as meter:
        try:
            approved = _approved(
                lambda path: safejax.signed_export(path, _approve, _SPEC, key=ring),
                lambda path: safejax.signed_import(path, key=ring),
            )
            text = "loaded"
        except (safejax.SignatureError, safejax.FormatError) as error:
            approved, text = False, f"refused: {type(error).__name__} {error.code}"
    return meter.outcome(text, succeeded=approved)
