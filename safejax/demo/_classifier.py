"""The model of the service: trained, signed, loaded, compiled ahead, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import safejax
from safejax.demo._digits import (
    PIXELS,
    Images,
    Params,
    images,
    init,
    load,
    predict,
    protected_train_step,
    train,
)

CONTEXT = "demo/digits"
BUCKETS = (1, 8, 64)
SMOOTH = (0, 1)


class Model(Protocol):
    """What the service asks a model for."""

    def probabilities(self, x: Images, smooth: int) -> Images:
        """The probability of each digit, for each image."""


def _blurred(x: jax.Array) -> jax.Array:
    """Each pixel becomes the mean of itself and its neighbours."""
    square = jnp.pad(x.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)), mode="edge")
    parts = [square[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    return jnp.mean(jnp.stack(parts), axis=0).reshape(-1, PIXELS)


def classify(params: Params, x: jax.Array, smooth: int) -> jax.Array:
    """Probabilities; noisy images are smoothed first, as often as asked for."""
    for _ in range(smooth):
        x = _blurred(x)
    return jax.nn.softmax(predict(params, x))


class Classifier:
    """A model for the input of anybody.

    Args:
        path: Where its signed parameters are.
        ring: Verifies them.
        step: The least training step that is accepted.
    """

    def __init__(self, path: Path, ring: safejax.KeyRing, step: int) -> None:
        self._path, self._ring, self._step = path, ring, step
        self._params: Any = None
        self._like = jax.eval_shape(lambda: init(0))
        self.reload()
        self._function: Any = safejax.safe_jit(
            classify,
            static_argnames="smooth",
            contract={"x": images(), "smooth": safejax.spec(one_of=SMOOTH)},
            buckets={"b": BUCKETS},
            limits=safejax.Limits(max_compiles=len(BUCKETS) * len(SMOOTH)),
        )
        for smooth in SMOOTH:
            self._function.precompile(self._params, smooth=smooth)
        self._function.freeze()

    def reload(self) -> None:
        """Takes the parameters from the file, unless they are older or not ours.

        Raises:
            SignatureError: The file was not written by a holder of the key.
            RollbackError: It is older than what is served.
            FormatError: It has another tree.
            StorageError: It can't be read.
        """
        self._params = safejax.signed_load(
            self._path,
            key=self._ring,
            like=self._like,
            context=CONTEXT,
            min_step=self._step,
        )

    def probabilities(self, x: Images, smooth: int = 0) -> Images:
        """The probability of each digit, for each image.

        Raises:
            ContractError: These are no images, or not the ones that are served.
        """
        return np.asarray(self._function(self._params, x, smooth))

    def is_ready(self) -> bool:
        """Whether it answers."""
        return bool(np.isfinite(self.probabilities(self._zeros(1))).all())

    def _zeros(self, rows: int) -> Images:
        return np.zeros((rows, PIXELS), np.float32)


def trained(folder: Path, seed: int) -> Classifier:
    """A model that was trained now, and went through a signed file."""
    params = train(protected_train_step(), load(seed), seed)
    ring, path = safejax.KeyRing.generate(), folder / "digits.ckpt"
    safejax.signed_save(path, params, key=ring, step=1, context=CONTEXT)
    return Classifier(path, ring, step=1)
