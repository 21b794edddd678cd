"""T22: the guard and the review themselves are the target."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from threats.bypasses._kit import F32, Trial, bypass

import safejax
from safejax import GuardError
from safejax.guard import _decide, _state
from safejax.review import _judge, _modules

Model = Callable[[Any], Any]
HOSTILE = (
    "Python in your interpreter can reach and change every object in it, the guard's "
    "too. A guard finds what your own code must not do; it is no sandbox."
)


def reading_after(trial: Trial, act: Callable[[], Any]) -> Model:
    """A model that does this first, and then reads a program."""

    def model(x: Any) -> Any:
        act()
        trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
        return x

    return model


@bypass("T22", "guard")
def lenient_scope_inside(trial: Trial) -> Model:
    """`with safejax.guard("allow")` inside the scope."""

    def model(x: Any) -> Any:
        with safejax.guard("allow"):
            trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
        return x

    return model


@bypass("T22", "guard")
def scope_left_early(trial: Trial) -> Model:
    """`__exit__` of a scope that was never entered here."""
    scope = safejax.guard("allow")

    def act() -> None:
        with contextlib.suppress(IndexError):
            scope.__exit__(None, None, None)

    return reading_after(trial, act)


@bypass("T22", "guard")
def profile_function_removed(trial: Trial) -> Model:
    """`sys.setprofile(None)`."""
    return reading_after(trial, lambda: sys.setprofile(None))


@bypass("T22", "guard")
def trace_function_set(trial: Trial) -> Model:
    """`sys.settrace`: a function of the attacker's sees every line, of the guard
    too."""
    trial.undo(sys.settrace, sys.gettrace())

    def watch(frame: types.FrameType, event: str, _: Any) -> None:
        trial.saw(event)

    def model(x: Any) -> Any:
        sys.settrace(watch)
        jnp.sin(x)
        sys.settrace(None)
        return x

    return model


@bypass("T22", "guard", since=(3, 12))
def monitoring_callback_removed(trial: Trial) -> Model:
    """`sys.monitoring.register_callback(tool, event, None)` for every tool."""

    return reading_after(trial, lambda: without_callbacks(trial))


def scope_opened() -> None:
    """Has the guard install what it needs, or put it in its place again."""
    with contextlib.suppress(GuardError), safejax.guard():
        pass


def without_callbacks(trial: Trial) -> None:
    """Takes the callbacks of all tools away until the trial is over."""
    register, event = sys.monitoring.register_callback, sys.monitoring.events.PY_START
    for tool in range(6):
        if sys.monitoring.get_tool(tool):
            trial.undo(register, tool, event, register(tool, event, None))


@bypass("T22", "guard", since=(3, 12))
def monitoring_callback_removed_before(trial: Trial) -> Model:
    """The same before the scope is opened, where nothing is refused."""
    scope_opened()
    without_callbacks(trial)
    return reading_after(trial, lambda: None)


@bypass("T22", "guard", since=(3, 12))
def monitoring_tool_freed_before(trial: Trial) -> Model:
    """`sys.monitoring.free_tool_id` before the scope is opened."""
    trial.undo(scope_opened)
    scope_opened()
    for tool in range(6):
        if sys.monitoring.get_tool(tool) == "safejax.guard":
            sys.monitoring.free_tool_id(tool)
    return reading_after(trial, lambda: None)


@bypass("T22", "guard, late", since=(3, 12))
def monitoring_switched_off(trial: Trial) -> Model:
    """`sys.monitoring.set_local_events(tool, code, 0)`: no audit event tells of it."""

    def act() -> None:
        monitoring = sys.monitoring
        code = jax.make_jaxpr.__wrapped__.__code__
        for tool in range(6):
            if monitoring.get_tool(tool):
                before = monitoring.get_local_events(tool, code)
                monitoring.set_local_events(tool, code, 0)
                trial.undo(monitoring.set_local_events, tool, code, before)

    return reading_after(trial, act)


@bypass("T22", "guard")
def context_variable_set(trial: Trial) -> Model:
    """The guard's context variable, found by its name and set to nothing."""

    def act() -> None:
        for variable in contextvars.copy_context():
            if variable.name == "safejax.guard":
                variable.set(())

    return reading_after(trial, act)


