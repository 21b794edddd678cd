"""Attacks on the compile cache: requests whose only purpose is to be new (T1-T3)."""

from __future__ import annotations

import statistics
import sys
import time
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import safejax
from safejax.demo._digits import (
    PIXELS,
    Function,
    Params,
    images,
    init,
    predict,
    protected_predict,
)
from safejax.demo._measure import Meter, finished
from safejax.demo._outcome import Outcome

_CAP = 8
_FLOOD_SHAPES = 80
_BAD_SHAPES = 10_000
_STREAM_SHAPES = 100
# A program of this model holds 0.4 to 2 MB; what levels off stays far below this.
_LEVEL_BYTES_PER_SHAPE = 250_000


def _honest_batch(seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random((32, PIXELS), dtype=np.float32)


def _refused(function: Function, params: Params, x: npt.NDArray[np.float32]) -> str:
    """The code of the refusal, or an empty string for a request that was served."""
    try:
        finished(function(params, x))
    except safejax.SafeJaxError as error:
        return error.code
    return ""


def _is_served(
    function: Function,
    params: Params,
    x: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
) -> bool:
    """Whether a request of a known shape gets its answer, and nothing is compiled."""
    with Meter() as meter:
        refused = _refused(function, params, x)
    if refused or meter.compilations:
        return False
    return np.array_equal(np.asarray(function(params, x)), expected)


def _flood(function: Function, seed: int) -> Outcome:
    params, honest = init(seed), _honest_batch(seed)
    expected = np.asarray(function(params, honest))
    flood = np.zeros((_FLOOD_SHAPES, PIXELS), np.float32)
    refusals, microseconds = [], []
    with Meter() as meter:
        for size in range(1, _FLOOD_SHAPES + 1):
            started = time.perf_counter()
            refused = _refused(function, params, flood[:size])
            if refused:
                refusals.append(refused)
                microseconds.append((time.perf_counter() - started) * 1e6)
    served = _is_served(function, params, honest, expected)
    if refusals:
        contract = refusals.count("SJ101")
        text = (
            f"{contract} refused by the contract, {len(refusals) - contract} at the "
            f"cap of {_CAP}, in {statistics.median(microseconds):.0f} us each; "
        )
    else:
        text = (
            f"{meter.compilations} of {_FLOOD_SHAPES} requests bought a compilation; "
        )
    text += "the honest client is served" if served else "the honest client is not"
    return meter.outcome(text, succeeded=meter.compilations > _CAP or not served)


def plain_flood(seed: int) -> Outcome:
    """T1: each batch size is a compilation, and a program that is never freed."""
    return _flood(jax.jit(predict), seed)


def safe_flood(seed: int) -> Outcome:
    """T1: sizes beyond the contract and programs beyond the cap are refused."""
    return _flood(protected_predict(safejax.Limits(max_compiles=_CAP)), seed)


def _enters_python(function: Function, x: jax.Array) -> bool:
    """Whether JAX needed its Python side for a call, which a cached call does not."""
    entered = []

    def note(frame: FrameType, event: str, _value: object) -> None:
        if event == "call":
            entered.append(frame.f_code)

    sys.setprofile(note)
    try:
        function(x)
    finally:
        sys.setprofile(None)
    return bool(entered)


def _dispatch_us(function: Function, x: jax.Array) -> float:
    started = time.perf_counter()
    finished(function(x))
    return (time.perf_counter() - started) * 1e6


def _strict_predict(params: Params, x: jax.Array) -> jax.Array:
    if x.shape[1] != PIXELS:
        raise TypeError(f"expected {PIXELS} pixels")
    return predict(params, x)


def _evict(function: Function, seed: int) -> Outcome:
    # Plain JAX at its best: filtered tracebacks would make it four times slower.
    jax.config.update(  # type: ignore[no-untyped-call]
        "jax_traceback_filtering", "off"
    )
    params, x = init(seed), jax.device_put(_honest_batch(seed))
    # Two other functions of the process, plain on either side: one shows whether its
    # entry is there, the other how long it takes without.
    watched, timed = jax.jit(jnp.square), jax.jit(jnp.negative)
    watched(x)
    before = statistics.median(_dispatch_us(timed, x) for _ in range(101))
    zeros = np.zeros(_BAD_SHAPES + PIXELS + 1, np.float32)
    with Meter() as meter:
        for width in range(PIXELS + 1, PIXELS + 1 + _BAD_SHAPES):
            try:
                function(params, zeros[:width].reshape(1, width))
            except TypeError:  # its own, or a ContractError
                continue
    after = _dispatch_us(timed, x)
    evicted = _enters_python(watched, x)
    each = f"refused in {meter.seconds / _BAD_SHAPES * 1e6:.0f} us each; "
    if evicted:
        text = (
            "another function lost its place in JAX's cache, its next call took "
            f"{after:,.0f} us instead of {before:.0f}"
        )
    else:
        text = "other functions keep their places in JAX's cache"
    return meter.outcome(each + text, succeeded=evicted)


def plain_evict(seed: int) -> Outcome:
    """T2: a failed call leaves an entry in the cache that all functions share."""
    return _evict(jax.jit(_strict_predict), seed)


def safe_evict(seed: int) -> Outcome:
    """T2: a refused call never enters JAX."""
    contract = {"x": images()}
    return _evict(safejax.safe_jit(_strict_predict, contract=contract), seed)


def _stream(function: Function, seed: int) -> Outcome:
    params = init(seed)
    stream = np.zeros((_STREAM_SHAPES + 1, PIXELS), np.float32)
    finished(function(params, stream[:1]))
    half = _STREAM_SHAPES // 2
    early = 0
    with Meter() as meter:
        for count in range(1, _STREAM_SHAPES + 1):
            finished(function(params, stream[: count + 1]))
            if count == half:
                early = meter.grown_bytes()
    late = meter.rss_bytes - early
    grows = late > _LEVEL_BYTES_PER_SHAPE * (_STREAM_SHAPES - half)
    fate = "grows without end" if grows else "evicted programs are freed"
    text = (
        f"{fate}: {early / 1e6:+.0f} MB over "
        f"the first {half} sizes, {late / 1e6:+.0f} MB over the next {half}"
    )
    return meter.outcome(text, succeeded=grows)


def plain_stream(seed: int) -> Outcome:
    """T3: memory grows with every program, and none is given back."""
    return _stream(jax.jit(predict), seed)


def safe_stream(seed: int) -> Outcome:
    """T3: at the cap the least recently used program goes, with its memory."""
    limits = safejax.Limits(max_compiles=_CAP, on_limit="evict")
    return _stream(safejax.safe_jit(predict, limits=limits), seed)
