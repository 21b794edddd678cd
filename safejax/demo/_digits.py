"""The model of the demo: handwritten digits, a small network, a training step.

The functions are written for ``jax.jit``; the ``protected_…`` ones put
:func:`safejax.safe_jit` around them, which is all that changes for a user.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

import safejax
from safejax.demo._measure import Meter, finished
from safejax.demo._outcome import Training

Params = dict[str, jax.Array]
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Function = Callable[..., Any]

BATCH = 64
PIXELS = 64
_EPOCHS = 30
_RATE = 0.2
_SERVED_BATCHES = (1, 16, 64)


@dataclasses.dataclass(frozen=True, slots=True)
class Digits:
    """Images of 8 x 8 pixels in 0..1 with their digits, in two parts."""

    train_x: Images
    train_y: Labels
    test_x: Images
    test_y: Labels


def load(seed: int) -> Digits:
    """The 1,797 images that scikit-learn ships with, one in five for the test."""
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(digits))
    x = (pixels[order] / 16).astype(np.float32)
    y = digits[order].astype(np.int32)
    held_out = len(y) // 5
    return Digits(x[held_out:], y[held_out:], x[:held_out], y[:held_out])


def init(seed: int) -> Params:
    """Parameters of a network with one hidden layer, before training."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (PIXELS, 128), "b1": (128,), "w2": (128, 10), "b2": (10,)}
    return {
        name: jax.device_put((rng.standard_normal(shape) * 0.1).astype(np.float32))
        for name, shape in shapes.items()
    }


def predict(params: Params, x: jax.Array) -> jax.Array:
    """A score for each image and digit."""
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def _loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    scores = jax.nn.log_softmax(predict(params, x))
    return -jnp.take_along_axis(scores, y[:, None], axis=1).mean()


def train_step(params: Params, x: jax.Array, y: jax.Array) -> tuple[Params, jax.Array]:
    """One step of gradient descent."""
    loss, gradients = jax.value_and_grad(_loss)(params, x, y)
    return jax.tree.map(lambda p, g: p - _RATE * g, params, gradients), loss


def images() -> safejax.Spec:
    """What the model takes: up to 64 images whose pixels are numbers in 0..1."""
    return safejax.spec(
        f"f32[b<={BATCH}, {PIXELS}]", minimum=0.0, maximum=1.0, finite=True
    )


def protected_predict(limits: safejax.Limits) -> Function:
    """The scores, for images that anybody may send."""
    return safejax.safe_jit(predict, contract={"x": images()}, limits=limits)


def plain_train_step() -> Function:
    """The training step as JAX offers it: the old parameters are given away."""
    return jax.jit(train_step, donate_argnames="params")


def protected_train_step() -> Function:
    """The same training step, for images and labels that anybody may send."""
    return safejax.safe_jit(
        train_step,
        contract={"x": images(), "y": safejax.spec("i32[b]", minimum=0, maximum=9)},
        donate_argnames="params",
    )


def train(step: Function, digits: Digits, seed: int) -> Params:
    """Parameters after 30 passes over the training images, in whole batches."""
    params, rng = init(seed), np.random.default_rng(seed)
    for _ in range(_EPOCHS):
        order = rng.permutation(len(digits.train_y))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            params, _ = step(params, digits.train_x[batch], digits.train_y[batch])
    return finished(params)


def count_right(function: Function, params: Params, x: Images, y: Labels) -> int:
    """How many images get the highest score for the digit they show."""
    right = 0
    for start in range(0, len(y), BATCH):
        scores = np.asarray(function(params, x[start : start + BATCH]))
        right += int((scores.argmax(axis=1) == y[start : start + BATCH]).sum())
    return right


def train_and_serve(seed: int) -> Training:
    """Trains with safejax, tests, and serves a few batches."""
    digits = load(seed)
    step, function = protected_train_step(), protected_predict(safejax.Limits())
    with Meter() as meter:
        started = time.perf_counter()
        params = train(step, digits, seed)
        seconds = time.perf_counter() - started
        right = count_right(function, params, digits.test_x, digits.test_y)
        served_right = sum(
            count_right(function, params, digits.test_x[:size], digits.test_y[:size])
            for size in _SERVED_BATCHES
        )
    return Training(
        train_images=len(digits.train_y),
        test_images=len(digits.test_y),
        accuracy=right / len(digits.test_y),
        seconds=seconds,
        served=sum(_SERVED_BATCHES),
        right=served_right,
        compilations=meter.compilations,
    )
