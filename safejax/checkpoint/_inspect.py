"""What a checkpoint says of itself, verified or, plainly said, not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safejax._files import open_to_read, read_small
from safejax.checkpoint._leaves import Leaf
from safejax.checkpoint._manifest import Content, read_content
from safejax.checkpoint._root import (
    ROOT_NAME,
    is_folder_checkpoint,
    parse_root,
)
from safejax.checkpoint._verify import verify_path
from safejax.keys import KeyRing
from safejax.limits import LoadLimits
from safejax.signing._header import parse_header
from safejax.signing._seal import header_of, key_of, read_unverified

# Enough for tables; what nobody has verified gets little room.
_UNVERIFIED = LoadLimits(max_header_bytes=16 << 20, max_leaves=100_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a checkpoint says of itself.

    Attributes:
        verified: Whether its signature was checked. If not, nothing here can be relied
            on.
        key_id: The key that signed it, or is said to have.
        content: Where it comes from, and its tree.
    """

    verified: bool
    key_id: str
    content: Content

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """What each leaf is, by its name."""
        return self.content.leaves

    def as_json(self) -> dict[str, Any]:
        """Plain data, for machines."""
        origin = self.content.origin
        return {
            "verified": self.verified,
            "key": self.key_id,
            "context": origin.context,
            "step": origin.step,
            "run_id": origin.run_id,
            "created_ms": origin.created,
            "metadata": origin.metadata,
            "leaves": {
                name: {
                    "kind": self.leaves[name].kind,
                    "dtype": self.leaves[name].dtype,
                    "shape": list(self.leaves[name].shape),
                    "bytes": self.leaves[name].stored,
                }
                for name in self.content.names
            },
        }


def inspect_path(
    path: Path, ring: KeyRing | None, limits: LoadLimits | None = None
) -> Inspection:
    """Reads a checkpoint's header; checks its signature where there is a ring.

    Raises:
        SignatureError: It does not verify.
        FormatError: It is no signed checkpoint, or not one that the limits admit.
        StorageError: It can't be read.
    """
    within = limits or _UNVERIFIED
    raw, blob = _raw(path, within)
    if ring is not None:
        content = verify_path(path, ring, within, data=False)
    elif blob is not None:
        header = parse_header(raw, within)
        content = parse_root(blob[len(raw) :], header.fields, within).content
    else:
        content = read_content(parse_header(raw, within), within)
    return Inspection(verified=ring is not None, key_id=key_of(raw), content=content)


def _raw(path: Path, limits: LoadLimits) -> tuple[bytes, bytes | None]:
    """The header, and all of a root file."""
    if is_folder_checkpoint(path):
        blob, _ = read_small(path / ROOT_NAME, 2 * limits.max_header_bytes)
        return header_of(blob, limits), blob
    with open_to_read(path) as (fd, known):
        return read_unverified(fd, known, limits), None
