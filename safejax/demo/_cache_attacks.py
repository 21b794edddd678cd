"""An attack on a compile cache: an entry in the place of another's (T26)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp

import safejax
from safejax.demo._measure import Meter
from safejax.demo._outcome import Outcome

_AMOUNT, _LIMIT = 5_000.0, 1_000.0


def _asks_first(amount: jax.Array) -> jax.Array:
    return jnp.where(amount > _LIMIT, 0.0, amount)


def _pays(amount: jax.Array) -> jax.Array:
    return jnp.where(amount > 1e9, 0.0, amount)


@contextmanager
def _place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "cache"


def _answer(function: Callable[[jax.Array], jax.Array]) -> float:
    """What a process that has just started would be told."""
    jax.clear_caches()  # type: ignore[no-untyped-call]
    return float(jax.jit(function)(_AMOUNT))


def _entry_of(
    function: Callable[[jax.Array], jax.Array], folder: Path, pattern: str
) -> Path:
    """The entry that compiling this function adds."""
    before = set(folder.glob(pattern))
    _answer(function)
    (entry,) = set(folder.glob(pattern)) - before
    return entry


def _poison(folder: Path, pattern: str) -> float:
    """Puts one program in the place of another, and asks for that one."""
    victim = _entry_of(_asks_first, folder, pattern)
    other = _entry_of(_pays, folder, pattern)
    victim.write_bytes(other.read_bytes())
    return _answer(_asks_first)


def plain_swap(seed: int) -> Outcome:
    """T26: against JAX's persistent compilation cache."""
    del seed
    with _place() as folder, Meter() as meter:
        for name, value in (
            ("jax_compilation_cache_dir", str(folder)),
            ("jax_persistent_cache_min_compile_time_secs", 0.0),
            ("jax_persistent_cache_min_entry_size_bytes", -1),
        ):
            jax.config.update(name, value)  # type: ignore[no-untyped-call]
        paid = _poison(folder, "*-cache")
    text = (
        f"the limit is {_LIMIT:,.0f}, and {paid:,.0f} is paid: another program ran"
        if paid
        else "nothing"
    )
    return meter.outcome(text, succeeded=paid != 0.0)


def safe_swap(seed: int) -> Outcome:
    """T26: against the signed cache: swapped, and signed by another key."""
    del seed
    ring, stranger = safejax.KeyRing.generate(), safejax.KeyRing.generate()
    with _place() as folder, Meter() as meter:
        with safejax.compile_cache(folder, key=ring) as cache:
            paid = _poison(folder, "*.sjx")
            rejects = sum(cache.stats().rejects.values())
        with safejax.compile_cache(folder, key=stranger) as cache:
            paid += _answer(_asks_first)
            rejects += sum(cache.stats().rejects.values())
    text = f"{rejects} entries set aside, compiled anew; 0 is paid"
    return meter.outcome(text if not paid else "paid", succeeded=paid != 0.0)
