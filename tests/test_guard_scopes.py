"""Where a scope reaches: nesting, threads, tasks, contexts, functions, JAX's caches."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from safejax import GuardError, Policy
from safejax.guard import _scope
from safejax.guard._scope import active, guard

STRICT = Policy.strict()
LENIENT = STRICT.replace(introspection="allow")
THREADS = STRICT.replace(threads="allow")


def double(x):
    return x * 2


def blocked() -> bool:
    try:
        jax.make_jaxpr(double)
    except GuardError:
        return True
    return False


# --- nesting ----------------------------------------------------------------------


def test_policies_of_open_scopes_are_listed_outermost_first():
    with guard(STRICT), guard(LENIENT):
        assert active() == (STRICT, LENIENT)
    assert active() == ()


def test_an_inner_scope_can_not_relax():
    with guard(STRICT), guard("allow"):
        assert blocked()


def test_an_inner_scope_can_restrict_and_ends():
    with guard("allow"):
        assert not blocked()
        with guard(STRICT):
            assert blocked()
        assert not blocked()


def test_the_outer_policy_names_the_refusal():
    with guard(STRICT), guard("log"), pytest.raises(GuardError) as caught:
        jax.make_jaxpr(double)

    assert caught.value.details["policy"] == "Policy.strict()"


def test_allowing_by_name_inside_does_not_help():
    with guard(STRICT), guard(STRICT.replace(allow={"jax.make_jaxpr"})):
        assert blocked()


def test_one_guard_may_be_entered_again_and_again():
    one = guard()
    for _ in range(2):
        with one, one:
            assert blocked()
        assert not blocked()


def test_a_scope_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), guard():
        raise ZeroDivisionError
    assert not blocked()


def test_scopes_that_overlap_without_nesting():
    first, second = guard(STRICT), guard(LENIENT)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    middle = active()
    second.__exit__(None, None, None)

    assert middle == (LENIENT,)
    assert active() == ()


def test_a_scope_can_be_opened_by_an_exit_stack_and_by_a_context_manager():
    @contextlib.contextmanager
    def wrapped():
        with guard():
            yield

    with contextlib.ExitStack() as stack:
        stack.enter_context(guard())
        assert blocked()
    with wrapped():
        assert blocked()
    assert not blocked()


# --- leaving by the back door -----------------------------------------------------


def test_an_empty_context_is_still_in_the_scope():
    with guard():
        assert contextvars.Context().run(blocked)


def test_setting_the_context_variable_does_not_help():
    variables = contextvars.copy_context
    with guard():
        (variable,) = (v for v in variables() if v.name == "safejax.guard")
        variable.set(())
        assert blocked()
    assert not blocked()


def test_a_copied_context_takes_the_scope_with_it():
    with guard():
        context = contextvars.copy_context()
    assert context.run(blocked)
    assert not blocked()


# --- functions --------------------------------------------------------------------


@guard()
def guarded(flag=True):
    """Says whether."""
    return blocked() is flag


def test_decorated_function_keeps_its_looks_and_runs_in_a_scope():
    assert guarded()
    assert not blocked()
    assert guarded.__name__ == "guarded"
    assert guarded.__doc__ == "Says whether."
    assert list(inspect.signature(guarded).parameters) == ["flag"]


def test_decorator_and_jit_in_both_orders():
    @jax.jit
    @guard()
    def inner(x):
        return x * 2 if blocked() else x

    @guard()
    @jax.jit
    def outer(x):
        return x * 2 if blocked() else x

    assert float(inner(1.0)) == float(outer(1.0)) == 2


def test_decorated_generator_is_in_the_scope_only_while_it_runs():
    @guard()
    def steps():
        got = yield blocked()
        yield got
        try:
            yield 0
        except KeyError:
            yield blocked()

    generator = steps()
    assert next(generator)
    assert not blocked()
    assert generator.send("sent") == "sent"
    next(generator)
    assert generator.throw(KeyError) is True
    generator.close()
    assert active() == ()
    assert inspect.isgeneratorfunction(steps)


def test_decorated_generator_returns_and_closes():
    closed = []

    @guard()
    def steps():
        try:
            yield 1
        finally:
            closed.append(blocked())
        return 2

    generator = steps()
    next(generator)
    generator.close()
    assert closed == [True]
    generator = steps()
    next(generator)
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == 2


def test_decorated_coroutine_is_in_the_scope_only_while_it_runs():
    seen = []

    @guard()
    async def work():
        seen.append(blocked())
        await asyncio.sleep(0)
        seen.append(blocked())
        return 3

    async def other():
        seen.append(("other", blocked()))

    async def main():
        return await asyncio.gather(work(), other())

    assert asyncio.run(main()) == [3, None]
    assert seen == [True, ("other", False), True]
    assert inspect.iscoroutinefunction(work)


def test_decorated_async_generator():
    @guard()
    async def numbers():
        for i in range(2):
            await asyncio.sleep(0)
            yield i, blocked()

    async def main():
        return [(pair, blocked()) async for pair in numbers()]

    assert asyncio.run(main()) == [((0, True), False), ((1, True), False)]


# --- tasks ------------------------------------------------------------------------


def test_a_block_that_awaits_does_not_disturb_other_tasks():
    seen = {}

    async def inside(entered, go_on):
        with guard():
            entered.set()
            await go_on.wait()
            seen["inside"] = blocked()

    async def main():
        entered, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(inside(entered, go_on))
        await entered.wait()
        seen["outside"] = blocked()
        go_on.set()
        await task
        seen["after"] = blocked()

    asyncio.run(main())
    assert seen == {"inside": True, "outside": False, "after": False}
    assert active() == ()


def test_a_task_made_in_a_scope_is_in_it_to_its_end():
    async def later(go_on):
        await go_on.wait()
        return blocked()

    async def main():
        go_on = asyncio.Event()
        with guard():
            task = asyncio.create_task(later(go_on))
        go_on.set()
        return await task, blocked()

    assert asyncio.run(main()) == (True, False)


def test_a_loop_inside_of_a_scope_is_in_it():
    async def main():
        return blocked()

    with guard(STRICT.replace(system="allow", allow={"signal.signal"})):
        assert asyncio.run(main())


# --- threads ----------------------------------------------------------------------


def test_a_thread_is_refused_and_names_the_category():
    with guard(), pytest.raises(GuardError) as caught:
        threading.Thread(target=print).start()

    assert caught.value.details["category"] == "threads"


def test_a_raw_thread_is_refused():
    if sys.version_info < (3, 12):
        pytest.skip("Python 3.11 has no audit event for it: not defended")
    with guard(), pytest.raises(GuardError):
        _thread.start_new_thread(print, ())


@pytest.mark.parametrize("word", ["allow", "log"])
def test_an_allowed_thread_inherits_the_scope(word: str):
    seen = []

    class Own(threading.Thread):
        def run(self):
            seen.append(blocked())

    with guard(STRICT.replace(threads=word)):
        for thread in (threading.Thread(target=lambda: seen.append(blocked())), Own()):
            thread.start()
            thread.join()

    assert seen == [True, True]


def test_a_timer_inherits_too():
    seen = []
    with guard(THREADS):
        timer = threading.Timer(0, lambda: seen.append(blocked()))
        timer.start()
        timer.join()

    assert seen == [True]


def test_a_thread_started_outside_is_not_in_the_scope():
    seen, go_on = [], threading.Event()
    thread = threading.Thread(target=lambda: (go_on.wait(), seen.append(blocked())))
    thread.start()
    with guard():
        go_on.set()
        thread.join()

    assert seen == [False]


def test_work_for_an_older_executor_is_refused():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(blocked).result() is False
        with guard(), pytest.raises(GuardError):
            pool.submit(blocked)


def test_allowed_work_brings_its_scope_and_leaves_the_executor_without():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with guard(THREADS):
            assert pool.submit(blocked).result() is True
            assert list(pool.map(lambda _: blocked(), range(2))) == [True, True]
        assert pool.submit(blocked).result() is False


def test_to_thread_follows():
    async def main():
        with guard(THREADS.replace(system="allow")):
            return await asyncio.to_thread(blocked)

    assert asyncio.run(main()) is True


# --- JAX's caches -----------------------------------------------------------------


def counted():
    traces = []

    @jax.jit
    def f(x):
        traces.append(active())
        return x + 1

    return f, traces


def test_what_was_traced_before_is_traced_again_inside():
    f, traces = counted()
    f(1.0)
    with guard():
        f(1.0)

    assert len(traces) == 2


def test_the_same_policy_does_not_trace_again():
    f, traces = counted()
    for _ in range(3):
        with guard():
            f(1.0)
        with guard(), guard():
            f(1.0)
        f(1.0)

    assert traces == [(STRICT,), ()]


def test_other_policies_trace_again():
    f, traces = counted()
    for policy in (STRICT, LENIENT):
        with guard(policy):
            f(1.0)
    with guard(STRICT), guard(LENIENT):
        f(1.0)

    assert traces == [(STRICT,), (LENIENT,), (STRICT, LENIENT)]


def test_a_smuggler_traced_before_the_scope_is_not_served_in_it():
    spec = jax.ShapeDtypeStruct((), jnp.float32)
    smuggler = jax.jit(lambda x: jax.pure_callback(lambda v: v, spec, x))
    smuggler(jnp.float32(1))
    with guard(), pytest.raises(GuardError):
        smuggler(jnp.float32(1))


def test_inner_functions_are_traced_again_too():
    f, traces = counted()
    jax.jit(lambda x: f(x) + 1)(1.0)
    with guard():
        jax.jit(lambda x: f(x) + 1)(1.0)

    assert len(traces) == 2


def test_jax_is_told_of_the_scopes_of_each_task():
    f, traces = counted()

    async def plain():
        f(1.0)

    async def inside(entered, go_on):
        with guard():
            entered.set()
            await go_on.wait()
            f(1.0)

    async def main():
        entered, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(inside(entered, go_on))
        await entered.wait()
        await asyncio.create_task(plain())
        go_on.set()
        await task

    asyncio.run(main())
    f(1.0)

    assert traces == [(), (STRICT,)]


def test_keyed_finds_what_was_traced_under_the_policy_and_guards_nothing():
    f, traces = counted()
    with _scope.tracing(STRICT):
        f(1.0)
    with _scope.keyed(STRICT):
        f(1.0)
        assert not blocked()
    f(1.0)

    assert traces == [(STRICT,), ()]


def test_importing_safejax_and_making_a_policy_installs_nothing():
    script = """
