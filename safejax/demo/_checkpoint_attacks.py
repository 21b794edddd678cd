"""Attacks on a checkpoint: a flipped bit, an older file, a pickle (T23 to T25)."""

from __future__ import annotations

import os
import pickle  # noqa: TID251  the attack is what it does to those who load it
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

import safejax
from safejax.demo._digits import init
from safejax.demo._measure import Meter
from safejax.demo._outcome import Outcome

_REFUSED = (safejax.SignatureError, safejax.RollbackError, safejax.FormatError)
_NEW, _OLD = 1200, 900


@contextmanager
def _place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "model"


def _flip(path: Path) -> None:
    """Flips the highest bit of an exponent: one weight becomes enormous."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)


def _flat(params: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {f"w{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(params))}


def _write_plain(path: Path, params: Any, step: int) -> None:
    """A checkpoint as many write it: the raw arrays, one after the other."""
    header = np.int64(step).tobytes()
    body = b"".join(array.tobytes() for array in _flat(params).values())
    path.write_bytes(header + body)


def _read_plain(path: Path, like: Any) -> tuple[int, list[np.ndarray[Any, Any]]]:
    data = path.read_bytes()
    at, leaves = 8, []
    for array in _flat(like).values():
        part = np.frombuffer(data, array.dtype, array.size, at)
        leaves.append(part.reshape(array.shape))
        at += array.nbytes
    return int(np.frombuffer(data, np.int64, 1)[0]), leaves


# --- T23: a flipped bit -----------------------------------------------------------


def plain_flip(seed: int) -> Outcome:
    """T23: against a file of raw arrays: a wrong weight is served."""
    params = init(seed)
    with _place() as path, Meter() as meter:
        _write_plain(path, params, _NEW)
        _flip(path)
        _, leaves = _read_plain(path, params)
        changed = any(
            got.tobytes() != array.tobytes()
            for got, array in zip(leaves, _flat(params).values(), strict=True)
        )
    text = "loaded without a word, one weight is wrong" if changed else "nothing"
    return meter.outcome(text, succeeded=changed)


def safe_flip(seed: int) -> Outcome:
    """T23: against a signed file."""
    params, ring = init(seed), safejax.KeyRing.generate()
    with _place() as path, Meter() as meter:
        safejax.signed_save(path, params, key=ring, step=_NEW)
        _flip(path)
        refused = _is_refused(path, ring, params)
    return meter.outcome(_said(refused), succeeded=not refused)


def _is_refused(
    path: Path, ring: safejax.KeyRing, like: Any, min_step: int | None = None
) -> str:
    """The name of the error, or an empty string where the file was loaded."""
    try:
        safejax.signed_load(path, key=ring, like=like, min_step=min_step)
    except _REFUSED as error:
        return f"{type(error).__name__} {error.code}"
    return ""


def _said(refused: str) -> str:
    return f"refused: {refused}" if refused else "loaded"


# --- T24: an older checkpoint -----------------------------------------------------


def plain_rollback(seed: int) -> Outcome:
    """T24: last month's file in the place of today's."""
    old, new = init(seed), jax.tree.map(jnp.add, init(seed), init(seed))
    with _place() as path, Meter() as meter:
        _write_plain(path, old, _OLD)
        stolen = path.read_bytes()
        _write_plain(path, new, _NEW)
        path.write_bytes(stolen)
        step, _ = _read_plain(path, new)
    text = f"step {step} is served in the place of step {_NEW}"
    return meter.outcome(text, succeeded=step == _OLD)


def safe_rollback(seed: int) -> Outcome:
    """T24: the same with two signed files, both genuine."""
    old, new = init(seed), jax.tree.map(jnp.add, init(seed), init(seed))
    ring = safejax.KeyRing.generate()
    with _place() as path, Meter() as meter:
        safejax.signed_save(path, old, key=ring, step=_OLD)
        stolen = path.read_bytes()
        safejax.signed_save(path, new, key=ring, step=_NEW)
        path.write_bytes(stolen)
        refused = _is_refused(path, ring, new, min_step=_NEW)
    return meter.outcome(_said(refused), succeeded=not refused)


# --- T25: a pickle ----------------------------------------------------------------


class _Bomb:
    """Runs a command of the attacker's when it is unpickled; here, a harmless one."""

    def __init__(self, target: Path) -> None:
        self.target = target

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def _bomb(path: Path) -> tuple[bytes, Path]:
    target = path.with_name("the-attacker-was-here")
    return pickle.dumps({"params": _Bomb(target)}), target


def plain_pickle(seed: int) -> Outcome:
    """T25: against ``pickle.load``, which many checkpoints still are read with."""
    del seed
    with _place() as path, Meter() as meter:
        data, target = _bomb(path)
        path.write_bytes(data)
        with path.open("rb") as file:
            pickle.load(file)  # noqa: S301
        ran = target.exists()
    text = "the file ran a command of the attacker's" if ran else "nothing ran"
    return meter.outcome(text, succeeded=ran)


def safe_pickle(seed: int) -> Outcome:
    """T25: against ``signed_load``: in place of the file, and inside a signed one."""
    params, ring = init(seed), safejax.KeyRing.generate()
    with _place() as path, Meter() as meter:
        data, target = _bomb(path)
        path.write_bytes(data)
        refused = _is_refused(path, ring, params)
        safejax.signed_save(path, params, key=ring)
        whole = path.read_bytes()
        path.write_bytes(whole[: -len(data)] + data)
        inside = _is_refused(path, ring, params)
        ran = target.exists()
    stopped = bool(refused and inside) and not ran
    return meter.outcome(_said(refused), succeeded=not stopped)
