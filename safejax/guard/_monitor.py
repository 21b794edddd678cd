"""Sees functions start through ``sys.monitoring``, from Python 3.12 on.

Local events, on the code objects of the watched functions alone: no alias avoids them,
and code that is not watched runs as before.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from sys import _getframe
from typing import Any, Protocol

from safejax.errors import SafeJaxError

# Absent in Python 3.11, where nobody uses this module.
_monitoring: Any = getattr(sys, "monitoring", None)

NAME = "safejax.guard"
# 3 and 4 are nobody's; debuggers, coverage and profilers have their own.
_TOOL_IDS = (4, 3, 5)


class Call(Protocol):
    """One call of a watched function."""

    @property
    def caller(self) -> types.FrameType | None:
        """The frame that called it."""

    @property
    def frame(self) -> types.FrameType:
        """Its own frame."""

    def arguments(self) -> dict[str, Any]:
        """Its arguments by name."""


class _Started:
    """A function that has just started, its arguments bound."""

    __slots__ = ("_frame",)

    def __init__(self, frame: types.FrameType) -> None:
        self._frame = frame

    @property
    def caller(self) -> types.FrameType | None:
        return self._frame.f_back

    @property
    def frame(self) -> types.FrameType:
        return self._frame

    def arguments(self) -> dict[str, Any]:
        return dict(self._frame.f_locals)


OnStart = Callable[[Call], None]
OnEnd = Callable[[Call], None]


class Monitor:
    """Calls back when a watched function starts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tool: int | None = None
        # Compared by identity: is it still we who are called back?
        self._start, self._return = self._on_start, self._on_return
        self._watched: dict[int, tuple[types.CodeType, OnStart, OnEnd | None]] = {}

    def watch(
        self, function: types.FunctionType, on_start: OnStart, on_end: OnEnd | None
    ) -> None:
        """From now on calls ``on_start`` in the caller's thread; it may raise."""
        code = function.__code__
        with self._lock:
            tool = self._claimed()
            self._watched[id(code)] = (code, on_start, on_end)
            _monitoring.set_local_events(tool, code, self._events(on_end))

    def is_intact(self) -> bool:
        """Whether nobody has switched us off."""
        tool = self._tool
        if tool is None:
            return True
        monitoring = _monitoring
        if monitoring.get_tool(tool) != NAME or not self._calls_back(tool):
            return False
        get = monitoring.get_local_events
        starts = monitoring.events.PY_START
        return all(get(tool, code) & starts for code, _, _ in self._watched.values())

    def _calls_back(self, tool: int) -> bool:
        """Whether our callbacks were in place; they are, from here on."""
        register, events = _monitoring.register_callback, _monitoring.events
        before = (
            register(tool, events.PY_START, self._start),
            register(tool, events.PY_RETURN, self._return),
        )
        return before == (self._start, self._return)

    def restore(self) -> None:
        """Puts everything in its place again."""
        with self._lock:
            tool = self._claimed()
            for code, _, on_end in self._watched.values():
                _monitoring.set_local_events(tool, code, self._events(on_end))

    def _events(self, on_end: OnEnd | None) -> int:
        events = _monitoring.events
        return int(events.PY_START | (events.PY_RETURN if on_end is not None else 0))

    def _claimed(self) -> int:
        monitoring = _monitoring
        if self._tool is not None and monitoring.get_tool(self._tool) == NAME:
            return self._tool
        for tool in _TOOL_IDS:
            if monitoring.get_tool(tool) is None:
                monitoring.use_tool_id(tool, NAME)
                break
        else:
            raise SafeJaxError(
                "safejax.guard() has no id of sys.monitoring left: others hold "
                f"{', '.join(str(monitoring.get_tool(tool)) for tool in _TOOL_IDS)}",
                hint="switch one of these tools off",
            )
        events = monitoring.events
        monitoring.register_callback(tool, events.PY_START, self._start)
        monitoring.register_callback(tool, events.PY_RETURN, self._return)
        self._tool = tool
        return tool

    def _on_start(self, code: types.CodeType, _: int) -> None:
        watched = self._watched.get(id(code))
        if watched is not None:
            watched[1](_Started(_getframe(1)))

    def _on_return(self, code: types.CodeType, _: int, __: object) -> None:
        watched = self._watched.get(id(code))
        if watched is not None and watched[2] is not None:
            watched[2](_Started(_getframe(1)))