import sys, jax, safejax
safejax.Policy.strict()
f = jax.jit(lambda x: x)
before = jax.make_jaxpr.__wrapped__.__code__
calls = []
assert not hasattr(sys, "monitoring") or all(
    sys.monitoring.get_tool(i) is None for i in range(6)
)
assert sys.getprofile() is None
with safejax.guard():
    pass
changed = jax.make_jaxpr.__wrapped__.__code__ is not before
assert changed == (sys.version_info < (3, 12))
"""
    subprocess.run([sys.executable, "-P", "-c", script], check=True)


# --- traces -----------------------------------------------------------------------


def test_a_refusal_that_is_caught_ends_the_trace_all_the_same():
    with pytest.raises(GuardError) as caught, _scope.tracing(STRICT):
        assert blocked()

    assert caught.value.details["api"] == "jax.make_jaxpr"


def test_a_refusal_in_a_finaliser_ends_the_trace():
    class Dying:
        def __del__(self):
            jax.make_jaxpr(double)

    def act():
        with _scope.tracing(STRICT.replace(allow={"sys.unraisablehook"})):
            Dying()

    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with pytest.raises(GuardError):
            act()
    finally:
        sys.unraisablehook = hook


def test_a_scope_left_open_in_a_trace_ends_with_it():
    with _scope.tracing(LENIENT):
        guard(STRICT).__enter__()
        assert active() == (LENIENT, STRICT)

    assert active() == ()


def test_an_event_loop_that_is_interrupted_leaves_no_scope_behind():
    async def main():
        with guard("log"):
            await asyncio.sleep(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    assert active() == ()
    assert not blocked()
