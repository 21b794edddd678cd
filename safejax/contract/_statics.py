"""Static arguments: what may become part of a program's identity.

JAX keeps static values alive with the program (JAX issue 16226) and makes a new program
for each that compares unequal; a NaN does so on every call (T6).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from safejax.contract._check import Fault
from safejax.contract._contract import Contract


def faults(
    contract: Contract, arguments: Mapping[str, Any], max_static_bytes: int
) -> list[Fault]:
    """The violations among the static arguments of one call."""
    found = []
    for name in contract.signature.parameters:
        if name in contract.statics and name in arguments:
            words = _refused(contract, name, arguments[name], max_static_bytes)
            if words is not None:
                found.append(Fault(name, (), None, "static", words))
    return found


def _refused(
    contract: Contract, name: str, value: Any, max_static_bytes: int
) -> tuple[str, str] | None:
    kind = type(value).__name__
    try:
        hash(value)
        different = _holds_nan(value)
    except Exception:  # noqa: BLE001  the caller's own __hash__ or __eq__ may raise
        return "a hashable value", f"a {kind} that is not"
    if different:
        return "a value equal to itself", f"a {kind} with a NaN"
    size = bytes_of(value, max_static_bytes)
    if size > max_static_bytes:
        return f"at most {max_static_bytes} bytes", f"a {kind} of more"
    spec = contract.trees.get(name)
    if spec is None or spec.one_of is None:
        return None
    if any(value == one and type(value) is type(one) for one in spec.one_of):
        return None
    return f"one of {len(spec.one_of)} values", f"another {kind}"


def _holds_nan(value: Any) -> bool:
    # A container equals itself even where a part does not: Python compares identity
    # first.
    if isinstance(value, (tuple, frozenset)):
        return any(map(_holds_nan, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return any(
            _holds_nan(getattr(value, f.name, None)) for f in fields if f.compare
        )
    return bool(value != value)  # noqa: PLR0124


def bytes_of(value: Any, limit: int) -> int:
    """The size of a static value in bytes; stops counting beyond ``limit``."""
    total, todo = 0, [value]
    while todo and total <= limit:
        part = todo.pop()
        total += sys.getsizeof(part, 64)
        if isinstance(part, (tuple, frozenset)):
            todo += part
    return total
