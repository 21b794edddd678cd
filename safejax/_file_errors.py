"""The errors about signed files and the keys they are signed with."""

from __future__ import annotations

from typing_extensions import override

from safejax.errors import SafeJaxError


class SignatureError(SafeJaxError, ValueError):
    """A file was not written by a holder of the key, or was changed since.

    ``SJ501``. The text is the same whatever failed: an attacker learns nothing from
    it.

    Example:
        >>> import safejax
        >>> try:
        ...     raise safejax.SignatureError("changed")
        ... except ValueError as error:
        ...     error.code
        'SJ501'
    """

    default_code = "SJ501"


class RollbackError(SafeJaxError, ValueError):
    """A genuine file is not the one asked for: older, or another model's.

    ``SJ502``. ``details`` has ``field`` (``"context"``, ``"step"``, ``"age"`` or
    ``"run_id"``), ``expected`` and ``got``.

    Example:
        >>> import safejax
        >>> facts = {"field": "step", "expected": 1000, "got": 900}
        >>> try:
        ...     raise safejax.RollbackError("step 900", details=facts)
        ... except ValueError as error:
        ...     error.code, error.details["got"]
        ('SJ502', 900)
    """

    default_code = "SJ502"


class FormatError(SafeJaxError, ValueError):
    """A file, or a tree to be saved, is not what this version of safejax handles.

    ``SJ503``: the file is no signed file, or its format, digest or sizes are not
    admitted; ``SJ506``: the file is genuine, but its tree differs from ``like``;
    ``SJ507``: a tree or data that can't be
    saved; ``SJ511``: a program for another platform, or of a JAX too old or too new.

    Example:
        >>> import safejax
        >>> try:
        ...     raise safejax.FormatError("missing w", code="SJ506")
        ... except ValueError as error:
        ...     error.code
        'SJ506'
    """

    default_code = "SJ503"


class SigningKeyError(SafeJaxError, ValueError):
    """A key is too short, malformed, readable by others, unknown or revoked.

    ``SJ504``. No message contains any part of a key.

    Example:
        >>> import safejax
        >>> try:
        ...     safejax.Key(b"too short")
        ... except safejax.SigningKeyError as error:
        ...     error.code
        'SJ504'
    """

    default_code = "SJ504"


class StorageError(SafeJaxError, OSError):
    """The file system refused, or a path is not a file that may be used.

    ``SJ505``. What stood at the path before still stands there. ``details`` has
    ``errno``, which is also an attribute.

    Example:
        >>> import safejax
        >>> try:
        ...     raise safejax.StorageError("disk full", details={"errno": 28})
        ... except OSError as error:
        ...     error.code, error.errno
        ('SJ505', 28)
    """

    default_code = "SJ505"

    @property
    @override
    def errno(self) -> int | None:  # type: ignore[override]
        """The system's number, as in :class:`OSError`."""
        return self.details.get("errno")


for _error in (
    SignatureError, RollbackError, FormatError, SigningKeyError, StorageError
):  # fmt: skip
    _error.__module__ = "safejax"
