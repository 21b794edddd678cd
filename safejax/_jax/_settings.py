"""How JAX is set up in this process, for whoever reports on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax._src import profiler

_MISSING = object()


def settings(names: Sequence[str]) -> dict[str, Any]:
    """JAX's settings by name, without those that this JAX does not have.

    Some are no attributes of ``jax.config``, such as ``jax_dump_ir_to``.
    """
    values = getattr(jax.config, "values", {})
    return {name: values[name] for name in names if name in values}


def profiler_listens() -> bool | None:
    """Whether the profiler's server runs; ``None`` where JAX keeps it elsewhere."""
    server = getattr(profiler, "_profiler_server", _MISSING)
    return None if server is _MISSING else server is not None
