"""Attacks with a value: one number that breaks the model or the meaning (T4-T6)."""

from __future__ import annotations

import jax
import numpy as np

import safejax
from safejax.demo._digits import (
    BATCH,
    Function,
    count_right,
    load,
    plain_train_step,
    predict,
    protected_train_step,
    train,
)
from safejax.demo._measure import Meter, finished
from safejax.demo._outcome import ACCURACY_FLOOR, Outcome

_LIMIT = 16_777_216.0  # 2**24: the next whole number does not exist in float32
_NAN_CALLS = 20


def _needs_approval(amount: jax.Array) -> jax.Array:
    return amount > _LIMIT


def _narrow(function: Function) -> Outcome:
    finished(function(np.ones(1, np.float32)))
    amount = np.array([_LIMIT + 1.0])  # float64, as NumPy makes it
    with Meter() as meter:
        try:
            passed = not np.asarray(function(amount))[0]
        except safejax.ContractError:
            passed, text = False, "refused: the contract asks for float32"
        else:
            text = (
                f"{_LIMIT + 1:,.0f} passes as {_LIMIT:,.0f}: narrowed to float32, "
                "without an error or a warning"
            )
    return meter.outcome(text, succeeded=bool(passed))


def plain_narrow(seed: int) -> Outcome:
    """T4: JAX narrows float64 to float32, and the answer changes."""
    del seed
    return _narrow(jax.jit(_needs_approval))


def safe_narrow(seed: int) -> Outcome:
    """T4: the caller's dtype counts."""
    del seed
    contract = {"amount": safejax.spec("f32[n<=64]")}
    return _narrow(safejax.safe_jit(_needs_approval, contract=contract))


def _poison(step: Function, seed: int) -> Outcome:
    digits = load(seed)
    params = train(step, digits, seed)
    tested = len(digits.test_y)
    scores = jax.jit(predict)
    before = count_right(scores, params, digits.test_x, digits.test_y) / tested
    x, y = digits.train_x[:BATCH].copy(), digits.train_y[:BATCH]
    x[0, 20] = np.nan
    given = params
    refused = False
    with Meter() as meter:
        try:
            params, _ = step(params, x, y)
        except safejax.ContractError:
            refused = True
        finished(params)
    consumed = given["w1"].is_deleted()
    if refused and not consumed:  # the parameters must still be good for training
        params, _ = step(params, digits.train_x[:BATCH], y)
    after = count_right(scores, params, digits.test_x, digits.test_y) / tested
    text = f"accuracy {before:.1%} before, {after:.1%} after; "
    text += (
        "the good parameters were donated and are gone"
        if consumed
        else "refused before anything was donated, training went on"
    )
    return meter.outcome(text, succeeded=consumed or after <= ACCURACY_FLOOR)


def plain_poison(seed: int) -> Outcome:
    """T5: one NaN pixel turns every parameter into NaN."""
    return _poison(plain_train_step(), seed)


def safe_poison(seed: int) -> Outcome:
    """T5: values are checked before a donated buffer is consumed."""
    return _poison(protected_train_step(), seed)


def _sharpen(x: jax.Array, temperature: float) -> jax.Array:
    return jax.nn.softmax(x / temperature)


def _churn(function: Function) -> Outcome:
    x = np.ones((4, 10), np.float32)
    finished(function(x, temperature=1.0))
    refused = 0
    with Meter() as meter:
        for _ in range(_NAN_CALLS):
            try:
                finished(function(x, temperature=float("nan")))
            except safejax.SafeJaxError:
                refused += 1
    text = (
        f"{refused} of {_NAN_CALLS} calls refused, nothing is compiled"
        if refused
        else f"{meter.compilations} of {_NAN_CALLS} calls compiled: NaN equals nothing"
    )
    return meter.outcome(text, succeeded=meter.compilations > 0)


def plain_churn(seed: int) -> Outcome:
    """T6: NaN equals nothing, so no program compiled for it is found again."""
    del seed
    return _churn(jax.jit(_sharpen, static_argnames="temperature"))


def safe_churn(seed: int) -> Outcome:
    """T6: a static NaN is refused."""
    del seed
    contract = {"x": safejax.spec("f32[b<=64, 10]")}
    return _churn(
        safejax.safe_jit(_sharpen, contract=contract, static_argnames="temperature")
    )
