"""The ring that a command is given: a file, or a variable of the environment."""

from __future__ import annotations

import os

from safejax.keys import Digest, KeyRing

DEFAULT_ENV = "SAFEJAX_KEY"


def find_ring(
    key_file: str | None, key_env: str | None, digest: Digest
) -> KeyRing | None:
    """The ring, or None where none was named and ``SAFEJAX_KEY`` is not set.

    Raises:
        SigningKeyError: What was named is no key.
        StorageError: The key file can't be read.
    """
    if key_file is not None:
        return KeyRing.from_file(key_file, digest=digest)
    if key_env is not None or os.environ.get(DEFAULT_ENV):
        return KeyRing.from_env(key_env or DEFAULT_ENV, digest=digest)
    return None


def need_ring(key_file: str | None, key_env: str | None, digest: Digest) -> KeyRing:
    """The ring.

    Raises:
        SigningKeyError: There is none.
        StorageError: The key file can't be read.
    """
    ring = find_ring(key_file, key_env, digest)
    return ring if ring is not None else KeyRing.from_env(DEFAULT_ENV, digest=digest)
