"""Whether XLA still answers in a process that was forked from one that used it.

XLA's threads stay in the parent. Without them a call into XLA may wait for ever
(measured: any compilation with jaxlib 0.10.2, only large programs with 0.12).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

from safejax import _jax

# A program of one constant takes milliseconds; a busy machine gets its time.
_PATIENCE_S = 3.0


class Inheritance:
    """The backends that a forked process has from its parent, tried once."""

    def __init__(self) -> None:
        self._backends: tuple[Any, ...] = ()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._started: float | None = None
        self._answered = threading.Event()

    def begin(self) -> None:
        """In a forked child: what is there now is the parent's."""
        self._backends = _jax.backends()
        self._reset()

    def is_usable(self, within_s: float | None) -> bool:
        """Whether a program can be compiled here; waits for the answer, once.

        Args:
            within_s: How long the caller has, in seconds; ``None``: some seconds.
        """
        if not self._backends:
            return True
        present = set(map(id, _jax.backends()))
        if present.isdisjoint(map(id, self._backends)):
            return True  # clear_backends() has been called: new ones will be made
        with self._lock:
            if self._started is None:
                self._started = time.monotonic()
                # A daemon: it may never end.
                threading.Thread(target=self._try, daemon=True).start()
            left = max(0.0, self._started + _PATIENCE_S - time.monotonic())
        return self._answered.wait(left if within_s is None else min(left, within_s))

    def _try(self) -> None:
        # An error is an answer.
        with contextlib.suppress(Exception):
            _jax.compile_nothing()
        self._answered.set()


inheritance = Inheritance()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=inheritance.begin)
