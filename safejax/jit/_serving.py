"""What stands between a gate and the programs behind it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from safejax.compile._ledger import Ledger
from safejax.compile._room import Room
from safejax.contract import _values
from safejax.contract._contract import Contract
from safejax.jit import _evict
from safejax.jit._plain import plain_jit
from safejax.jit._settings import Settings
from safejax.limits import Limits

Statics = tuple[tuple[int, ...], tuple[str, ...]]


def jitted(
    fun: Callable[..., Any], settings: Settings, options: dict[str, Any]
) -> tuple[Any, Ledger]:
    """The function with the programs it may own, and the ledger that counts them."""
    if settings.limits.on_limit == "raise":
        return plain_jit(fun, settings, options)
    slots = _evict.Slots(fun, settings, options)
    return slots, slots.ledger


def with_room(
    call: Any,
    ledger: Ledger,
    limits: Limits,
    statics: Statics,
) -> Any:
    """The same, refusing calls that would not fit into what memory is left."""
    limit = limits.max_process_memory_bytes
    if limit is None:
        return call
    return Room(ledger.name, limit, ledger.needs, statics).wrap(call)


def sanitised(fun: Any, contract: Contract) -> Any:
    """The function with its ``"clip"`` leaves made to hold, inside the program."""
    clips = contract.clips
    if not clips:
        return fun

    def sanitised(*args: Any, **kwargs: Any) -> Any:
        bound = contract.signature.bind(*args, **kwargs)
        for name, tree in clips.items():
            if name in bound.arguments:
                bound.arguments[name] = _values.clipped(tree, bound.arguments[name])
        return fun(*bound.args, **bound.kwargs)

    return functools.update_wrapper(sanitised, fun)
