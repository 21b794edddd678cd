"""Signatures for checkpoints that Orbax writes and reads.

Orbax opens the files again after they were verified: this protects against whoever
can replace the folder, not against whoever can change its files while it is being
restored. :func:`safejax.signed_load` has no such gap.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import Any

import jax

from safejax._file_errors import RollbackError, StorageError
from safejax.errors import SafeJaxError
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._folder import sign_folder, verify_folder
from safejax.signing._origin import Wanted, new_origin, read_origin

__all__ = ["SignedCheckpointManager", "sign", "verify"]

_SUFFIX = ".safejax"


def _signature(directory: Path) -> Path:
    return directory.parent / f"{directory.name}{_SUFFIX}"


def sign(
    directory: str | os.PathLike[str],
    *,
    key: KeyRing,
    step: int | None = None,
    context: str = "",
    run_id: str = "",
) -> None:
    """Signs all files of a folder as they are; the signature stands beside it.

    Call it when the checkpoint is complete: with an asynchronous checkpointer, after
    ``wait_until_finished()``.

    Args:
        directory: The folder of one checkpoint.
        key: Its primary key signs.
        step: The training step.
        context: Which model this is.
        run_id: Which run this is.

    Raises:
        FormatError: There is something else in it than files and folders.
        StorageError: The system refused.

    Example:
        >>> import pathlib, tempfile, safejax, safejax.orbax
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "7"
        >>> folder.mkdir()
        >>> _ = (folder / "data").write_bytes(b"weights")
        >>> ring = safejax.KeyRing.generate()
        >>> safejax.orbax.sign(folder, key=ring, step=7)
        >>> safejax.orbax.verify(folder, key=ring, min_step=7)
    """
    place = Path(directory)
    fields = new_origin(context, step, run_id, {}).fields()
    sign_folder(place, _signature(place), key, {**fields, "name": place.name})


def verify(
    directory: str | os.PathLike[str],
    *,
    key: KeyRing,
    context: str = "",
    min_step: int | None = None,
    max_age_s: float | None = None,
    expect_run_id: str | None = None,
    limits: LoadLimits | None = None,
) -> None:
    """Checks that a folder is what was signed: no file changed, more or less.

    Args:
        directory: The folder of one checkpoint.
        key: The keys that may have signed it.
        context: The text it must have been signed with.
        min_step: The least step it may be of.
        max_age_s: How old it may be, in seconds.
        expect_run_id: The run it must be of.
        limits: How large it may be.

    Raises:
        SignatureError: It is not what was signed.
        RollbackError: It is genuine, but not the one asked for.
        FormatError: The signature is none, or the limits do not admit the folder.
        StorageError: A file can't be read, or there is no signature.

    Example:
        See :func:`sign`.

        >>> import tempfile, safejax, safejax.orbax
        >>> try:
        ...     safejax.orbax.verify(tempfile.mkdtemp(), key=safejax.KeyRing.generate())
        ... except safejax.StorageError as error:
        ...     error.code
        'SJ505'
    """
    place = Path(directory)
    fields = verify_folder(place, _signature(place), key, limits or LoadLimits())
    wanted = Wanted(
        context=context,
        min_step=min_step,
        max_age_s=max_age_s,
        expect_run_id=expect_run_id,
    )
    wanted.check(read_origin(fields))
    if fields.get("name") != place.name:
        raise RollbackError(
            "the folder is a copy of another one under a new name",
            details={"field": "name", "expected": place.name, "got": fields["name"]},
        )


class SignedCheckpointManager:
    """Orbax's ``CheckpointManager``, with a signature for each step.

    ``save`` signs when Orbax has finished, behind the program; ``restore`` verifies
    first. Everything else is the manager's own, as ``.manager``.

    Args:
        manager: The manager to use.
        key: The keys to sign and to verify with.
        context: Which model this is.
        limits: How large a checkpoint may be.

    Example:
        >>> import tempfile, safejax.orbax
        >>> import orbax.checkpoint as ocp                       # doctest: +SKIP
        >>> manager = ocp.CheckpointManager(tempfile.mkdtemp())  # doctest: +SKIP
        >>> ring = safejax.KeyRing.generate()
        >>> signed = safejax.orbax.SignedCheckpointManager(      # doctest: +SKIP
        ...     manager, key=ring
        ... )
    """

    def __init__(
        self,
        manager: Any,
        *,
        key: KeyRing,
        context: str = "",
        limits: LoadLimits | None = None,
    ) -> None:
        self.manager = manager
        self._key, self._context, self._limits = key, context, limits
        self._signing: threading.Thread | None = None
        self._error: BaseException | None = None

    def _folder(self, step: int) -> Path:
        return Path(self.manager.directory) / str(step)

    def save(self, step: int, *args: Any, **options: Any) -> bool:
        """Saves by Orbax, and signs when that has finished.

        Raises:
            SafeJaxError: An earlier step could not be signed.
        """
        self.wait_until_finished()
        saved = bool(self.manager.save(step, *args, **options))
        if saved and jax.process_index() == 0:
            self._signing = threading.Thread(target=self._sign, args=(step,))
            self._signing.start()
        return saved

    def _sign(self, step: int) -> None:
        try:
            self.manager.wait_until_finished()
            sign(self._folder(step), key=self._key, step=step, context=self._context)
            self._forget_removed()
        except BaseException as error:  # noqa: BLE001  raised by wait_until_finished
            self._error = error

    def _forget_removed(self) -> None:
        """Removes the signatures of steps that Orbax has removed."""
        for signature in Path(self.manager.directory).glob(f"*{_SUFFIX}"):
            name = signature.name.removesuffix(_SUFFIX)
            if name.isdecimal() and not (signature.parent / name).exists():
                with contextlib.suppress(OSError):
                    signature.unlink()

    def wait_until_finished(self) -> None:
        """Waits until every step is saved and signed.

        Raises:
            SafeJaxError: A step could not be signed.
        """
        self.manager.wait_until_finished()
        if self._signing is not None:
            self._signing.join()
            self._signing = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def latest_step(self, *, min_step: int | None = None) -> int | None:
        """The newest step that verifies, or None."""
        self.wait_until_finished()
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                self._verify(step, min_step)
            except SafeJaxError:
                continue
            return int(step)
        return None

    def _verify(self, step: int, min_step: int | None) -> None:
        verify(
            self._folder(step),
            key=self._key,
            context=self._context,
            min_step=step if min_step is None else max(step, min_step),
            limits=self._limits,
        )

    def restore(self, step: int | None = None, *args: Any, **options: Any) -> Any:
        """Verifies a step, then restores it by Orbax.

        Args:
            step: The step; the manager's newest if None, which must verify.
            *args: For the manager.
            **options: For the manager.

        Raises:
            SignatureError: The step is not what was signed.
            StorageError: There is no step, or it has no signature.
        """
        self.wait_until_finished()
        chosen = self.manager.latest_step() if step is None else step
        if chosen is None:
            raise StorageError(
                "there is no checkpoint to restore", details={"errno": errno.ENOENT}
            )
        self._verify(chosen, None)
        return self.manager.restore(chosen, *args, **options)

    def close(self) -> None:
        """Waits, and closes the manager."""
        self.wait_until_finished()
        self.manager.close()