@bypass("T22", "guard")
def objects_of_the_collector(trial: Trial) -> Model:
    """`gc.get_objects()`: every object of the process, the guard's too."""

    def act() -> None:
        trial.saw(len(gc.get_objects()))

    return reading_after(trial, act)


@bypass(
    "T22",
    "not defended",
    on_311="guard",
    reason="Python reports nothing of what runs in a trace function, to any tool. The "
    "function was set before the scope, by code that runs for every line of yours.",
)
def trace_function_set_before(trial: Trial) -> Model:
    """`sys.settrace(f)` before the scope: within `f` nothing is monitored."""
    before = sys.gettrace()

    def watch(frame: types.FrameType, event: str, _: Any) -> None:
        if frame.f_code is model.__code__ and not trial.evidence:
            trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))

    def model(x: Any) -> Any:
        return x

    def through(jitted: Any) -> Any:
        def call(x: Any) -> Any:
            sys.settrace(watch)
            try:
                return jitted(x)
            finally:
                sys.settrace(before)

        return call

    trial.through = through
    return model


@bypass("T22", "guard", since=(3, 12))
def eager_task(trial: Trial) -> Model:
    """In an event loop: a task that is started at once, in an empty context, where
    the current task is another one."""

    async def look() -> None:
        trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))

    def model(x: Any) -> Any:
        task = asyncio.Task(
            look(),
            loop=asyncio.get_running_loop(),
            context=contextvars.Context(),
            eager_start=True,
        )
        task.result()
        return x

    trial.through = in_an_event_loop
    return model


@bypass("T22", "guard")
def event_loop_hidden(trial: Trial) -> Model:
    """In an event loop, which is hidden for a moment, and in an empty context."""

    def look() -> None:
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
        finally:
            asyncio._set_running_loop(loop)

    def model(x: Any) -> Any:
        contextvars.Context().run(look)
        return x

    trial.through = in_an_event_loop
    return model


def in_an_event_loop(jitted: Any) -> Any:
    """Calls as a server does that serves with coroutines."""

    async def serve(x: Any) -> Any:
        return jitted(x)

    return lambda x: asyncio.run(serve(x))


@bypass("T22", "no effect")
def scope_left_open(trial: Trial) -> Model:
    """A strict scope that is entered and never left: the caller, who has nothing to
    do with it, can't open files any more."""

    left: list[Any] = []

    def through(jitted: Any) -> Any:
        def call(x: Any) -> Any:
            jitted(x)
            try:
                os.listdir(trial.folder)  # noqa: PTH208
            except PermissionError:
                trial.saw("refused for the caller")
            finally:
                for scope in left:
                    scope.__exit__(None, None, None)

        return call

    def model(x: Any) -> Any:
        left.append(safejax.guard())
        left[0].__enter__()
        return x

    trial.through = through
    return model


@bypass("T22", "not defended", reason=HOSTILE)
def state_of_the_guard(trial: Trial) -> Model:
    """`import safejax.guard._state`, and its lists emptied."""
    thread = _state._thread

    def act() -> None:
        thread.opened.clear()
        _state._context.set(())

    return reading_after(trial, act)


@bypass("T22", "not defended", reason=HOSTILE)
def guard_kept_busy(trial: Trial) -> Model:
    """The flag by which the guard does not judge itself, set from outside."""
    busy = _decide._busy
    trial.undo(setattr, busy, "judging", False)
    return reading_after(trial, lambda: setattr(busy, "judging", True))


@bypass("T22", "not defended", reason=HOSTILE)
def policy_changed(trial: Trial) -> Model:
    """`object.__setattr__` on the policy, which is frozen only for friends."""

    def act() -> None:
        for policy in _state.active():
            trial.undo(
                object.__setattr__, policy, "introspection", policy.introspection
            )
            object.__setattr__(policy, "introspection", "allow")

    return reading_after(trial, act)


@bypass("T22", "not defended", reason=HOSTILE)
def guard_and_review_replaced(trial: Trial) -> Model:
    """The functions that judge replaced by functions that say nothing."""

    def act() -> None:
        for module, name in (
            (_decide, "judge"),
            (_judge, "judge"),
            (_modules, "judge_module"),
        ):
            trial.undo(setattr, module, name, getattr(module, name))
            setattr(module, name, lambda *_, **__: None)

    def model(x: Any) -> Any:
        act()
        return jax.pure_callback(trial.report, F32, x)

    return model
