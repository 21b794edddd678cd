"""Saves that run behind the program, and their errors, which must not get lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final

from typing_extensions import override

_lock = threading.Lock()
_failed: list[PendingSave] = []


@final
class PendingSave:
    """A save that runs behind the program; see :func:`safejax.signed_save_async`.

    Example:
        >>> import tempfile, jax.numpy as jnp, safejax
        >>> path = tempfile.mkdtemp() + "/model.ckpt"
        >>> ring = safejax.KeyRing.generate()
        >>> saving = safejax.signed_save_async(path, jnp.ones(3), key=ring)
        >>> saving.result()
        >>> saving.done()
        True
    """

    def __init__(self, work: Callable[[], None], *, name: str) -> None:
        self._work, self._name = work, name
        self._error: BaseException | None = None
        self._ended = threading.Event()
        # Not a daemon: the interpreter waits for it, so that no save is cut short.
        threading.Thread(target=self._run, name=f"safejax save {name}").start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  raised where it is asked for
            self._error = error
            with _lock:
                _failed.append(self)
        finally:
            del self._work  # the arrays
            self._ended.set()

    def done(self) -> bool:
        """Whether the save has ended, well or not."""
        return self._ended.is_set()

    def result(self, *, timeout_s: float | None = None) -> None:
        """Waits until the file is whole and on the disk.

        Args:
            timeout_s: How long to wait.

        Raises:
            TimeoutError: The save still runs.
            SafeJaxError: It failed; see :func:`safejax.signed_save`.
        """
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"{self._name} is still being saved")
        with _lock:
            if self in _failed:
                _failed.remove(self)
        if self._error is not None:
            raise self._error

    @override
    def __repr__(self) -> str:
        return f"PendingSave({self._name!r}, done={self.done()})"


def raise_unreported() -> None:
    """Raises the error of an earlier save that nobody has asked for the result of."""
    with _lock:
        save = _failed.pop(0) if _failed else None
    if save is not None:
        save.result()


PendingSave.__module__ = "safejax"
