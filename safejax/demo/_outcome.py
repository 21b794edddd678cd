"""What the demo found, as plain data: one outcome per half, one result per attack."""

from __future__ import annotations

import dataclasses
from typing import Any

ACCURACY_FLOOR = 0.93


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What one half of an attack did.

    Attributes:
        seconds: How long the attack took, without what it needed to be set up.
        rss_bytes: How much the resident memory of the process grew meanwhile.
        compilations: How many programs XLA compiled meanwhile.
        outcome: What happened, in one sentence.
        succeeded: Whether the attacker got what the attack is for; ``None`` where the
            attack could not be played to its end.
    """

    seconds: float
    rss_bytes: int
    compilations: int
    outcome: str
    succeeded: bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """Both halves of one attack, with its id in the threat model and its title."""

    id: str
    title: str
    story: str
    plain: Outcome
    safe: Outcome

    @property
    def stopped(self) -> bool:
        """Whether the attack works on plain JAX and does not work on safejax.

        An attack that could not be played proves nothing: it is not stopped.
        """
        return self.plain.succeeded is True and self.safe.succeeded is False


@dataclasses.dataclass(frozen=True, slots=True)
class Training:
    """What training and serving with safejax came to.

    Attributes:
        train_images: How many images the model was trained on.
        test_images: How many others it was tested on.
        accuracy: The share of the test images it recognised.
        seconds: How long training took, its compilation included.
        served: How many images it was then asked about, in batches of several sizes.
        right: How many of these it recognised.
        compilations: How many programs XLA compiled for all of it.
    """

    train_images: int
    test_images: int
    accuracy: float
    seconds: float
    served: int
    right: int
    compilations: int


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The whole demo."""

    version: str
    jax: str
    training: Training
    results: tuple[Result, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the model learned and every attack was stopped."""
        learned = self.training.accuracy > ACCURACY_FLOOR
        return learned and all(result.stopped for result in self.results)

    def as_json(self) -> dict[str, Any]:
        """The document that ``safejax demo --json`` prints."""
        return {
            "version": self.version,
            "jax": self.jax,
            "accuracy": self.training.accuracy,
            "attacks": [
                {
                    "id": result.id,
                    "title": result.title,
                    "plain": dataclasses.asdict(result.plain),
                    "safe": dataclasses.asdict(result.safe),
                    "stopped": result.stopped,
                }
                for result in self.results
            ],
            "ok": self.ok,
            "seconds": self.seconds,
        }
