"""What a bypass is: code that is traced, and evidence of what it reached."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

# "guard, late": the call is refused when its trace ends, and evidence was left.
# "no effect": nothing is refused, and there is no evidence either.
Verdict = Literal[
    "guard", "guard, late", "review", "guard and review", "no effect", "not defended"
]
Attack = Callable[["Trial"], Callable[..., Any]]

F32 = jax.ShapeDtypeStruct((), np.float32)


class Trial:
    """One try of one bypass: what it may use, and what it leaves behind."""

    def __init__(self, folder: Path, jit: Callable[..., Any]) -> None:
        self.folder = folder
        self.jit = jit
        self.args: tuple[Any, ...] = (np.float32(1),)
        self.through: Callable[[Any], Any] = lambda f: f
        self.evidence: list[Any] = []
        self.cleanup = contextlib.ExitStack()
        self._afterwards: list[Callable[[], Any]] = []
        self._swallowed: list[BaseException] = []

    def saw(self, thing: Any = True) -> None:
        """Notes what the attack got hold of; nothing counts as nothing."""
        if thing:
            self.evidence.append(thing)

    def report(self, *values: Any) -> Any:
        """A Python function for a program to call back."""
        self.saw("called back")
        return values[0] if values else None

    def undo(self, act: Callable[..., Any], *args: Any) -> None:
        """Asks for this to be done when the trial is over."""
        self.cleanup.callback(act, *args)

    def afterwards(self, look: Callable[[], Any]) -> None:
        """Asks for this to be looked at when the call has ended."""
        self._afterwards.append(look)

    def run(self, attack: Attack) -> BaseException | None:
        """Traces, compiles and runs the attack. Returns what refused it."""
        hook = sys.unraisablehook
        with self.cleanup:
            model = attack(self)
            sys.unraisablehook = self._swallow
            try:
                refusal = self._call(model)
                for look in self._afterwards:
                    self.saw(look())
            finally:
                sys.unraisablehook = hook
            self.evidence.extend(sorted(p.name for p in self.folder.iterdir()))
        return refusal or next(iter(self._swallowed), None)

    def _call(self, model: Callable[..., Any]) -> BaseException | None:
        try:
            jax.block_until_ready(self.through(self.jit(model))(*self.args))
            jax.effects_barrier()
        # What an attack raises is what is tested.
        except Exception as error:  # noqa: BLE001
            return error.with_traceback(None)
        return None

    def _swallow(self, unraisable: Any) -> None:
        """What a finaliser raises, Python only reports."""
        if unraisable.exc_value is not None:
            self._swallowed.append(unraisable.exc_value.with_traceback(None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bypass:
    """One way past the guard or the review, or an attempt at one."""

    name: str
    threat: str
    how: str
    attack: Attack
    stopped_by: Verdict
    on_311: Verdict
    reason: str
    limits: dict[str, Any]
    since: tuple[int, int]

    @property
    def verdict(self) -> Verdict:
        """What is expected on this Python."""
        return self.on_311 if sys.version_info < (3, 12) else self.stopped_by

    @property
    def exists_here(self) -> bool:
        """Whether this Python has what the attack uses."""
        return sys.version_info >= self.since


REGISTERED: list[Bypass] = []


def bypass(
    threat: str,
    stopped_by: Verdict,
    *,
    reason: str = "",
    on_311: Verdict | None = None,
    since: tuple[int, int] = (3, 11),
    **limits: Any,
) -> Callable[[Attack], Attack]:
    """Registers an attack: its name is the function's, its docstring says how."""

    def register(attack: Attack) -> Attack:
        REGISTERED.append(
            Bypass(
                name=attack.__name__.replace("_", " "),
                threat=threat,
                how=" ".join((inspect.getdoc(attack) or "").split()),
                attack=attack,
                stopped_by=stopped_by,
                on_311=on_311 or stopped_by,
                reason=reason,
                limits=limits,
                since=since,
            )
        )
        return attack

    return register


def outside(trial: Trial) -> Path:
    """A folder with a file that is there already, to be read or removed."""
    folder = Path(trial.cleanup.enter_context(tempfile.TemporaryDirectory()))
    (folder / "secret").write_text("4711", encoding="utf-8")
    return folder


def answering(trial: Trial, expected: float) -> Callable[[Any], Any]:
    """The evidence is the program's answer: it ran, and did what it was to do."""

    def through(jitted: Any) -> Any:
        return lambda *args: trial.saw(abs(float(jitted(*args)) - expected) < 1e-6)

    return through
