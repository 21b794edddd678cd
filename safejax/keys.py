"""Signing keys: where they come from, what they may do, and that they never show.

A key signs nothing itself: each purpose has a sub-key of its own, so that a signature
made for one purpose is worth nothing for another.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets as random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from typing_extensions import override

from safejax._file_errors import SigningKeyError
from safejax._files import read_small, write_small
from safejax._secret import HINT, MIN_KEY_BYTES, Secret, derive, fault_of, read_lines

Digest = Literal["sha256", "blake3"]

MAX_ID: Final = 32
DIGESTS: Final = ("sha256", "blake3")

_MAX_FILE_BYTES: Final = 64 << 10
_ID: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_ID}}}")


class Key:
    """One signing key: at least 32 random bytes, with a name.

    Args:
        secret: The bytes, or a callable without arguments that gets them when they are
            needed first, from a key service for example.
        id: The key's name, which is written into signed files: 1 to 32 letters,
            digits, dots, dashes and underscores. Derived from the secret if absent;
            a callable needs one.

    Raises:
        SigningKeyError: The secret is too short or not random, or the name is not one.

    Example:
        >>> import secrets, safejax
        >>> safejax.Key(secrets.token_bytes(32), id="2026-11")
        Key(id='2026-11')
    """

    __slots__ = ("_fetch", "_id", "_secret", "_subkeys")

    def __init__(
        self,
        secret: bytes | Callable[[], bytes],
        *,
        id: str | None = None,  # noqa: A002  the word that users know
    ) -> None:
        self._id = ""
        self._fetch = secret if callable(secret) else None
        self._secret: Secret | None = None
        self._subkeys: dict[str, Secret] = {}
        fault = "" if callable(secret) else fault_of(secret)
        if not callable(secret) and not fault:
            self._secret = Secret(bytes(secret))
        del secret
        if fault:
            raise SigningKeyError(f"Key(secret=...) {fault}", hint=HINT)
        if id is None:
            if self._secret is None:
                raise SigningKeyError("Key(id=...) is needed with a callable")
            id = derive(self._secret, "key-id").reveal().hex()[:16]  # noqa: A001
        if not _ID.fullmatch(str(id)):
            raise SigningKeyError(
                f"Key(id=...) must be 1 to {MAX_ID} letters, digits, '.', '-' or '_'"
            )
        self._id = id

    @property
    def id(self) -> str:
        """The key's name."""
        return self._id

    def mac(
        self, purpose: str, parts: Iterable[bytes | bytearray | memoryview]
    ) -> bytes:
        """HMAC-SHA256 of the parts, one after the other, with the purpose's sub-key."""
        if purpose not in self._subkeys:
            self._subkeys[purpose] = derive(self.unsafe_secret(), f"mac/{purpose}")
        state = hmac.new(self._subkeys[purpose].reveal(), digestmod="sha256")
        for part in parts:
            state.update(part)
        return state.digest()

    def unsafe_secret(self) -> Secret:
        """The secret itself, in an object that does not show it."""
        if self._secret is None and self._fetch is not None:
            fetched = self._fetch()
            fault = fault_of(fetched)
            if not fault:
                self._secret = Secret(fetched)
            del fetched
            if fault:
                raise SigningKeyError(f"the callable of key {self._id!r}: {fault}")
        if self._secret is None:
            raise SigningKeyError(f"key {self._id!r} has no secret")
        return self._secret

    def line(self, role: str) -> Secret:
        """The key's line in a key file."""
        secret = self.unsafe_secret()
        return Secret(f"{self._id} {role} {secret.reveal().hex()}\n".encode())

    @override
    def __repr__(self) -> str:
        return f"Key(id={self._id!r})"

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: object) -> Key:
        return self

    @override
    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError("a Key can't be pickled; pass where it is kept, not the key")


