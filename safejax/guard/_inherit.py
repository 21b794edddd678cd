"""Scopes go where work goes: into threads, executors and the steps of event loops."""

from __future__ import annotations

import contextvars
import functools
import types
from collections.abc import Callable
from typing import Any

from safejax.guard import _audit, _callers, _state
from safejax.guard._monitor import Call, OnEnd, OnStart
from safejax.guard._row import Row


def _run_in(stack: _state.Stack, run: Callable[..., Any], /, *args: Any) -> Any:
    scope = _state.enter(*stack)
    try:
        return run(*args)
    finally:
        _state.leave(scope)


def hand_over(row: Row, call: Call) -> None:
    """Makes a thread that is about to start run in the scopes that are open here."""
    if _is_pool(call.caller):
        return  # its work items bring their scopes with them
    wanted = _callers.wanted_by(call.caller, row.names, (), _audit.never)
    if wanted.frame is None:
        return
    thread = call.arguments().get("self")
    if thread is not None:
        thread.run = functools.partial(_run_in, _state.active(), thread.run)


def _is_pool(frame: types.FrameType | None) -> bool:
    return frame is not None and (
        frame.f_globals.get("__name__") == "concurrent.futures.thread"
    )


def _on_work_item(call: Call) -> None:
    """An executor's thread may be older than the scope, and outlives it."""
    stack = _state.active()
    item = call.arguments().get("self")
    if not stack or item is None:
        return
    if hasattr(item, "fn"):
        item.fn = functools.partial(_call_in, stack, item.fn)
    elif hasattr(item, "task"):  # Python 3.14
        function, *rest = item.task
        item.task = (functools.partial(_call_in, stack, function), *rest)


def _call_in(
    stack: _state.Stack, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    return _run_in(stack, functools.partial(function, *args, **kwargs))


def _on_step(call: Call) -> None:
    """A step of an event loop begins: a task's, or a callback's."""
    handle = call.arguments().get("self")
    context = getattr(handle, "_context", None)
    if isinstance(context, contextvars.Context):
        _state.begin_step(context, call.frame)


def _on_step_end(_: Call) -> None:
    _state.end_step()


HOOKS: tuple[tuple[str, OnStart | None, OnEnd | None], ...] = (
    ("concurrent.futures.thread._WorkItem.__init__", None, _on_work_item),
    ("asyncio.events.Handle._run", _on_step, _on_step_end),
)
