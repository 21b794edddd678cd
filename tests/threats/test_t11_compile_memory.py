"""T11: what XLA needs to compile comes out of a plain process's own memory."""

from __future__ import annotations

import pytest
from compiling import SQUARE, WAIT_S, python, unrolled

from safejax import CompileMemoryError, Limits, safe_jit

# What is resident now: the peak of a child starts at that of its parent.
PLAIN = """
import pathlib, resource, jax
from compiling import SQUARE, unrolled

def resident():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()

lowered = jax.jit(unrolled(200)).lower(SQUARE)
before = resident()
compiled = lowered.compile()
print(resident() - before)
"""


def test_plain_jax_grows_with_what_it_compiles():
    out, err = python(PLAIN).communicate(timeout=WAIT_S)
    assert int(out) > 4 << 20, err


def test_a_limit_ends_the_compilation():
    limits = Limits(compile_memory_bytes=4 << 20, compile_timeout_s=120.0)
    with pytest.raises(CompileMemoryError):
        safe_jit(unrolled(300), limits=limits)(SQUARE)
