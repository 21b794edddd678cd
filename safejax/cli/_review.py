"""``safejax review``: what the program of a function would cost, not compiled."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

import safejax
from safejax.contract import _spec

_USAGE = 2
_SPEC = re.compile(r"(?P<name>\w+)(?P<path>(?:\[[^\]=]*\])*)=(?P<text>.+)", re.DOTALL)
_STEP = re.compile(r"\[([^\]]*)\]")


class _UsageError(Exception):
    """What was asked for can't be done as it was asked."""


def run(*, target: str, specs: Sequence[str], html: str | None, as_json: bool) -> int:
    """Traces a function and reports on its program.

    Args:
        target: ``module:function``.
        specs: The arguments, as in ``x=f32[8,64]`` or ``params[w]=f32[64,3]``.
        html: Where to write the page, or ``None``.
        as_json: Whether to print a JSON document instead of the table.

    Returns:
        0; 1 where something in the program is not admitted, or the function can't be
        traced; 2 where the command is used wrongly.
    """
    try:
        report = _reviewed(_found(target), _arguments(specs))
        if html is not None:
            _write(Path(html), report.to_html())
    except _UsageError as error:
        print(f"safejax review: {error}", file=sys.stderr)
        return _USAGE
    except safejax.SafeJaxError as error:
        print(f"safejax review: {error}", file=sys.stderr)
        return 1
    print(report.to_json() if as_json else report)
    return 1 if report.refused else 0


def _found(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    if not module or not name:
        raise _UsageError(f"expected module:function, got {target!r}")
    # As `python -m` does: what is in the current folder can be imported.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise _UsageError(f"no module named {error.name!r}") from None
        raise
    for part in name.split("."):
        if not hasattr(found, part):
            raise _UsageError(f"{module} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise _UsageError(f"{target} is not a function")
    function: Callable[..., Any] = found
    return function


def _reviewed(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    review = getattr(function, "review", None)
    if not callable(review):
        review = safejax.safe_jit(function).review
    try:
        return review(**arguments)
    except safejax.SafeJaxError:
        raise
    except TypeError as error:
        raise _UsageError(
            f"the function can't be traced with these specs: {error}"
        ) from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _UsageError(f"can't write {path}: {error.strerror}") from None


def _arguments(specs: Sequence[str]) -> dict[str, Any]:
    """Arguments by name; dicts where a name has steps in brackets."""
    arguments: dict[str, Any] = {}
    for text in specs:
        match = _SPEC.fullmatch(text)
        if match is None:
            raise _UsageError(f"expected a spec like 'x=f32[8,64]', got {text!r}")
        struct = _struct(text, match["text"])
        steps = [match["name"], *map(_key, _STEP.findall(match["path"]))]
        inside: Any = arguments
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if step in inside and following is None:
                raise _UsageError(f"{text!r}: given twice")
            inside = inside.setdefault(step, struct if following is None else {})
            if following is not None and not isinstance(inside, dict):
                raise _UsageError(f"{text!r}: the array before it can't hold another")
    return {name: _with_lists(value) for name, value in arguments.items()}


def _key(step: str) -> int | str:
    step = step.strip("'\"")
    return int(step) if step.isdecimal() else step


def _with_lists(value: Any) -> Any:
    """Dicts whose keys are 0, 1, 2, ... were meant as lists."""
    if not isinstance(value, dict):
        return value
    inner = {key: _with_lists(item) for key, item in value.items()}
    if set(inner) == set(range(len(inner))):
        return [inner[at] for at in range(len(inner))]
    return inner


def _struct(text: str, spec: str) -> Any:
    try:
        understood = _spec.spec(spec)
    except safejax.ContractError as error:
        raise _UsageError(f"{text!r}: {error.message}") from None
    dtypes, axes = understood.dtypes or (), understood.axes
    if len(dtypes) != 1:
        raise _UsageError(f"{text!r}: a program needs one dtype, as in 'x=f32[8,64]'")
    if axes is None or not all(isinstance(axis, int) for axis in axes):
        raise _UsageError(f"{text!r}: a program needs numbers, as in 'x=f32[8,64]'")
    if dtypes[0] is jax.dtypes.prng_key:
        dtypes = (jax.eval_shape(lambda: jax.random.key(0)).dtype,)
    struct: Any = jax.ShapeDtypeStruct
    return struct(axes, dtypes[0])
