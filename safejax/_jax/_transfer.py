"""Host memory becomes an array of JAX."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax._src import core
from jax._src.lib import xla_client  # type: ignore[attr-defined]

_aval = functools.lru_cache(maxsize=4096)(core.ShapedArray)
_put: Any = getattr(xla_client, "batched_device_put", None)


def has_transfer() -> bool:
    """Whether JAX still has the call that :func:`from_host` relies on."""
    return callable(_put)


def from_host(view: Any, like: Any) -> Any:
    """A host array as an array of JAX, where ``like`` is and as committed as it.

    ``jax.device_put`` looks at trees, shardings and layouts first, and takes ten times
    as long. What is spread over devices comes back on the default one.
    """
    sharding = like.sharding
    devices = sharding.device_set
    if len(devices) != 1:
        return jax.device_put(view)
    aval = _aval(view.shape, view.dtype)
    return _put(aval, sharding, [view], list(devices), like.committed)
