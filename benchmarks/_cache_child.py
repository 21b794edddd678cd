"""A process that needs 20 programs, with one of two compile caches.

``python -m benchmarks._cache_child ours|jax DIR``; prints as JSON what it found, the
seconds of each part, and those of the processor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

_START = time.perf_counter()

import jax  # noqa: E402  the clock starts before it
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

_IMPORTED = time.perf_counter()

PROGRAMS = 20
_KEY = bytes(range(32))


def main() -> None:
    side, folder = sys.argv[1:]
    marks = {"import_jax": _IMPORTED - _START}
    start = time.perf_counter()
    hits = _open(side, folder)
    marks["open"] = time.perf_counter() - start
    start = time.perf_counter()
    answers = [float(answer) for answer in _answers()]
    marks["programs"] = time.perf_counter() - start
    marks["cpu"] = time.process_time()
    print(json.dumps({"answers": answers, "hits": hits(), "seconds": marks}))


def _open(side: str, folder: str):
    """Opens the cache; a function that tells how many programs it has given."""
    if side == "ours":
        import safejax  # noqa: PLC0415  is part of what it costs

        ring = safejax.KeyRing(safejax.Key(_KEY, id="bench"))
        cache = safejax.compile_cache(folder, key=ring)
        return lambda: cache.stats().hits
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    seen = []
    jax.monitoring.register_event_listener(lambda name, **_: seen.append(name))
    return lambda: seen.count("/jax/compilation_cache/cache_hits")


def _loss(w, x):
    return (jax.nn.softmax(jnp.tanh(x @ w)) * jnp.sort(x)).sum()


def _step(w, x):
    return jax.grad(_loss)(w, x).sum() + x[0, 0]


def _answers() -> Iterator[jax.Array]:
    """The results of 20 programs, one for each width of a layer."""
    step = jax.jit(_step)
    for i in range(PROGRAMS):
        width = 16 + 8 * i
        rng = np.random.default_rng(i)
        w = rng.standard_normal((width, width), np.float32)
        yield step(w, rng.standard_normal((8, width), np.float32))


if __name__ == "__main__":
    main()
