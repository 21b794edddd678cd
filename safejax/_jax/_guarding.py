"""What JAX itself must know of guarded scopes, and where its own code lies."""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Hashable
from typing import Any

import jax
import jaxlib
from jax._src import config, source_info_util, traceback_util

from safejax._jax._dispatch import PACKAGE

# The code in these directories is JAX's own.
JAX_DIRECTORIES: tuple[str, ...] = tuple(
    f"{pathlib.Path(module.__file__).parent}{os.sep}"
    for module in (jax, jaxlib)
    if module.__file__ is not None
)


class _ScopeKey:
    """A value that is part of JAX's key of every trace in a thread.

    Made when the first scope is made and not before: JAX takes every program it has
    for a stranger as soon as there is one more value in its key (measured in both
    lines), so that all of them are traced once more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: Any = None
        # Small numbers in the place of policies: JAX hashes the value at every call.
        self._numbers: dict[Hashable, int] = {}

    def install(self) -> None:
        """Makes the value; harmless when repeated."""
        if self._value is not None:
            return
        with self._lock:
            if self._value is None:
                traceback_util.register_exclusion(PACKAGE)
                source_info_util.register_exclusion(PACKAGE)
                make: Any = jax.make_user_context
                self._value = make(0)._obj

    def set(self, scope: Hashable) -> None:
        """Traces of this thread are for ``scope``; ``()`` is no scope."""
        if scope:
            with self._lock:
                number = self._numbers.setdefault(scope, len(self._numbers) + 1)
            self._value.set_local(number)
        elif self._value is not None:
            self._value.set_local(config.config_ext.unset)


_scope_key = _ScopeKey()
install_scope_key = _scope_key.install
set_scope_key = _scope_key.set


def without_inner_frames(error: BaseException) -> None:
    """Drops this package's frames from the end of an exception's traceback."""
    traceback, last = error.__traceback__, None
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(PACKAGE):
            last = traceback
        traceback = traceback.tb_next
    if last is not None:
        last.tb_next = None
    if hasattr(error, "__notes__"):
        # JAX's remark on frames it has removed; ours says what to do instead.
        error.__notes__ = [n for n in error.__notes__ if "internal frames" not in n]
