"""Whether the JAX that is installed still has what this package relies on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compiler, config, core
from jax._src.lib import _jax, jax_jit  # type: ignore[attr-defined]

from safejax._jax._dispatch import array_aval, jitted
from safejax.errors import SafeJaxError

_PJIT_STATE = (
    "function_name",
    "fun",
    "static_argnums",
    "static_argnames",
    "global_cache_key",
    "pytree_registry",
    "shard_arg_fallback",
)
_COMPILE_PARAMETERS = ("backend", "computation")


@functools.cache
def check() -> None:
    """Refuses to work on a JAX that has changed what this module relies on.

    Raises:
        SafeJaxError: ``SJ001``, with the name of what has changed.
    """
    missing = [name for name, holds in _self_checks() if not holds]
    if missing:
        raise SafeJaxError(
            f"safejax does not support JAX {jax.__version__}: "
            f"{', '.join(missing)} changed",
            code="SJ001",
            hint="install a JAX release that the documentation lists",
        )


def _self_checks() -> Iterator[tuple[str, bool]]:
    probe: Any = jitted(lambda: None, {})
    state = probe.__getstate__()
    yield "PjitFunction.__getstate__", all(name in state for name in _PJIT_STATE)
    yield "PjitFunction._cache_miss", callable(getattr(probe, "_cache_miss", None))
    yield "ArrayImpl.aval", callable(array_aval)
    yield "PjitFunctionCache", hasattr(_jax, "PjitFunctionCache")
    hook = getattr(compiler, "compile_or_get_cached", None)
    parameters = tuple(inspect.signature(hook).parameters) if hook else ()
    yield "compile_or_get_cached", parameters[:2] == _COMPILE_PARAMETERS
    compiles = getattr(compiler, "backend_compile_and_load", None)
    yield "backend_compile_and_load", callable(compiles)
    yield "parse_arguments", hasattr(jax_jit, "parse_arguments")
    yield "shaped_abstractify", hasattr(core, "shaped_abstractify")
    yield "trace_context", hasattr(config, "trace_context")
    yield "live_executables", hasattr(_jax.Client, "live_executables")
