"""Sees functions start on Python 3.11, which has no ``sys.monitoring``.

The code of a watched function is replaced by code that tells us and then runs the
original. Whoever holds the function holds the same object, so no alias avoids it.
"""

from __future__ import annotations

import inspect
import threading
import types
from sys import _getframe
from typing import Any

from safejax.guard import _callers
from safejax.guard._monitor import OnEnd, OnStart

_PLACEHOLDER = "safejax puts a _Told here"


def _template(*args: Any, **kwargs: Any) -> Any:
    return "safejax puts a _Told here".format(*args, **kwargs)


class _Called:
    """A call of a function, its arguments not bound yet."""

    __slots__ = ("_args", "_frame", "_function", "_kwargs")

    def __init__(
        self,
        frame: types.FrameType,
        function: types.FunctionType,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._frame = frame
        self._function = function
        self._args = args
        self._kwargs = kwargs

    @property
    def caller(self) -> types.FrameType | None:
        return self._frame.f_back

    @property
    def frame(self) -> types.FrameType:
        return self._frame

    def arguments(self) -> dict[str, Any]:
        signature = inspect.signature(self._function)
        try:
            bound = signature.bind(*self._args, **self._kwargs)
        except TypeError:  # the call itself says so best
            return {}
        bound.apply_defaults()
        return dict(bound.arguments)


class Replacement:
    """Calls back when a watched function starts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[types.FunctionType, types.CodeType]] = {}

    def watch(
        self, function: types.FunctionType, on_start: OnStart, on_end: OnEnd | None
    ) -> None:
        """From now on calls ``on_start`` in the caller's thread; it may raise."""
        with self._lock:
            if id(function) in self._watched:
                return
            code = _telling(function, on_start, on_end)
            self._watched[id(function)] = (function, code)
            _callers.stand_ins.add(id(code))
            function.__code__ = code

    def is_intact(self) -> bool:
        """Whether nobody has switched us off."""
        return all(f.__code__ is code for f, code in self._watched.values())

    def restore(self) -> None:
        """Puts everything in its place again."""
        with self._lock:
            for function, code in self._watched.values():
                function.__code__ = code


def _telling(
    function: types.FunctionType, on_start: OnStart, on_end: OnEnd | None
) -> types.CodeType:
    original = function.__code__
    copy = types.FunctionType(
        original,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    if not hasattr(function, "__signature__"):
        # What inspect reads from the code must not change.
        function.__signature__ = inspect.signature(copy)  # type: ignore[attr-defined]
    told = _Told(copy, on_start, on_end)
    template = _template.__code__
    return template.replace(
        co_consts=tuple(
            told if constant == _PLACEHOLDER else constant
            for constant in template.co_consts
        ),
        co_filename=original.co_filename,
        co_firstlineno=original.co_firstlineno,
        co_freevars=original.co_freevars,
        co_name=original.co_name,
        co_qualname=original.co_qualname,
    )


class _Told:
    """Runs a function after telling; stands where the template has a constant."""

    __slots__ = ("_function", "_on_end", "_on_start")

    def __init__(
        self, function: types.FunctionType, on_start: OnStart, on_end: OnEnd | None
    ) -> None:
        self._function = function
        self._on_start = on_start
        self._on_end = on_end

    def format(self, *args: Any, **kwargs: Any) -> Any:
        """What the template calls."""
        call = _Called(_getframe(1), self._function, args, kwargs)
        self._on_start(call)
        if self._on_end is None:
            return self._function(*args, **kwargs)
        try:
            return self._function(*args, **kwargs)
        finally:
            self._on_end(call)
