"""T25: a file that attacks its reader runs nothing, and asks for no memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

import safejax


@pytest.mark.parametrize("length", [2**30, 2**40, 2**64 - 1])
def test_header_that_claims_too_much(tmp_path: Path, length: int):
    path, ring = tmp_path / "model", safejax.KeyRing.generate()
    safejax.signed_save(path, {"w": 1.0}, key=ring)
    whole = path.read_bytes()
    path.write_bytes(struct.pack("<Q", length) + whole[8:])
    os.truncate(path, 2**41)

    with pytest.raises(safejax.FormatError):
        safejax.signed_load(path, key=ring)
