"""Whether the JAX that is installed still has what this package relies on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import (
    compilation_cache,
    compiler,
    config,
    core,
    distributed,
    source_info_util,
    stages,
    xla_bridge,
)
from jax._src.lib import _jax, jax_jit  # type: ignore[attr-defined]

from safejax._jax._dispatch import array_aval, jitted
from safejax._jax._inspect import is_own_primitive
from safejax._jax._transfer import has_transfer
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
_BACKEND_PARAMETERS = (
    "backend", "module", "executable_devices", "options", "host_callbacks"
)  # fmt: skip
_KEY_PARAMETERS = ("module", "devices", "compile_options", "backend")


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
    yield "compile_or_get_cached", _parameters(hook)[:2] == _COMPILE_PARAMETERS
    compiles = getattr(compiler, "backend_compile_and_load", None)
    yield "backend_compile_and_load", _parameters(compiles) == _BACKEND_PARAMETERS
    yield "parse_arguments", hasattr(jax_jit, "parse_arguments")
    yield "shaped_abstractify", hasattr(core, "shaped_abstractify")
    yield "trace_context", hasattr(config, "trace_context")
    yield "make_user_context", hasattr(jax, "make_user_context")
    yield "UserConfig", hasattr(getattr(config, "config_ext", None), "unset")
    yield "distributed.global_state", hasattr(distributed.global_state, "client")
    backends = getattr(xla_bridge, "_backends", None)
    yield "xla_bridge._backends", isinstance(backends, dict)
    yield "live_executables", hasattr(_jax.Client, "live_executables")
    yield from _cache_checks()
    yield "batched_device_put", has_transfer()
    yield from _review_checks()


def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters) if function else ()


def _cache_checks() -> Iterator[tuple[str, bool]]:
    asked = getattr(compiler, "compilation_cache", None)
    yield "compiler.compilation_cache", asked is compilation_cache
    for name, parameters in (
        ("is_cache_used", ("backend",)),
        ("is_persistent_cache_enabled", ()),
    ):
        yield name, _parameters(getattr(compilation_cache, name, None)) == parameters
    make_key = getattr(compilation_cache, "get_cache_key", None)
    yield "get_cache_key", _parameters(make_key)[:4] == _KEY_PARAMETERS
    loads = getattr(_jax.Client, "deserialize_executable", None)
    yield "deserialize_executable", callable(loads)
    yield "serialize", callable(getattr(_jax.LoadedExecutable, "serialize", None))


def _review_checks() -> Iterator[tuple[str, bool]]:
    for kind, fields in (
        (core.Jaxpr, "constvars invars outvars eqns effects debug_info"),
        (core.JaxprEqn, "primitive params invars outvars effects source_info"),
        (core.Literal, "val aval"),
        (stages.Traced, "jaxpr lojax _params _meta_tys_flat"),
    ):
        yield kind.__name__, all(hasattr(kind, name) for name in fields.split())
    yield "user_frame", callable(getattr(source_info_util, "user_frame", None))
    yield "Primitive", is_own_primitive(jax.lax.add_p)
