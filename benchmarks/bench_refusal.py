"""What a call costs that is refused, and what it leaves behind.

``python -m benchmarks.bench_refusal KIND COUNT`` is the fresh process in which growth
is measured: it makes COUNT calls of distinct wrong shapes and prints the growth in MB.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import safejax
from benchmarks._harness import (
    Effort,
    Limit,
    Row,
    can_measure_memory,
    in_fresh_process,
    no_garbage_collection,
    resident_mb,
)

GROUP = "refusal"

_COLUMNS = 64
_WIDE = 400
_CONTRACT = {"x": jax.ShapeDtypeStruct(("b", _COLUMNS), jnp.float32)}
_WARM_UP = 3_000
_PLAIN_EACH = "plain jax.jit whose function raises, NumPy"


def measure(effort: Effort) -> list[Row]:
    """All rows of this benchmark."""
    return [*_times(effort), *_growths(effort)]


def _total(x: jax.Array) -> jax.Array:
    return x.sum()


def _strict_total(x: jax.Array) -> jax.Array:
    if x.shape[1] != _COLUMNS:
        raise TypeError(f"expected {_COLUMNS} columns, got {x.shape[1]}")
    return x.sum()


def wrong_shapes() -> Iterator[npt.NDArray[np.float32]]:
    """Views of one buffer, no two of the same shape, none of them admissible."""
    buffer = np.zeros(_WIDE * (_COLUMNS + _WIDE), np.float32)
    for columns in itertools.count(_COLUMNS + 1):
        for rows in range(1, _WIDE + 1):
            yield buffer[: rows * columns].reshape(rows, columns)


def _refused(call: Callable[..., Any], x: Any) -> bool:
    try:
        call(x)
    except (TypeError, safejax.CompileLimitError):
        return True
    return False


# --- time -------------------------------------------------------------------------


def _times(effort: Effort) -> list[Row]:
    wrong = list(itertools.islice(wrong_shapes(), 256))
    on_device = [jax.device_put(x) for x in wrong]
    right = np.zeros((8, _COLUMNS), np.float32)
    contract = safejax.safe_jit(_total, contract=_CONTRACT)
    rounds = effort.rounds
    return [
        _time("wrong shape, NumPy", contract, wrong, rounds),
        _against_a_call("wrong shape, NumPy", contract, wrong, right, rounds),
        _time("wrong shape, jax.Array", contract, on_device, rounds),
        _against_a_call(
            "wrong shape, jax.Array", contract, on_device, jax.device_put(right), rounds
        ),
        _time("wrong shape beside 1,000 unchecked leaves", _beside(), wrong, rounds),
        _time("wrong shape, message rendered", _rendered(contract), wrong, rounds),
        _time(
            "at the cap, with a contract", _full(right, contract=True), wrong, rounds
        ),
        _time("at the cap, without", _full(right, contract=False), wrong, rounds),
        _time(_PLAIN_EACH, jax.jit(_strict_total), wrong, min(rounds, 5)),
    ]


def _full(first: Any, *, contract: bool) -> Callable[..., Any]:
    """A function that owns the program of ``first`` and may own no other."""
    specs = {"x": safejax.spec("f32[b, c]")} if contract else None
    limits = safejax.Limits(max_compiles=1)

    def fresh(x: jax.Array) -> jax.Array:
        return x.sum()

    logging.getLogger("safejax.compile").setLevel(logging.ERROR)
    call = safejax.safe_jit(fresh, contract=specs, limits=limits)
    call(first)
    return call


def _beside() -> Callable[..., Any]:
    def fun(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return params["w0"] + x.sum()

    call = safejax.safe_jit(fun, contract={"params": None, **_CONTRACT})
    return functools.partial(call, {f"w{i}": jnp.ones(()) for i in range(1_000)})


def _rendered(call: Callable[..., Any]) -> Callable[..., Any]:
    def rendering(x: Any) -> Any:
        try:
            return call(x)
        except safejax.ContractError as error:
            str(error)
            raise

    return rendering


def _time(
    name: str,
    call: Callable[..., Any],
    wrong: list[Any],
    rounds: int,
) -> Row:
    """Microseconds of one refusal: the error built, caught and dropped."""
    assert all(_refused(call, x) for x in wrong)
    samples = []
    for _ in range(rounds):
        with no_garbage_collection():
            samples.append(min(refusal_us(call, wrong[i::8]) for i in range(8)))
    return Row(group=GROUP, name=name, unit="µs", samples=tuple(samples))


def _against_a_call(
    name: str, call: Callable[..., Any], wrong: list[Any], right: Any, rounds: int
) -> Row:
    """A refusal over a served call of plain ``jax.jit``, which no machine hurries.

    15 microseconds where such a call takes 4.3: the aim, for machines of any speed.
    """
    plain = jax.jit(_total)
    plain(right).block_until_ready()
    samples = []
    for _ in range(rounds):
        with no_garbage_collection():
            ours = min(refusal_us(call, wrong[i::8]) for i in range(8))
            served = min(_served_us(plain, right) for _ in range(8))
        samples.append(ours / served)
    return Row(
        group=GROUP,
        name=f"{name}, against a known call of jax.jit",
        unit="x",
        samples=tuple(samples),
        limit=Limit(3.5),
    )


def _served_us(call: Callable[..., Any], x: Any) -> float:
    start = time.perf_counter()
    for _ in range(32):
        y = call(x)
    y.block_until_ready()
    return (time.perf_counter() - start) / 32 * 1e6


def refusal_us(call: Callable[..., Any], wrong: list[Any]) -> float:
    """Microseconds of one refused call, over these arguments."""
    start = time.perf_counter()
    for x in wrong:
        try:  # noqa: SIM105  a context manager would cost a tenth of what is timed
            call(x)
        except (TypeError, safejax.CompileLimitError):
            pass
    return (time.perf_counter() - start) / len(wrong) * 1e6


# --- growth -----------------------------------------------------------------------


def _growths(effort: Effort) -> list[Row]:
    if not can_measure_memory():
        note = "not measured on this system"
        return [Row(group=GROUP, name="growth", unit="MB", note=note)]
    some = 30_000 if effort.quick else 100_000
    plain = 1_000 if effort.quick else 10_000
    return [
        _growth("contract", 100_000, Limit(1.0)),
        _growth("cap with contract", some),
        _growth("cap without contract", some),
        _growth("plain", plain),
    ]


_NAMES = {
    "contract": "wrong shapes",
    "cap with contract": "at the cap, with a contract",
    "cap without contract": "at the cap, without",
    "plain": _PLAIN_EACH,
}


def _growth(kind: str, count: int, limit: Limit | None = None) -> Row:
    grown = in_fresh_process("bench_refusal", kind, str(count))
    name = f"growth over {count:,} shapes: {_NAMES[kind]}"
    note = f"{grown / count * 1e6:,.0f} bytes each"
    return Row(
        group=GROUP, name=name, unit="MB", samples=(grown,), limit=limit, note=note
    )


def _grown_mb(kind: str, count: int) -> float:
    right = np.zeros((8, _COLUMNS), np.float32)
    call = {
        "contract": lambda: safejax.safe_jit(_total, contract=_CONTRACT),
        "cap with contract": lambda: _full(right, contract=True),
        "cap without contract": lambda: _full(right, contract=False),
        "plain": lambda: jax.jit(_strict_total),
    }[kind]()
    call(right)
    shapes = wrong_shapes()
    for x in itertools.islice(shapes, min(count // 10, _WARM_UP)):
        assert _refused(call, x)
    before = resident_mb()
    for x in itertools.islice(shapes, count):
        assert _refused(call, x)
    return resident_mb() - before


if __name__ == "__main__":
    print(json.dumps(_grown_mb(sys.argv[1], int(sys.argv[2]))))
