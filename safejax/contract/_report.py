"""Violations in words, and only when somebody reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from safejax.contract._check import Fault, Kind, Sizes
from safejax.contract._contract import Path
from safejax.contract._spec import ANONYMOUS, Spec
from safejax.errors import ContractError, Violation

_MAX_KEYS = 8


def refusal(function: str, faults: Sequence[Fault], sizes: Sizes) -> ContractError:
    """The error for one refused call. Rendering waits until the text is asked for."""

    def violations() -> list[Violation]:
        return [_violation(fault, sizes) for fault in faults]

    return ContractError(
        lambda: _message(function, violations()),
        code="SJ101",
        details={"function": function},
        hint=lambda: _hint(faults),
        violations=violations,
    )


def _message(function: str, violations: Sequence[Violation]) -> str:
    count = len(violations)
    lines = [f"{function}() refused: {count} violation{'s' if count > 1 else ''}"]
    left = max(len(v.path) for v in violations)
    middle = max(len(v.rule) for v in violations)
    for v in violations:
        head = f"  {v.path:<{left}}  {v.rule:<{middle}}  "
        verb = "found" if v.rule == "value" else "got"
        lines.append(f"{head}expected {v.expected}, {verb} {v.got}")
        if v.note:
            lines.append(" " * len(head) + v.note)
    return "\n".join(lines)


def name_of(parameter: str, path: Path) -> str:
    """Where a leaf is, as in ``params['layer']['w']``."""
    return parameter + jax.tree_util.keystr(path)


def _violation(fault: Fault, sizes: Sizes) -> Violation:
    expected, got, note = _WORDS[fault.rule](fault, sizes)
    path = name_of(fault.parameter, fault.path)
    return Violation(path, fault.rule, expected, got, note)


Words = tuple[str, str, str]


def _shape(fault: Fault, sizes: Sizes) -> Words:
    spec = fault.spec or Spec()
    names = sorted({n for axis in spec.axes or () for n in getattr(axis, "names", ())})
    bound = [n for n in names if n in sizes.values]
    with_sizes = ", ".join(f"{n}={sizes.values[n]}" for n in bound)
    expected = shape_text(spec) + (f" with {with_sizes}" if bound else "")
    origins = [
        f"{n}={sizes.values[n]} comes from {name_of(parameter, path)}, axis {axis}"
        for n in bound
        for parameter, path, axis in [sizes.origins[n]]
        if (parameter, path) != (fault.parameter, fault.path)
    ]
    group = sizes.groups.get(spec.variadic_name or "")
    if group is not None and group[1:] != (fault.parameter, fault.path):
        origin = name_of(group[1], group[2])
        origins.append(
            f"*{spec.variadic_name}={tuple_text(group[0])} comes from {origin}"
        )
    return expected, tuple_text(fault.got), "; ".join(origins)


def shape_text(spec: Spec) -> str:
    """The axes of a spec as a tuple, as in ``(b, 64)``."""
    axes = ["_" if axis is ANONYMOUS else str(axis) for axis in spec.axes or ()]
    if spec.variadic is not None:
        name = f"*{spec.variadic_name}" if spec.variadic_name else "..."
        axes.insert(spec.variadic, name)
    return tuple_text(axes)


def tuple_text(items: Sequence[Any]) -> str:
    """A tuple without quotes around its items."""
    return f"({', '.join(map(str, items))}{',' if len(items) == 1 else ''})"


def _dtype(fault: Fault, _: Sizes) -> Words:
    kind: Kind = fault.got
    wanted = " or ".join(str(d) for d in (fault.spec or Spec()).dtypes or ())
    remark = ""
    if kind.source != "JAX":
        remark = f" ({kind.source}"
        narrowed = jax.dtypes.canonicalize_dtype(kind.dtype) if _plain(kind) else None
        if kind.source == "NumPy" and narrowed not in (None, kind.dtype):
            remark += "; JAX would narrow it silently"
        remark += ")"
    return wanted, f"{kind.dtype}{remark}", ""


def _plain(kind: Kind) -> bool:
    return isinstance(kind.dtype, np.dtype) and kind.dtype.kind in "biufc"


def _weak(fault: Fault, _: Sizes) -> Words:
    words = {True: "a weak type", False: "a strong type"}
    kind: Kind = fault.got
    wanted = (fault.spec or Spec()).weak_type
    return words[bool(wanted)], words[kind.weak_type], ""


def _sharding(fault: Fault, _: Sizes) -> Words:
    got = "a host array" if fault.got is None else str(fault.got)
    return str((fault.spec or Spec()).sharding), got, ""


def _structure(fault: Fault, _: Sizes) -> Words:
    wanted_type, wanted, got_type, got = fault.got
    if wanted_type is not got_type:
        return _node(wanted_type, wanted), _node(got_type, got), ""
    known, given = set(wanted), set(got)
    missing = [k for k in wanted if k not in given]
    extra = [k for k in got if k not in known]
    parts = [
        f"{word} {_keys(keys)}"
        for word, keys in (("missing", missing), ("extra", extra))
        if keys
    ]
    return _node(wanted_type, wanted), f"one with {' and '.join(parts)}", ""


def _node(kind: type, keys: Sequence[Any]) -> str:
    if not keys:
        return f"a {kind.__name__}"
    return f"a {kind.__name__} of {_keys(keys)}"


def _keys(keys: Sequence[Any]) -> str:
    # The caller chooses how many there are; a log line stays a line.
    rest = len(keys) - _MAX_KEYS
    shown = ", ".join(map(_key, keys[:_MAX_KEYS]))
    return f"{shown} and {rest} more" if rest > 0 else shown


def _key(key: Any) -> str:
    return jax.tree_util.keystr((key,))


def _dimension(fault: Fault, sizes: Sizes) -> Words:
    constraint = fault.got
    names = sorted(constraint.names)
    found = ", ".join(f"{n}={sizes.values[n]}" for n in names)
    origins = [
        f"{n} comes from {name_of(p, path)}, axis {axis}"
        for n in names
        for p, path, axis in [sizes.origins[n]]
    ]
    return str(constraint), found, "; ".join(origins)


def _type(fault: Fault, _: Sizes) -> Words:
    return (fault.spec or Spec()).describe(), f"{fault.got}, which is no array", ""


def _value(fault: Fault, _: Sizes) -> Words:
    expected, got = fault.got
    return expected, got, ""


_WORDS: dict[str, Callable[[Fault, Sizes], Words]] = {
    "shape": _shape,
    "dtype": _dtype,
    "weak_type": _weak,
    "sharding": _sharding,
    "structure": _structure,
    "dimension": _dimension,
    "type": _type,
    "value": _value,
    "static": _value,
}


def _hint(faults: Sequence[Fault]) -> str:
    hints = []
    for fault in faults:
        if fault.rule == "dtype" and fault.got.source == "NumPy":
            wanted = (fault.spec or Spec()).dtypes or ()
            hints.append(
                f"cast with {fault.parameter}.astype(np.{wanted[0]}), "
                'or declare on_dtype="cast"'
            )
        elif fault.rule == "weak_type":
            hints.append("convert Python scalars with jnp.asarray(value, dtype)")
        elif fault.rule == "static":
            hints.append("pass a small hashable value, or make the argument an array")
    return hints[0] if hints else ""
