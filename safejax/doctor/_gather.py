"""Gathering what the checks decide on: the only part that looks at the world."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from safejax import _jax
from safejax.compile._deadline import Deadline
from safejax.compile._job import WorkerConfig
from safejax.compile._pool import Pool, available
from safejax.compile._protocol import unconfined
from safejax.doctor._folder import look_at
from safejax.doctor._records import SETTINGS, Facts
from safejax.doctor._scan import scan
from safejax.errors import SafeJaxError

_PROJECTS = ("safejax", "jax", "jaxlib", "numpy")
_PATTERN = Path("/proc/sys/kernel/core_pattern")
_WORKER_TIMEOUT_S = 60.0
_LOOK_S = 0.02


def gather(paths: Sequence[Path] = ()) -> Facts:
    """Looks at this process, starts a worker, and looks through the folders."""
    settings = _jax.settings(SETTINGS)
    is_cached = settings.get("jax_enable_compilation_cache", True)
    has_store = _jax.installed_store() is not None
    # While ours is open, JAX's is neither read nor written.
    is_read = is_cached and not has_store
    cache = settings.get("jax_compilation_cache_dir") if is_read else None
    changed = _changed()
    lacking, worker_error = ((), "") if changed else _tried_worker()
    return Facts(
        optimized=sys.flags.optimize > 0,
        versions={name: _version(name) for name in _PROJECTS},
        changed=changed,
        lacking=lacking,
        worker_error=worker_error,
        settings=settings,
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        cache=look_at(str(cache)) if cache else None,
        has_store=has_store,
        profiler=_jax.profiler_listens(),
        dumps_core=_dumps_core(),
        has_key=bool(os.environ.get("SAFEJAX_KEY")),
        scan=scan(paths) if paths else None,
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _changed() -> str:
    try:
        _jax.check()
    except SafeJaxError as error:
        return error.message
    return ""


def _tried_worker() -> tuple[tuple[str, ...] | None, str]:
    """Starts a worker, which says what it could not do; it compiles nothing."""
    if not available():
        return None, f"{platform.system()} has no compile workers"
    pool = Pool(jaxlib_version=_jax.jaxlib_version, size=1)
    deadline = Deadline(_WORKER_TIMEOUT_S)
    with contextlib.closing(pool):
        pool.warm(WorkerConfig())
        while not deadline.passed():
            status = pool.status()
            if status["confinement"] is not None:
                return tuple(unconfined(status["confinement"])), ""
            if status["failed_starts"]:
                return None, "a worker could not be started"
            time.sleep(_LOOK_S)
    return None, f"no worker was ready after {_WORKER_TIMEOUT_S:g} s"


def _dumps_core() -> bool:
    pattern = _core_pattern()
    # A pattern that is a pipe is served whatever the limit says.
    limited = resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    return pattern.startswith("|") if limited else bool(pattern)


def _core_pattern() -> str:
    try:
        return _PATTERN.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "core"  # not on Linux
