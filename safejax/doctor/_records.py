"""What the checks are given, and what they say."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, Literal

from safejax.doctor._folder import Folder
from safejax.doctor._scan import Scan

# JAX's settings that a check asks about.
SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_debug_infs",
    "jax_debug_nans",
    "jax_disable_jit",
    "jax_dump_ir_to",
    "jax_enable_compilation_cache",
    "jax_explain_cache_misses",
    "jax_log_compiles",
)
Level = Literal["ok", "note", "warning", "problem"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """How this process stands.

    Attributes:
        python: Its version.
        optimized: Whether ``assert`` is stripped (``-O``).
        versions: Installed versions by project.
        changed: What JAX has changed that safejax relies on; empty if nothing.
        lacking: What a compile worker could do, or lacks, that a confined one could
            not; ``None`` where there are no workers.
        worker_error: Why no worker has started, or empty.
        settings: JAX's settings by name, without those that this JAX does not have.
        xla_flags: ``XLA_FLAGS``.
        cache: JAX's compile cache, or ``None``.
        has_store: Whether a signed compile cache is open in its place.
        profiler: Whether JAX's profiler server listens; ``None`` if unknown.
        dumps_core: Whether a crash writes the memory to a file.
        has_key: Whether a key is in this process's environment.
        scan: What was found in the folders that were named; ``None`` without.
    """

    python: tuple[int, ...] = tuple(sys.version_info[:3])
    optimized: bool = False
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    changed: str = ""
    lacking: tuple[str, ...] | None = ()
    worker_error: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    xla_flags: str = ""
    cache: Folder | None = None
    has_store: bool = False
    profiler: bool | None = False
    dumps_core: bool = False
    has_key: bool = False
    scan: Scan | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: The check's name.
        level: A ``"problem"`` undoes a protection or gives something away; a
            ``"warning"`` may; a ``"note"`` is for those who look closely.
        text: What was found.
        advice: What to do; empty if nothing.
        path: The file or the folder, or empty.
    """

    check: str
    level: Level
    text: str
    advice: str = ""
    path: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return dataclasses.asdict(self)
