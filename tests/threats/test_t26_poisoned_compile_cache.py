"""T26: JAX's compile cache answers with another program; the signed one does not."""

from __future__ import annotations

import json

import pytest
from compiling import WAIT_S, python

ATTACK = """
import json, tempfile, jax, safejax
from pathlib import Path

def answer(constant):
    jax.clear_caches()  # as in a process that has just started
    return float(jax.jit(lambda x: x * constant)(1.0))

def entry_of(constant, folder, pattern):
    before = set(folder.glob(pattern))
    assert answer(constant) == constant
    (entry,) = set(folder.glob(pattern)) - before
    return entry

def attacked(folder, pattern):
    victim = entry_of(3.0, folder, pattern)
    victim.write_bytes(entry_of(666.0, folder, pattern).read_bytes())
    return answer(3.0)

folder = Path(tempfile.mkdtemp())
with safejax.compile_cache(folder / "ours", key=safejax.KeyRing.generate()):
    ours = attacked(folder / "ours", "*.sjx")
jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
print(json.dumps({"ours": ours, "jax": attacked(folder / "jax", "*-cache")}))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, float]:
    process = python(ATTACK)
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    return json.loads(output)


def test_attack_works_on_jaxs_own_cache(answers: dict[str, float]):
    assert answers["jax"] == 666.0


def test_attack_is_stopped(answers: dict[str, float]):
    assert answers["ours"] == 3.0
