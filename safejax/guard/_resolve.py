"""From the dotted paths of the table to the functions that are loaded."""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any, Final


class _Absent:
    """Stands for what is not there."""


ABSENT: Final = _Absent()


def loaded(path: str) -> Any:
    """What a path names, ``ABSENT``, or ``None`` while its module is not loaded.

    Nothing is imported, and no code of what lies on the path is run.
    """
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is None:
            continue
        found: Any = module
        for depth, part in enumerate(parts[length:], start=length + 1):
            found = inspect.getattr_static(found, part, ABSENT)
            if found is ABSENT:
                is_module_to_come = depth < len(parts) and part[:1].islower()
                return None if is_module_to_come else ABSENT
        return found
    return None


def functions_of(value: Any) -> list[types.FunctionType]:
    """The functions of Python that run when a value is called; may be none."""
    if isinstance(value, staticmethod | classmethod):
        return functions_of(value.__func__)
    if isinstance(value, property):
        return functions_of(value.fget)
    if isinstance(value, functools.partial) and not hasattr(value, "__wrapped__"):
        return functions_of(value.func)
    if isinstance(value, type):
        makers = (vars(value).get(name) for name in ("__init__", "__new__"))
        return [one for maker in makers for one in functions_of(maker)][:1]
    inner = inspect.unwrap(value) if callable(value) else value
    if inner is not value and not isinstance(inner, types.FunctionType):
        return functions_of(inner)
    return [inner] if isinstance(inner, types.FunctionType) else []


def copies_of(functions: list[types.FunctionType]) -> Iterator[tuple[int, Any]]:
    """Other functions with the same code, or with a copy of it.

    Somebody may have made them before there was a guard (T13). One pass over all
    functions of the process: 30 ms.

    Yields:
        The number of the original in ``functions``, and the copy.
    """
    originals = {
        (function.__code__.co_firstlineno, function.__code__.co_code): i
        for i, function in enumerate(functions)
    }
    lines = {line for line, _ in originals}
    known = {id(function) for function in functions}
    for value in gc.get_objects():
        if type(value) is not types.FunctionType or id(value) in known:
            continue
        code = value.__code__
        if code.co_firstlineno in lines:
            found = originals.get((code.co_firstlineno, code.co_code))
            if found is not None and _is_same(code, functions[found].__code__):
                yield found, value


def _is_same(code: types.CodeType, original: types.CodeType) -> bool:
    return code is original or (
        code.co_names == original.co_names and code.co_consts == original.co_consts
    )
