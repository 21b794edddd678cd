"""What could be done about the memory of a program, from what is alive at its peak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from safejax import _jax
from safejax.review._books import Buffer, Peak
from safejax.review._sources import Source, bytes_in_words, source_of_first

# What is worth a sentence: this much, and this part of the peak.
_LEAST = 1 << 20
_PART = 0.1
_LARGE = 1 << 28
_UNROLLED = 200


def advice_on(
    peak: Peak,
    *,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    heaviest: Sequence[tuple[Source, int]],
) -> tuple[str, ...]:
    """Sentences, those that save most first.

    Args:
        peak: What is alive at the peak.
        inputs: The arguments as reported.
        outputs: The results as reported.
        heaviest: Lines with the number of equations that come from them.
    """
    return (
        *_on_donation(peak, inputs, outputs),
        *_on_checkpoints(peak),
        *_on_constants(peak),
        *_on_sharding(peak, inputs),
        *_on_unrolling(heaviest),
    )


def _matters(size: int, peak: Peak) -> bool:
    return size >= _LEAST and size >= _PART * peak.size


def _on_donation(
    peak: Peak, inputs: Sequence[Any], outputs: Sequence[Any]
) -> Iterator[str]:
    free = Counter((o.dtype, o.shape) for o in outputs)
    for item in inputs:
        if item.donated:
            free[item.dtype, item.shape] -= 1
    saved: Counter[str] = Counter()
    for item in inputs:
        if not item.donated and free[item.dtype, item.shape] > 0:
            free[item.dtype, item.shape] -= 1
            saved[_top(item.name)] += item.nbytes or 0
    for name, size in saved.most_common():
        if _matters(size, peak):
            yield (
                f"donate {name} (donate_argnames={name!r}) if the caller does not "
                f"need it afterwards: results of the same shapes can take its "
                f"{bytes_in_words(size)}"
            )


def _top(name: str) -> str:
    """``params`` of ``params['w']``."""
    for at, letter in enumerate(name):
        if letter in "[.":
            return name[:at]
    return name


def _on_checkpoints(peak: Peak) -> Iterator[str]:
    kept: Counter[Source] = Counter()
    for buffer in peak.alive:
        made = buffer.what == "temporary" and buffer.equation is not None
        if made and _jax.is_of_gradient(buffer.equation):
            kept[source_of_first((buffer.equation, *buffer.around))] += buffer.size
    total = sum(kept.values())
    if not _matters(total, peak):
        return
    lines = ", ".join(
        f"{source.short} ({bytes_in_words(size)})"
        for source, size in kept.most_common(3)
    )
    yield (
        f"jax.checkpoint around what makes them: {bytes_in_words(total)} of "
        f"intermediate results wait at the peak for the gradient, most from {lines}"
    )


def _on_constants(peak: Peak) -> Iterator[str]:
    sizes = [b.size for b in peak.alive if b.what == "constant"]
    if sum(sizes) >= _LEAST:
        yield (
            f"pass captured arrays as arguments: {len(sizes)} of "
            f"{bytes_in_words(sum(sizes))} become part of each program"
        )


def _on_sharding(peak: Peak, inputs: Sequence[Any]) -> Iterator[str]:
    if peak.size < _LARGE:
        return
    largest: Buffer = peak.alive[0]
    shape = getattr(largest.aval, "shape", ())
    if not shape or not _matters(largest.size, peak):
        return
    if largest.what == "argument":
        what = inputs[largest.position].name
    else:
        what = (
            f"what {source_of_first((largest.equation, *largest.around)).short} makes"
        )
    yield (
        f"shard {what} over devices (jax.P along its dimension of {max(shape)}): "
        f"with {bytes_in_words(largest.size)} it is the largest at the peak"
    )


def _on_unrolling(heaviest: Sequence[tuple[Source, int]]) -> Iterator[str]:
    for source, count in heaviest[:1]:
        if count >= _UNROLLED and source.file:
            yield (
                f"lax.scan or lax.fori_loop at {source.short}: {count:,} equations "
                "come from this line"
            )
