"""Attacks by the traced program: what it reaches, holds and needs (T14 to T17)."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import safejax
from safejax.demo._digits import PIXELS, init, predict
from safejax.demo._measure import Meter, finished
from safejax.demo._outcome import Outcome

_LINES = 80_000  # of a trace that takes seconds
_LATE_S = 1.0
_SIDE = 16_384  # of a square of float32 that fills one GiB
_LARGE = 700 << 20


def _refused(call: Callable[[], Any]) -> str:
    """The code of the error that refuses the call, or an empty string."""
    try:
        call()
    except (safejax.GuardError, safejax.ProgramRejectedError) as error:
        return error.code
    return ""


# --- T14: a callback in an uploaded model -----------------------------------------


def _uploaded(seed: int, leaked: list[Any]) -> Callable[[Any], Any]:
    """A classifier somebody else wrote: it recognises digits, and tells on them."""
    params = init(seed)

    @jax.custom_jvp
    def normal(x: Any) -> Any:
        def step(carry: Any, row: Any) -> tuple[Any, Any]:
            return carry, jax.pure_callback(_keep, row, row)

        return jax.lax.scan(step, 0.0, x)[1]

    def _keep(row: Any) -> Any:
        leaked.append(np.array(row))
        return row

    normal.defjvp(lambda primals, tangents: (normal(*primals), tangents[0]))
    return lambda x: predict(params, normal(x))


def _images(seed: int) -> Any:
    return np.random.default_rng(seed).random((4, PIXELS), np.float32)


def plain_callback(seed: int) -> Outcome:
    """T14: every image that is classified is also copied to the model's author."""
    leaked: list[Any] = []
    with Meter() as meter:
        finished(jax.jit(_uploaded(seed, leaked))(_images(seed)))
    text = f"{len(leaked)} of 4 images of users reached the author of the model"
    return meter.outcome(text, succeeded=len(leaked) > 0)


def safe_callback(seed: int) -> Outcome:
    """T14: tracing under the guard meets the callback; nothing is compiled."""
    leaked: list[Any] = []
    model = safejax.safe_jit(_uploaded(seed, leaked), untrusted=True)
    with Meter() as meter:
        code = _refused(lambda: finished(model(_images(seed))))
    text = f"{code or 'served'}; {len(leaked)} of 4 images left the program"
    return meter.outcome(text, succeeded=bool(leaked) or not code)


# --- T15: a trace bomb ------------------------------------------------------------


def _endless(x: Any) -> Any:
    for i in range(_LINES):
        x = jnp.sin(x) * i
    return x


def plain_trace(seed: int) -> Outcome:
    """T15: Python goes round and round before XLA has seen anything."""
    with Meter() as meter:
        program = jax.jit(_endless).trace(np.float32(seed)).jaxpr
    text = (
        f"tracing took {meter.seconds:.1f} s for {len(program.eqns):,} equations; "
        "XLA comes after that"
    )
    return meter.outcome(text, succeeded=meter.seconds > _LATE_S)


def safe_trace(seed: int) -> Outcome:
    """T15: the trace ends at the equation that is one too many."""
    limits = safejax.Limits(max_equations=5_000)
    function = safejax.safe_jit(_endless, limits=limits)
    with Meter() as meter:
        code = _refused(lambda: function(np.float32(seed)))
    text = f"{code or 'traced'} after {meter.seconds:.2f} s, at 5,001 equations"
    return meter.outcome(text, succeeded=code != "SJ403")


# --- T16: a captured secret -------------------------------------------------------


def _with_secret(secret: bytes) -> Callable[[Any], Any]:
    key = np.frombuffer(secret, np.uint8)
    return lambda x: (x * jnp.asarray(key)).sum()


def _holds(program: Any, secret: bytes) -> bool:
    return ", ".join(map(str, secret)) in program.as_text()


def plain_secret(seed: int) -> Outcome:
    """T16: a captured array is a literal in the text of the program."""
    secret = np.random.default_rng(seed).bytes(32)
    with Meter() as meter:
        program = jax.jit(_with_secret(secret)).lower(np.uint8(1))
        found = _holds(program, secret)
    text = f"the program's text {'has' if found else 'lacks'} the 32 bytes of the key"
    return meter.outcome(text, succeeded=found)


def safe_secret(seed: int) -> Outcome:
    """T16: with ``max_constant_bytes`` data comes as arguments or not at all."""
    secret = np.random.default_rng(seed).bytes(32)
    limits = safejax.Limits(max_constant_bytes=16)
    function = safejax.safe_jit(_with_secret(secret), limits=limits)
    with Meter() as meter:
        code = _refused(lambda: function.lower(np.uint8(1)))
    text = f"{code or 'lowered'}: a constant of 32 bytes, 16 allowed"
    return meter.outcome(text, succeeded=code != "SJ405")


# --- T17: a memory bomb -----------------------------------------------------------


def _hungry(x: Any) -> Any:
    def body(carry: Any, row: Any) -> tuple[Any, Any]:
        square = row[:, None] @ row[None, :]
        return carry + square[3, 5] + jnp.sin(square).max(), row.sum()

    return jax.lax.scan(body, 0.0, x)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plain_memory(seed: int) -> Outcome:
    """T17: 128 KiB of input, and a buffer that nobody sees in the results."""
    x = np.full((2, _SIDE), seed % 2 + 1, np.float32)
    with Meter() as meter:
        before = _peak_bytes()
        finished(jax.jit(_hungry)(x))
        grown = _peak_bytes() - before
    text = f"{x.nbytes >> 10} KiB of input: the process grew by {grown >> 20:,} MiB"
    return meter.outcome(text, succeeded=grown > _LARGE)


def safe_memory(seed: int) -> Outcome:
    """T17: the estimate meets it before XLA does."""
    x = np.full((2, _SIDE), seed % 2 + 1, np.float32)
    limits = safejax.Limits(max_memory_bytes=256 << 20)
    function = safejax.safe_jit(_hungry, limits=limits)
    with Meter() as meter:
        before = _peak_bytes()
        code = _refused(lambda: finished(function(x)))
        grown = _peak_bytes() - before
    text = f"{code or 'served'}: the process grew by {grown >> 20:,} MiB"
    return meter.outcome(text, succeeded=grown > _LARGE or code != "SJ407")
