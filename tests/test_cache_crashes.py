"""An executable that ends the process that loads it, found by damaging one."""

from __future__ import annotations

import dataclasses
import random
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from caching import cached, entries, put, read
from compiling import WAIT_S, python

from safejax.cache import _store
from safejax.compile._service import service
from safejax.compile._trial import try_to_load

X = np.ones((16, 16), np.float32)
PLAIN = """
import sys, jax, numpy as np
jax.config.update("jax_compilation_cache_dir", FOLDER)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
f = lambda x: jax.numpy.sort(jax.numpy.sin(x @ x), axis=0) + 1
jax.jit(f).lower(np.ones((16, 16), np.float32)).compile()
print("lives")
"""


def program():
    return jax.jit(lambda x: jax.numpy.sort(jax.numpy.sin(x @ x), axis=0) + 1)


def deadly(task, executable: bytes) -> bytes:
    """Damaged so that loading it ends a process."""
    chance = random.Random(1)
    for _ in range(600):
        damaged = bytearray(executable)
        for _ in range(chance.choice([1, 4, 16])):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        if try_to_load(service.submit, task, bytes(damaged), None) == "crashes":
            return bytes(damaged)
    pytest.skip("no damage that was tried ends this version of XLA")


@pytest.mark.slow
def test_executable_that_ends_plain_jax_does_not_end_this_process(
    tmp_path: Path, monkeypatch
):
    tasks = []
    find = _store.Store.find
    monkeypatch.setattr(
        _store.Store,
        "find",
        lambda *args: (tasks.append(args[1]), find(*args))[1],
    )
    with cached(tmp_path / "ours"):
        program().lower(X).compile()
    (path,) = entries(tmp_path / "ours")
    made, executable = read(path)
    killer = deadly(tasks[0], executable)

    # JAX's own cache checks that the bytes are whole, not who wrote them.
    theirs = tmp_path / "jax"
    code = PLAIN.replace("FOLDER", repr(str(theirs)))
    process = python(code)
    assert process.communicate(timeout=WAIT_S)[0] == "lives\n"
    (entry,) = theirs.glob("*-cache")
    entry.write_bytes(zlib.compress(bytes(4) + killer))
    process = python(code)
    process.communicate(timeout=WAIT_S)
    assert process.returncode < 0

    # The same, signed with the key, as a writer with a bug would.
    put(tmp_path / "ours", dataclasses.replace(made, tried=False), killer)
    with cached(tmp_path / "ours") as cache:
        compiled = program().lower(X).compile()
        assert cache.stats().rejects == {"crashes": 1}
        assert cache.stats().hits == 0
    np.testing.assert_array_equal(compiled(X), program()(X))