class KeyRing:
    """The keys a program signs and verifies with.

    Args:
        primary: Signs, and verifies. None makes a ring that only verifies.
        verify: Keys that only verify: those signed with before a rotation.
        revoked: Names of keys that must not verify, whoever has them.
        digest: The algorithm of the digests of data, for files to be written and to be
            read: a file can't choose another. ``"blake3"`` needs the package blake3.

    Raises:
        SigningKeyError: Two keys have one name, a key is revoked and in use, or the
            algorithm is unknown.

    Example:
        >>> import safejax
        >>> ring = safejax.KeyRing.generate(id="2026-11")
        >>> ring
        KeyRing(primary='2026-11', verify=(), revoked=(), digest='sha256')
    """

    __slots__ = ("_digest", "_keys", "_primary", "_revoked")

    def __init__(
        self,
        primary: Key | None,
        *,
        verify: Iterable[Key] = (),
        revoked: Iterable[str] = (),
        digest: Digest = "sha256",
    ) -> None:
        if digest not in DIGESTS:
            raise SigningKeyError(f"KeyRing(digest=...) must be one of {DIGESTS}")
        given = [*((primary,) if primary is not None else ()), *verify]
        if not all(isinstance(key, Key) for key in given):
            raise TypeError("KeyRing(...) takes Key objects; see Key and from_file")
        self._primary = primary
        self._keys = {key.id: key for key in given}
        self._revoked = frozenset(revoked)
        self._digest = digest
        if len(self._keys) != len(given):
            raise SigningKeyError("KeyRing(...): two keys have the same id")
        both = sorted(self._revoked & self._keys.keys())
        if both:
            raise SigningKeyError(f"KeyRing(...): key {both[0]!r} is revoked")

    @property
    def primary(self) -> Key:
        """The key that signs.

        Raises:
            SigningKeyError: The ring only verifies.
        """
        if self._primary is None:
            raise SigningKeyError(
                "the ring has no primary key, so it can't sign",
                hint="pass the signing key as KeyRing(primary=...)",
            )
        return self._primary

    @property
    def digest(self) -> str:
        """The algorithm of the digests of data."""
        return self._digest

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of the keys that verify, the primary first."""
        return tuple(self._keys)

    @property
    def revoked(self) -> frozenset[str]:
        """The names of the keys that must not verify."""
        return self._revoked

    def find(self, key_id: str) -> Key | None:
        """The key of that name, or None where none may verify."""
        return None if key_id in self._revoked else self._keys.get(key_id)

    @classmethod
    def generate(
        cls,
        *,
        id: str | None = None,  # noqa: A002
        digest: Digest = "sha256",
    ) -> KeyRing:
        """A ring with one new random key, which is kept nowhere else.

        Args:
            id: The key's name; derived from it if absent.
            digest: As for :class:`KeyRing`.

        Example:
            >>> import safejax
            >>> safejax.KeyRing.generate(id="test").ids
            ('test',)
        """
        return cls(Key(random.token_bytes(MIN_KEY_BYTES), id=id), digest=digest)

    @classmethod
    def from_env(cls, name: str, *, digest: Digest = "sha256") -> KeyRing:
        """The ring in an environment variable, written as in a key file.

        Lines may be separated by semicolons. One word alone is the primary key in
        hexadecimal.

        Args:
            name: The variable.
            digest: As for :class:`KeyRing`.

        Raises:
            SigningKeyError: The variable is not set, or not a key file's text.

        Example:
            >>> import os, safejax
            >>> os.environ["SAFEJAX_KEY"] = bytes(range(32)).hex()
            >>> safejax.KeyRing.from_env("SAFEJAX_KEY").ids
            ('...',)
        """
        if not os.environ.get(name):
            raise SigningKeyError(f"environment variable {name} is not set", hint=HINT)
        return cls._parsed(
            Secret(os.environ[name].replace(";", "\n").encode("utf-8", "replace")),
            f"environment variable {name}",
            digest,
        )

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        digest: Digest = "sha256",
    ) -> KeyRing:
        """The ring in a file that nobody else can read.

        Each line has a name, a role (``primary``, ``verify`` or ``revoked``) and, but
        for revoked ones, the key in hexadecimal. ``#`` begins a comment.

        Args:
            path: A regular file, no link, owned by this user, with mode 0600 or 0400.
            digest: As for :class:`KeyRing`.

        Raises:
            SigningKeyError: Others can read or write the file, or it is malformed.
            StorageError: It can't be read.

        Example:
            >>> import pathlib, tempfile, safejax
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "key"
            >>> safejax.KeyRing.generate(id="2026").to_file(path)
            >>> safejax.KeyRing.from_file(path).ids
            ('2026',)
        """
        found, known = read_small(Path(path), _MAX_FILE_BYTES)
        text = Secret(found)
        del found
        if known.st_mode & 0o077:
            raise SigningKeyError(
                f"key file {path} may be used by others: mode "
                f"{known.st_mode & 0o777:04o}",
                hint=f"chmod 600 {path}",
            )
        if known.st_uid not in (os.geteuid(), 0):
            raise SigningKeyError(f"key file {path} belongs to another user")
        return cls._parsed(text, f"key file {path}", digest)

    def to_file(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the ring as a key file with mode 0600.

        Args:
            path: Where the file is to stand.
            overwrite: Whether one may stand there already.

        Raises:
            StorageError: It can't be written.
        """
        write_small(
            Path(path),
            b"".join(secret.reveal() for secret in self._lines()),
            overwrite=overwrite,
        )

    def _lines(self) -> Iterator[Secret]:
        for key in self._keys.values():
            yield key.line("primary" if key is self._primary else "verify")
        for name in sorted(self._revoked):
            yield Secret(f"{name} revoked\n".encode())

    @classmethod
    def _parsed(cls, text: Secret, source: str, digest: Digest) -> KeyRing:
        primary: Key | None = None
        verify: list[Key] = []
        revoked: list[str] = []
        for name, role, secret in read_lines(text, source):
            if secret is None:
                revoked.append(str(name))
                continue
            key = Key(secret.reveal(), id=name)
            if role == "verify":
                verify.append(key)
            elif primary is not None:
                raise SigningKeyError(f"{source} has two primary keys")
            else:
                primary = key
        if primary is None and not verify:
            raise SigningKeyError(f"{source} has no key", hint=HINT)
        return cls(primary, verify=verify, revoked=revoked, digest=digest)

    @override
    def __repr__(self) -> str:
        primary = self._primary.id if self._primary is not None else None
        verify = tuple(name for name in self._keys if name != primary)
        return (
            f"KeyRing(primary={primary!r}, verify={verify}, "
            f"revoked={tuple(sorted(self._revoked))}, digest={self._digest!r})"
        )

    @override
    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError("a KeyRing can't be pickled; pass where its keys are kept")


def check_ring(function: str, ring: object) -> None:
    """Refuses what is no key ring, before anything else is done with it.

    Raises:
        TypeError: It is something else, such as the secret itself.
    """
    if not isinstance(ring, KeyRing):
        raise TypeError(
            f"{function}(key=...) must be a KeyRing, got {type(ring).__name__}"
        )


Key.__module__ = KeyRing.__module__ = "safejax"
