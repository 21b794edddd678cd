"""Words that the processes of one program leave for each other, each with a deadline.

JAX's coordination service keeps texts by name. Its client is not public, but nothing
public waits with a timeout: a barrier made of a collective hangs where a process died.
"""

from __future__ import annotations

import time
from typing import Any

import jax
from jax._src import distributed


class Meeting:
    """One thing that all processes do together.

    Args:
        name: The same in all of them, and used once.
        timeout_s: How long to wait for a word of another process.
    """

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name = name
        self._deadline = time.monotonic() + timeout_s
        self._client: Any = distributed.global_state.client
        self._own: dict[str, str] = {}
        self.rank = jax.process_index() if self._client is not None else 0
        self.size = jax.process_count() if self._client is not None else 1

    def say(self, key: str, word: str) -> None:
        """Leaves a word for all others."""
        self._own[key] = word
        if self._client is not None:
            self._client.key_value_set(f"{self._name}/{key}", word)

    def say_unless_said(self, key: str, word: str) -> None:
        """Leaves a word, unless this process has left another there."""
        if key not in self._own:
            self.say(key, word)

    def hear(self, key: str) -> str:
        """Waits for a word.

        Raises:
            TimeoutError: Nobody has said it in time.
        """
        if self._client is None or key in self._own:
            return self._own[key]
        left_ms = max(1, round(1000 * (self._deadline - time.monotonic())))
        try:
            word: str = self._client.blocking_key_value_get(
                f"{self._name}/{key}", left_ms
            )
        except jax.errors.JaxRuntimeError as error:
            raise TimeoutError(str(error).partition("\n")[0]) from None
        return word
