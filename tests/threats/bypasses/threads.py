"""T19: work that is done elsewhere, where no scope is open."""

# A lambda around a function is another function, and a frame of the attacker's:

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextvars
import multiprocessing.pool
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.monitoring
from threats.bypasses._kit import Trial, bypass

Model = Callable[[Any], Any]


def reads(trial: Trial) -> Callable[[], None]:
    """What the attack wants to do: read a program."""
    return lambda: trial.saw(str(jax.make_jaxpr(lambda v: v + 1)(1.0)))


def doing(act: Callable[[], Any]) -> Model:
    """A model that does this while it is traced."""

    def model(x: Any) -> Any:
        act()
        return x + 1

    return model


@bypass("T19", "guard")
def thread(trial: Trial) -> Model:
    """`threading.Thread`: a thread of its own has no scope."""
    look = reads(trial)

    def act() -> None:
        worker = threading.Thread(target=look)
        worker.start()
        worker.join()

    return doing(act)


@bypass(
    "T19",
    "guard",
    on_311="not defended",
    reason="Python 3.11 does not report threads that are started from C.",
)
def thread_from_c(trial: Trial) -> Model:
    """`_thread.start_new_thread`, which `threading` stands on."""
    look = reads(trial)

    def act() -> None:
        done = _thread.allocate_lock()
        done.acquire()

        def run() -> None:
            look()
            done.release()

        _thread.start_new_thread(run, ())
        done.acquire()

    return doing(act)


@bypass("T19", "guard")
def timer(trial: Trial) -> Model:
    """`threading.Timer`: a thread that waits until the scope has ended."""
    look = reads(trial)

    def act() -> None:
        worker = threading.Timer(0.001, look)
        worker.start()
        trial.afterwards(worker.join)

    return doing(act)


@bypass("T19", "guard")
def executor(trial: Trial) -> Model:
    """A `ThreadPoolExecutor` that is made in the scope."""
    look = reads(trial)

    def act() -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(look).result()

    return doing(act)


@bypass("T19", "guard")
def executor_with_idle_threads(trial: Trial) -> Model:
    """A `ThreadPoolExecutor` whose thread has been waiting since before the scope:
    no thread is started."""
    look = reads(trial)
    pool = trial.cleanup.enter_context(concurrent.futures.ThreadPoolExecutor(1))
    pool.submit(time.sleep, 0).result()
    return doing(lambda: pool.submit(look).result())


@bypass("T19", "guard")
def pool_of_threads(trial: Trial) -> Model:
    """`multiprocessing.pool.ThreadPool`, made before the scope."""
    look = reads(trial)
    pool = trial.cleanup.enter_context(multiprocessing.pool.ThreadPool(1))
    return doing(lambda: pool.apply(look))


@bypass(
    "T19",
    "not defended",
    reason="A queue is data. What reads it in another thread is code that was there "
    "before, and runs what it is handed.",
)
def queue_to_a_thread(trial: Trial) -> Model:
    """A thread that was started before runs what comes through a queue."""
    look = reads(trial)
    work: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done = threading.Event()

    def serve() -> None:
        for act in iter(work.get, None):
            act()
            done.set()

    server = threading.Thread(target=serve)
    server.start()
    trial.undo(server.join)
    trial.undo(work.put, None)

    def act() -> None:
        work.put(look)
        done.wait(10)

    return doing(act)


@bypass("T19", "guard")
def asyncio_to_thread(trial: Trial) -> Model:
    """`asyncio.to_thread` in an event loop of its own."""
    look = reads(trial)

    async def act() -> None:
        await asyncio.to_thread(look)

    return doing(lambda: asyncio.run(act()))


@bypass("T19", "guard")
def asyncio_task(trial: Trial) -> Model:
    """A task in an event loop of its own, with an empty context."""
    look = reads(trial)

    async def wrapped() -> None:
        look()

    async def act() -> None:
        empty = contextvars.Context()
        await asyncio.get_running_loop().create_task(wrapped(), context=empty)

    return doing(lambda: asyncio.run(act()))


@bypass("T19", "guard")
def empty_context(trial: Trial) -> Model:
    """`contextvars.Context().run(f)`: a context in which no scope was opened."""
    look = reads(trial)
    return doing(lambda: contextvars.Context().run(look))


@bypass("T19", "guard")
def context_copied_before(trial: Trial) -> Model:
    """`contextvars.copy_context()` before the scope, `.run(f)` in it."""
    look = reads(trial)
    before = contextvars.copy_context()
    return doing(lambda: before.run(look))


@bypass("T19", "guard")
def generator_started_before(trial: Trial) -> Model:
    """A generator that was started before the scope is resumed in it."""
    look = reads(trial)

    def steps() -> Iterator[None]:
        yield
        look()
        yield

    generator = steps()
    next(generator)
    return doing(lambda: next(generator))
