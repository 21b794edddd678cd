"""Signed files: what is verified, and that it is before it is parsed.

Needs no JAX and no NumPy; how to use it without them is in docs/metadata.md.
"""

from safejax.keys import Key as Key
from safejax.keys import KeyRing as KeyRing
from safejax.signing._verify import SignedFile as SignedFile
from safejax.signing._verify import verify_file as verify_file

__all__ = ["Key", "KeyRing", "SignedFile", "verify_file"]
