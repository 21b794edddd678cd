"""Which scopes are open here: in this context, this thread, this task."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import types
from asyncio.events import _get_running_loop
from typing import Any, NamedTuple

from safejax import _jax
from safejax.guard._policy import Policy

Stack = tuple[Policy, ...]

# Follows tasks and copied contexts; outermost scope first.
_context: contextvars.ContextVar[Stack] = contextvars.ContextVar(
    "safejax.guard", default=()
)


class Opened(NamedTuple):
    """A scope that was entered in this thread and not left yet.

    Attributes:
        policies: Its own, last, and those that the context had brought here.
        task: The asyncio task that entered it, or ``None``.
        before: The scopes of the context when it was entered.
        after: The same with this one.
    """

    policies: Stack
    task: Any
    before: Stack
    after: Stack


class _Step(NamedTuple):
    """A step of an event loop that is under way, and what it interrupts."""

    frame: types.FrameType | None
    opened: list[Opened]


class _Thread(threading.local):
    """The scopes that this thread has entered.

    The context variable alone could be left behind: ``contextvars.Context().run(f)``
    runs ``f`` without it, and code that finds it can set it (T13).
    """

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.steps: list[_Step] = []


_thread = _Thread()


def active() -> Stack:
    """The policies of the open scopes, outermost first; ``()`` when there are none."""
    stack = _context.get()
    if _thread.steps:
        _end_lost_steps()
    opened = _thread.opened
    if not opened or opened[-1].after is stack:
        return stack
    return (*(p for p in _entered(opened) if p not in stack), *stack)


def _entered(opened: list[Opened]) -> Stack:
    """The policies of the scopes that this task has entered in this thread."""
    if not _thread.steps and any(scope.task is not None for scope in opened):
        # A loop whose steps we do not see.
        task = _current_task()
        opened = [scope for scope in opened if scope.task in (None, task)]
    return tuple(policy for scope in opened for policy in scope.policies)


def _current_task() -> Any:
    loop = _get_running_loop()
    return None if loop is None else asyncio.current_task(loop)


# --- steps of an event loop -------------------------------------------------------


def begin_step(
    context: contextvars.Context, frame: types.FrameType | None = None
) -> None:
    """A task or a callback goes on, in the scopes of its context.

    Those that other tasks have opened in this thread stay behind; those around the
    whole loop stay open.
    """
    opened = [scope for scope in _thread.opened if scope.task is None]
    stack = context.get(_context, ())
    if stack:
        opened.append(Opened(stack, None, (), stack))
    _thread.steps.append(_Step(frame, _thread.opened))
    _thread.opened = opened
    sync_key(*stack)


def end_step() -> None:
    """It waits, or has ended."""
    if _thread.steps:
        _thread.opened = _thread.steps.pop().opened
    # The step in which the first scope was opened has no beginning.
    if not _thread.steps:
        _thread.opened = [scope for scope in _thread.opened if scope.task is None]
    sync_key()


def _end_lost_steps() -> None:
    # KeyboardInterrupt ends a step without an event.
    while _thread.steps:
        frame = _thread.steps[-1].frame
        if frame is None or frame.f_back is not None:
            break
        _thread.opened = _thread.steps.pop().opened


# --- opening and closing ----------------------------------------------------------


def enter(*policies: Policy) -> Opened:
    """Opens a scope here; of several policies, outermost first."""
    before = _context.get()
    known = _entered(_thread.opened)
    brought = tuple(policy for policy in before if policy not in known)
    after = (*active(), *policies)
    scope = Opened((*brought, *policies), _current_task(), before, after)
    _thread.opened.append(scope)
    _context.set(after)
    sync_key()
    return scope


def leave(scope: Opened, *, with_inner: bool = False) -> None:
    """Closes a scope, wherever others were opened and closed meanwhile.

    Args:
        scope: What :func:`enter` has returned.
        with_inner: Closes as well what was opened in it and left open.
    """
    opened = _thread.opened
    found = next((i for i, other in enumerate(opened) if other is scope), None)
    if found is None:
        _close_in_later_step(scope)
    elif with_inner:
        del opened[found:]
    else:
        del opened[found]
    stack = _context.get()
    if stack is scope.after or with_inner:
        _context.set(scope.before)
    else:  # scopes that overlap without nesting
        _context.set(_without(stack, scope.policies[-1]))
    sync_key()


def _close_in_later_step(scope: Opened) -> None:
    # The scopes of an earlier step are there as those of the step's context.
    opened = _thread.opened
    for i in reversed(range(len(opened))):
        if scope.policies[-1] in opened[i].policies:
            left = _without(opened[i].policies, scope.policies[-1])
            opened[i] = opened[i]._replace(policies=left)
            break


def _without(stack: Stack, policy: Policy) -> Stack:
    if policy not in stack:
        return stack
    last = len(stack) - 1 - stack[::-1].index(policy)
    return stack[:last] + stack[last + 1 :]


def is_here(scope: Opened) -> bool:
    """Whether this thread, or the task that runs in it, has entered the scope."""
    if any(opened is scope for opened in _thread.opened):
        return True
    return scope.task is not None and scope.task is _current_task()


def sync_key(*besides: Policy) -> None:
    """Tells JAX which scopes its traces are in, from now on in this thread.

    JAX keeps the value for each thread, we for each context.

    Args:
        besides: Policies that count although they are not in force.
    """
    _jax.set_scope_key(tuple(dict.fromkeys((*active(), *besides))))
