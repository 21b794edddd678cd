"""Tenants: whom the current code is charged to, in threads, tasks and contexts."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from safejax.compile._tenant import current_tenant, tenant


@pytest.fixture(autouse=True)
def no_tenant_is_left_behind():
    assert current_tenant() is None
    yield
    assert current_tenant() is None


def test_there_is_no_tenant_outside_a_block():
    assert current_tenant() is None


def test_inner_block_wins_and_the_outer_one_comes_back():
    with tenant("outer"):
        with tenant("inner"):
            assert current_tenant() == "inner"
        assert current_tenant() == "outer"


def test_block_ends_when_its_body_raises():
    with pytest.raises(KeyError), tenant("a"):
        raise KeyError


def test_making_a_block_enters_nothing():
    tenant("a")

    assert current_tenant() is None


def test_one_block_may_be_entered_again_inside_itself():
    block = tenant("a")
    with block:
        with tenant("b"), block:
            assert current_tenant() == "a"
        assert current_tenant() == "a"


def test_concurrent_tasks_have_their_own_tenants():
    shared = tenant("shared")

    async def serve(name, seen):
        with shared:
            await asyncio.sleep(0)
            with tenant(name):
                await asyncio.sleep(0)
                seen.append((name, current_tenant()))
                seen.append((name, await asyncio.to_thread(current_tenant)))
            await asyncio.sleep(0)
            assert current_tenant() == "shared"

    async def main():
        seen = []
        await asyncio.gather(*(serve(f"t{i}", seen) for i in range(8)))
        return seen

    seen = asyncio.run(main())
    assert len(seen) == 16
    assert all(name == found for name, found in seen)


def test_task_keeps_the_tenant_it_was_started_under():
    async def ask():
        await asyncio.sleep(0)
        return current_tenant()

    async def main():
        with tenant("a"):
            task = asyncio.create_task(ask())
        assert current_tenant() is None
        return await task

    assert asyncio.run(main()) == "a"


def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_copied_context_hands_the_tenant_to_a_thread():
    with tenant("a"):
        context = contextvars.copy_context()

    assert in_thread(lambda: context.run(current_tenant)) == "a"


def test_tenant_of_one_thread_is_not_seen_by_another():
    barrier = threading.Barrier(2, timeout=30)
    found = {}

    def work(name):
        with tenant(name):
            barrier.wait()
            found[name] = current_tenant()
            barrier.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {"a": "a", "b": "b"}


def test_block_left_in_another_context_is_an_error_and_not_passed_over():
    block = tenant("a")
    contextvars.copy_context().run(block.__enter__)

    with pytest.raises(RuntimeError, match="another context"):
        block.__exit__(None, None, None)


def test_blocks_left_in_another_order_are_an_error():
    def run():
        first, second = tenant("a"), tenant("a")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)

    with pytest.raises(RuntimeError, match="another order"):
        contextvars.copy_context().run(run)


@pytest.mark.parametrize("name", [None, 42, b"user", ["user"]])
def test_name_that_is_no_string_is_refused(name):
    with pytest.raises(TypeError, match="takes a string"):
        tenant(name)


def test_name_that_is_empty_or_too_long_is_refused():
    assert tenant("x" * 256)
    for name in ("", "x" * 257):
        with pytest.raises(ValueError, match="1 to 256"):
            tenant(name)


def test_refusal_of_a_name_does_not_repeat_it():
    with pytest.raises(ValueError, match="got 300") as caught:
        tenant("s" * 300)

    assert "ss" not in str(caught.value)


def test_block_is_not_a_decorator():
    """On a coroutine function it would charge nothing, and nobody would notice."""
    with pytest.raises(TypeError):

        @tenant("a")
        async def serve():
            """Never made."""
