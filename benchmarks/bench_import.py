"""What ``import safejax`` takes beyond ``import jax``, in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks import _harness

GROUP = "import"

# On its own, so that nothing but JAX is loaded when the clock starts.
_PROGRAM = """
import time
start = time.perf_counter()
import jax
middle = time.perf_counter()
import safejax
end = time.perf_counter()
safejax.safe_jit
used = time.perf_counter()
print((middle - start) * 1e3, (end - middle) * 1e3, (used - end) * 1e3)
"""


def measure(effort: _harness.Effort) -> list[_harness.Row]:
    """All rows of this benchmark."""
    _import_ms()  # writes the bytecode, as an installation does
    pairs = [_import_ms() for _ in range(7 if effort.quick else 15)]
    theirs, ours, first = zip(*pairs, strict=True)
    return [
        _harness.Row(
            group=GROUP,
            name="import safejax beyond import jax",
            unit="ms",
            samples=ours,
            limit=_harness.Limit(40.0),
            note=f"import jax takes {sorted(theirs)[len(theirs) // 2]:.0f} ms",
        ),
        _harness.Row(
            group=GROUP,
            name="loading safe_jit, when it is first asked for",
            unit="ms",
            samples=first,
        ),
    ]


def _import_ms() -> tuple[float, float, float]:
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(  # noqa: S603  our own interpreter, our own program
        [sys.executable, "-c", _PROGRAM],
        cwd=_harness.ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs, ours, first = map(float, done.stdout.split())
    return theirs, ours, first
