"""The pool against workers that misbehave, and against the real one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from safejax.compile import _child, _pool
from safejax.compile._job import Request, WorkerConfig
from safejax.compile._pool import Pool, PoolClosedError, QueueFullError
from safejax.compile._service import service

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc; workers are tested on Linux"
)

# Speaks the protocol by hand, so that a change of the wire format shows. The options of
# an order say what to do; an argument says how to start.
FAKE = r"""
import json, os, signal, struct, sys, threading, time
start, settings = sys.argv[1], json.loads(sys.argv[2])
out, inp = settings["answers"], settings["requests"]
def lifeline():
    os.read(settings["lifeline"], 1)
    os._exit(0)
threading.Thread(target=lifeline, daemon=True).start()
def send(kind, body, length=None, magic=b"SJXC"):
    length = len(body) if length is None else length
    data = struct.pack("<4sHHQ", magic, 1, kind, length) + body
    while data:
        data = data[os.write(out, data):]
if start == "exit":
    sys.exit(3)
if start == "rubbish":
    os.write(out, b"Traceback (most recent call last)")
if start in ("mute", "rubbish"):
    time.sleep(1000)
if start.startswith("once:"):
    # Starts only while the file is not there.
    try:
        os.close(os.open(start[5:], os.O_CREAT | os.O_EXCL))
    except OSError:
        sys.exit(3)
hello = {"jaxlib": "0", "pid": os.getpid(), "confinement": {"open": "allowed"}}
send(1, json.dumps(hello).encode())
if start == "hello-exit":
    sys.exit(0)
def take(n):
    data = bytearray()
    while len(data) < n:
        more = os.read(inp, n - len(data))
        if not more:
            sys.exit(0)
        data += more
    return bytes(data)
while True:
    _, _, _, length = struct.unpack("<4sHHQ", take(16))
    body = take(length)
    number, memory, devices, options = struct.unpack_from("<QQII", body)
    at = 24 + 4 * devices
    what, module = body[at:at + options].decode(), body[at + options:]
    head = struct.pack("<QdQ", number, 0.25, 0)
    if what == "ok":
        send(3, head + str(os.getpid()).encode())
    elif what == "echo":
        send(3, head + module)
    elif what == "env":
        send(3, head + json.dumps([dict(os.environ), os.getcwd()]).encode())
    elif what == "fds":
        send(3, head + json.dumps(os.listdir("/proc/self/fd")).encode())
    elif what == "error":
        send(4, head + b"INVALID_ARGUMENT: no")
    elif what == "hang":
        time.sleep(1000)
    elif what == "grandchild":
        if os.fork() == 0:
            time.sleep(1000)
        time.sleep(1000)
    elif what == "rubbish":
        send(3, head, magic=b"\x7fELF")
    elif what == "half":
        send(3, head + b"abc", length=10_000)
        time.sleep(1000)
    elif what == "half-exit":
        send(3, head + b"abc", length=10_000)
        sys.exit(0)
    elif what == "oversize":
        send(3, head, length=1 << 62)
        time.sleep(1000)
    elif what == "twice":
        frame = struct.pack("<4sHHQ", b"SJXC", 1, 3, len(head)) + head
        os.write(out, frame + frame)
    elif what == "wrong":
        send(3, struct.pack("<QdQ", number + 1, 0.0, 0))
    elif what == "hello":
        send(1, b"{}")
    elif what == "exit":
        sys.exit(7)
    elif what == "close":
        os.close(out)
        time.sleep(1000)
    elif what == "stderr":
        for _ in range(200):
            os.write(2, b"x" * 9999 + b"\n")
        os.write(2, b"the end")
        os.kill(os.getpid(), signal.SIGABRT)
    elif what == "grow":
        kept = []
        while True:
            kept.append(bytearray(b"x" * (4 << 20)))
            time.sleep(0.001)
    elif what.startswith("signal"):
        os.kill(os.getpid(), int(what[6:]))
    elif what.startswith("sleep"):
        time.sleep(float(what[5:]))
        send(3, head + str(os.getpid()).encode())
"""


@pytest.fixture
def fake(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def command(start="normal"):
        return [sys.executable, "-I", "-S", "-B", str(script), start]

    return command


@pytest.fixture
def make(fake):
    """Makes pools of fake workers, and sees that they leave nothing behind."""
    service.configure()  # ends the compile workers that other tests have left idle
    descriptors, threads = open_descriptors(), threading.active_count()
    pools = []

    def build(start="normal", **options):
        pools.append(Pool(worker=fake(start), **options))
        return pools[-1]

    yield build
    for pool in pools:
        pids = pool.status()["pids"]
        pool.close()
        assert not any(map(alive, pids))
    assert open_descriptors() == descriptors
    assert threading.active_count() == threads


def open_descriptors():
    return sum(1 for _ in pathlib.Path("/proc/self/fd").iterdir())


def alive(pid):
    """Whether a process exists, also as a zombie."""
    return pathlib.Path(f"/proc/{pid}").exists()


def running(pid):
    with contextlib.suppress(OSError):
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    return False


def eventually(condition, limit_s=30.0):
    """Waits for what must come, with a margin for a busy machine."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def ask(what, module=b"", **options):
    return Request(module=module, options=what.encode(), **options)


def outcome(pool, what, **options):
    response = pool.submit(ask(what, **options)).wait(30)
    assert response is not None
    return response


def test_a_pool_starts_nothing_until_it_is_asked(fake):
    threads = threading.active_count()
    pool = Pool(worker=fake())
    assert pool.status()["workers"] == 0
    assert threading.active_count() == threads
    pool.close()


def test_a_compilation_is_answered(make):
    pool = make()
    job = pool.submit(ask("ok"))
    response = job.wait(30)
    assert response.kind == "ok"
    assert int(response.executable) in pool.status()["pids"]
    assert response.compile_s == 0.25  # what the worker says it took
    assert job.done
    assert job.phase == "done"
    assert job.elapsed_s >= response.queue_s >= 0


def test_large_programs_and_executables_travel_whole(make):
    module = os.urandom(30 << 20)
    assert outcome(make(), "echo", module=module).executable == module


def test_xla_speaks_for_itself_and_the_worker_is_kept(make):
    pool = make(spares=0)
    response = outcome(pool, "error")
    assert (response.kind, response.text) == ("error", "INVALID_ARGUMENT: no")
    assert outcome(pool, "ok").kind == "ok"
    assert pool.status()["spawned"] == 1


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("rubbish", "protocol"),
        ("half", "protocol"),
        ("oversize", "protocol"),
        ("wrong", "protocol"),
        ("hello", "protocol"),
        ("close", "protocol"),
        ("twice", "protocol"),
        ("exit", "crash"),
        ("half-exit", "crash"),
    ],
)
def test_a_worker_that_misbehaves_is_replaced_and_reported(make, what, kind):
    pool = make(stall_s=0.2)
    response = outcome(pool, what)
    assert response.kind == kind
    assert response.executable == b""
    assert response.text
    assert outcome(pool, "ok").kind == "ok"
    eventually(lambda: pool.status()["kills"] == 1)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS"])
def test_a_crash_is_reported_with_the_name_of_its_signal(make, name):
    pool = make()
    response = outcome(pool, f"signal{int(signal.Signals[name])}")
    assert (response.kind, response.signal) == ("crash", name)
    assert name in response.text
    assert outcome(pool, "ok").kind == "ok"


def test_a_flood_on_standard_error_is_kept_to_its_end(make):
    response = outcome(make(), "stderr")
    assert (response.kind, response.signal) == ("crash", "SIGABRT")
    assert response.stderr.endswith("the end")
    assert len(response.stderr) == 64 << 10


def test_waiting_ends_at_its_deadline_and_leaves_the_compilation_alone(make):
    job = make().submit(ask("hang"))
    eventually(lambda: job.phase == "compile")
    assert job.wait(0.01) is None
    assert job.phase == "compile"


def test_cancelling_kills_the_worker_and_a_spare_serves_the_next(make):
    pool = make()
    job = pool.submit(ask("hang"))
    eventually(lambda: job.phase == "compile" and pool.status()["idle"] == 1)
    pids = pool.status()["pids"]
    job.cancel()
    job.cancel()
    assert job.wait(0).kind == "cancelled"
    assert int(outcome(pool, "ok").executable) in pids
    eventually(lambda: not all(map(alive, pids)))
    assert pool.status()["kills"] == 1
    job = pool.submit(ask("hang"))
    eventually(lambda: job.phase == "compile" and pool.status()["idle"] == 1)


def test_a_kill_reaches_what_the_worker_started(make):
    pool = make(spares=0)
    job = pool.submit(ask("grandchild"))
    eventually(lambda: job.phase == "compile")
    (pid,) = pool.status()["pids"]
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    eventually(lambda: children.read_text().split())
    (grandchild,) = map(int, children.read_text().split())
    job.cancel()
    eventually(lambda: not running(grandchild))


def test_cancelling_in_the_queue_kills_nobody(make):
    pool = make(size=1)
    first, second = pool.submit(ask("sleep0.2")), pool.submit(ask("ok"))
    second.cancel()
    assert second.wait(0).kind == "cancelled"
    assert second.phase == "done"
    assert first.wait(30).kind == "ok"
    assert pool.status()["kills"] == 0


def test_the_first_to_come_is_the_first_to_be_served(make):
    pool = make(size=1)
    order = []
    jobs = [pool.submit(ask("sleep0.01")) for _ in range(6)]
    for number, job in enumerate(jobs):
        job.add_done_callback(lambda _, number=number: order.append(number))
    assert [job.wait(30).kind for job in jobs] == ["ok"] * 6
    eventually(lambda: len(order) == 6)
    assert order == sorted(order)


def test_as_many_run_at_once_as_asked_and_no_more(make):
    pool = make(size=3)
    jobs = [pool.submit(ask("hang")) for _ in range(5)]
    eventually(lambda: sum(job.phase == "compile" for job in jobs) == 3)
    status = pool.status()
    assert (status["busy"], status["queued"]) == (3, 2)
    jobs[0].cancel()
    eventually(lambda: jobs[3].phase == "compile")
    assert jobs[4].phase == "queue"


def test_the_queue_is_bounded(make):
    pool = make(size=1, max_queue=2)
    running = pool.submit(ask("hang"))
    eventually(lambda: running.phase == "compile")
    pool.submit(ask("ok"))
    pool.submit(ask("ok"))
    with pytest.raises(QueueFullError, match="2"):
        pool.submit(ask("ok"))


def test_a_program_larger_than_the_limit_is_refused_before_it_travels(make):
    pool = make(max_request_bytes=1000)
    with pytest.raises(ValueError, match="limit 1000"):
        pool.submit(ask("ok", module=b"x" * 1000))
    assert pool.status()["spawned"] == 0


def test_an_executable_larger_than_the_limit_is_a_protocol_error(make):
    pool = make(max_response_bytes=1000)
    assert outcome(pool, "echo", module=b"x" * 1001).kind == "protocol"


def test_growing_past_the_memory_limit_ends_the_compilation(make):
    response = outcome(make(), "grow", memory_bytes=40 << 20)
    assert response.kind == "memory"
    assert response.grown_bytes > 40 << 20


def test_without_a_memory_limit_growth_is_not_judged(make):
    job = make().submit(ask("grow"))
    assert job.wait(0.3) is None
    job.cancel()


def test_workers_are_replaced_after_their_number_of_compilations(make):
    pool = make(size=1, recycle_after=2)
    workers = [int(outcome(pool, "ok").executable) for _ in range(6)]
    assert len(set(workers)) == 3
    assert pool.status()["recycled"] == 3


def test_workers_that_have_grown_are_replaced(make):
    pool = make(recycle_rss_bytes=1)
    outcome(pool, "ok")
    assert pool.status()["recycled"] == 1


def test_each_configuration_has_its_own_workers(make):
    pool = make(size=2, spares=1)
    configs = [WorkerConfig(devices=n) for n in (1, 2, 1, 2)]
    pids = [int(outcome(pool, "ok", config=c).executable) for c in configs]
    assert pids[0] != pids[1]
    assert set(pids[2:]) <= set(pool.status()["pids"])
    assert pool.status()["spawned"] <= 4
    for devices in range(3, 9):
        outcome(pool, "ok", config=WorkerConfig(devices=devices))
    # What is of no use any more does not stay for ever.
    eventually(lambda: pool.status()["workers"] <= 6)


def test_a_worker_knows_nothing_of_the_environment_but_what_it_needs(make, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/lib/here")
    config = WorkerConfig(xla_flags="--xla_a=1")
    env, cwd = eval(outcome(make(), "env", config=config).executable)
    env.pop("LC_CTYPE", None)  # Python sets it for itself
    assert env.pop("NPROC", None) == os.environ.get("NPROC")
    assert env == {
        "LD_LIBRARY_PATH": "/lib/here",
        "XLA_FLAGS": "--xla_a=1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OPENBLAS_NUM_THREADS": "1",
    }
    assert cwd == "/"


def test_a_worker_inherits_no_descriptor_but_its_own(make):
    with pathlib.Path(os.devnull).open() as file:
        os.set_inheritable(file.fileno(), True)
        # 0, 1, 2, its three pipes, and the one that lists them.
        assert len(eval(outcome(make(), "fds").executable)) == 7


@pytest.mark.parametrize("start", ["exit", "rubbish", "mute", "hello-exit"])
def test_a_worker_that_does_not_start_is_reported_and_not_tried_for_ever(make, start):
    pool = make(start, start_timeout_s=0.3)
    response = outcome(pool, "ok")
    assert response.kind in ("start", "crash")
    assert response.text
    eventually(lambda: pool.status()["failed_starts"] and not pool.status()["pids"])
    spawned = pool.status()["spawned"]
    time.sleep(0.5)
    assert pool.status()["spawned"] == spawned < 6
    assert outcome(pool, "ok").kind in ("start", "crash")  # asked again, tried again


def test_where_only_some_workers_start_those_serve_all(make, tmp_path):
    pool = make(f"once:{tmp_path / 'flag'}", size=2)
    jobs = [pool.submit(ask("sleep0.05")) for _ in range(8)]
    kinds = [job.wait(30).kind for job in jobs]
    assert kinds == ["ok"] * 8
    assert pool.status()["spawned"] < 12


def test_a_program_that_is_not_there_is_a_failed_start(tmp_path):
    pool = Pool(worker=[str(tmp_path / "none")])
    response = outcome(pool, "ok")
    assert response.kind == "start"
    assert "No such file" in response.text
    pool.close()


def test_another_jaxlib_is_refused(make):
    response = outcome(make(jaxlib_version="1.0"), "ok")
    assert response.kind == "start"
    assert "jaxlib 0" in response.text


def test_required_confinement_that_is_not_proven_is_refused(make):
    response = outcome(make(require_confinement=True), "ok")
    assert response.kind == "start"
    assert "not confined: open" in response.text


def test_closing_ends_everything_and_is_final(make):
    pool = make()
    jobs = [pool.submit(ask("hang")) for _ in range(4)]
    eventually(lambda: jobs[0].phase == "compile")
    pool.close()
    pool.close()
    assert {job.wait(0).kind for job in jobs} == {"cancelled"}
    with pytest.raises(PoolClosedError):
        pool.submit(ask("ok"))
    with pytest.raises(PoolClosedError):
        pool.warm(WorkerConfig())


def test_callbacks_are_called_once_also_when_late_and_may_raise(make):
    pool = make()
    seen = []

    def fail(job):
        raise ValueError

    job = pool.submit(ask("ok"))
    job.add_done_callback(fail)
    job.add_done_callback(lambda job: seen.append(job.wait(0).kind))
    job.wait(30)
    job.add_done_callback(lambda job: seen.append("late"))
    eventually(lambda: len(seen) == 2)
    assert sorted(seen) == ["late", "ok"]
    assert outcome(pool, "ok").kind == "ok"


def test_a_callback_may_use_the_pool(make):
    pool = make()
    jobs = []
    first = pool.submit(ask("sleep0.05"))
    first.add_done_callback(lambda _: jobs.append(pool.submit(ask("ok"))))
    first.wait(30)
    eventually(lambda: jobs)
    assert jobs[0].wait(30).kind == "ok"


def test_many_threads_may_use_one_pool(make):
    pool = make(size=2, max_queue=1000)
    kinds = []

    def use(number):
        for turn in range(10):
            job = pool.submit(ask("hang" if (number + turn) % 5 == 0 else "ok"))
            if job.wait(0.02 if number == 0 else 0.2) is None:
                job.cancel()
            kinds.append(job.wait(30).kind)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kinds) == 40
    assert set(kinds) <= {"ok", "cancelled"}


def kill_many(pool, count):
    """Cancels ``count`` running compilations; returns the descriptors held halfway."""
    for done in range(count):
        job = pool.submit(ask("hang"))
        eventually(lambda job=job: job.phase == "compile")
        job.cancel()
        if done == 10:
            eventually(lambda: pool.status()["idle"] == 1)
            held = open_descriptors()
    eventually(lambda: pool.status()["idle"] == 1 == len(pool.status()["pids"]))
    return held


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_kills_leave_no_process_no_descriptor_and_no_thread(make, count):
    pool = make()
    held = kill_many(pool, count)
    assert open_descriptors() <= held
    assert threading.active_count() <= 20
    assert pool.status()["kills"] == count
    (pid,) = pool.status()["pids"]
    tasks = pathlib.Path("/proc/self/task").glob("*/children")
    assert {int(p) for path in tasks for p in path.read_text().split()} <= {pid}


def script(text, *arguments, **options):
    """Runs a program of its own, with the same packages."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        cwd=pathlib.Path(_pool.__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_forked_child_leaves_the_workers_alone_and_makes_its_own(fake):
    text = """
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from safejax.compile._job import Request
        from safejax.compile._pool import Pool
        pool = Pool(worker=sys.argv[1:])
        def ask(what):
            return pool.submit(Request(module=b"", options=what))
        first = int(ask(b"ok").wait(30).executable)
        waiting = ask(b"sleep0.5")
        while waiting.phase != "compile":
            pass
        pid = os.fork()
        if pid == 0:
            assert waiting.wait(30).kind == "cancelled"
            assert pool.status()["pids"] == []
            own = int(ask(b"ok").wait(30).executable)
            assert own in pool.status()["pids"] and own != first
            pool.close()
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(17)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
        assert waiting.wait(30).kind == "ok"
        assert ask(b"ok").wait(30).kind == "ok"
        assert pool.status()["kills"] == 0
        print("fine")
    """
    process = script(text, *fake())
    assert process.communicate(timeout=120)[0] == "fine\n"
    assert process.returncode == 0


def test_a_fork_does_not_keep_workers_alive_that_have_lost_their_parent(fake):
    text = """
        import os, sys, time, warnings
        warnings.simplefilter("ignore")
        from safejax.compile._job import Request
        from safejax.compile._pool import Pool
        pool = Pool(worker=sys.argv[1:])
        pool.submit(Request(module=b"", options=b"ok")).wait(30)
        job = pool.submit(Request(module=b"", options=b"hang"))
        while job.phase != "compile" or pool.status()["idle"] < 1:
            time.sleep(0.01)
        if os.fork() == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        print(*pool.status()["pids"], flush=True)
        time.sleep(60)
    """
    process = script(text, *fake(), start_new_session=True)
    try:
        pids = list(map(int, process.stdout.readline().split()))
        assert len(pids) == 2
        process.kill()
        eventually(lambda: not any(map(running, pids)))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# The real worker.


def chain(length):
    """A program whose compilation takes long and is never needed."""

    def program(x):
        for number in range(length):
            x = jnp.sin(x) * (number + 1.5) @ x
        return x

    return program


jax = pytest.importorskip("jax")
jnp = jax.numpy


class _Captured(Exception):
    pass


@pytest.fixture
def capture(monkeypatch):
    """What JAX would compile for a call, without compiling it."""
    from jax._src import compiler
    from jax._src.interpreters import mlir

    def take(backend, module, devices, options, callbacks):
        raise _Captured(mlir.module_to_bytecode(module), options.SerializeAsString())

    def of(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(compiler, "backend_compile_and_load", take)
            with pytest.raises(_Captured) as caught:
                jax.jit(function)(*arguments)
        module, options = caught.value.args
        config = WorkerConfig(devices=len(jax.devices("cpu")))
        return Request(module=module, options=options, config=config)

    return of


@pytest.fixture(scope="module")
def pool():
    pool = Pool()
    yield pool
    pids = pool.status()["pids"]
    pool.close()
    assert not any(map(alive, pids))


X = np.linspace(0.1, 2.0, 64, dtype=np.float32).reshape(8, 8)


def fresh(function):
    """A function of its own: nothing that JAX has cached is for it."""

    def copy(x):
        return function(x)

    return copy


PROGRAMS = {
    "arithmetic": lambda x: jnp.sin(x).sum(0) * 2 + x.mean(),
    "decomposition": lambda x: jnp.linalg.cholesky(x @ x.T + 9 * jnp.eye(8)),
    "eigenvalues": lambda x: jnp.linalg.eigh(x + x.T),
    "random": lambda x: jnp.sort(x) + jax.random.normal(jax.random.key(0), (8, 8)),
    "loop": lambda x: jax.lax.fori_loop(0, 9, lambda i, y: jnp.tanh(y @ x) + i, x),
    "gradient": jax.grad(lambda x: (jnp.fft.fft(x).real ** 2).sum()),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_results_are_the_same_bits_as_compiled_in_process(pool, name, monkeypatch):
    from jax._src import compiler
    from jax._src.interpreters import mlir

    program = PROGRAMS[name]
    expected = jax.tree.map(np.asarray, jax.jit(fresh(program))(X))
    responses = []

    def elsewhere(backend, module, devices, options, callbacks):
        config = WorkerConfig(devices=len(backend.local_devices()))
        request = Request(
            module=mlir.module_to_bytecode(module),
            options=options.SerializeAsString(),
            config=config,
        )
        responses.append(pool.submit(request).wait(120))
        executable = responses[-1].executable
        return backend.deserialize_executable(executable, devices, options, callbacks)

    monkeypatch.setattr(compiler, "backend_compile_and_load", elsewhere)
    got = jax.tree.map(np.asarray, jax.jit(fresh(program))(X))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert [response.kind for response in responses] == ["ok"]


def test_programs_over_several_devices_travel():
    text = """
        import os
        import jax, jax.numpy as jnp, numpy as np
        from jax._src import compiler
        from jax._src.interpreters import mlir
        from jax.sharding import NamedSharding, PartitionSpec as P
        from safejax.compile._job import Request, WorkerConfig
        from safejax.compile._pool import Pool
        mesh = jax.make_mesh((4,), ("d",))
        x = np.arange(512, dtype=np.float32).reshape(8, 8, 8) / 512
        x = jax.device_put(x, NamedSharding(mesh, P("d")))
        def f(x):
            y = x @ x.transpose(0, 2, 1) + 9 * jnp.eye(8)
            return jnp.linalg.cholesky(y) + y.sum(0), jnp.sin(x).mean()
        expected = jax.tree.map(np.asarray, jax.jit(f)(x))
        pool, seen = Pool(), []
        def elsewhere(backend, module, devices, options, callbacks):
            config = WorkerConfig(devices=4, xla_flags=os.environ["XLA_FLAGS"])
            request = Request(module=mlir.module_to_bytecode(module),
                              options=options.SerializeAsString(), config=config,
                              devices=tuple(d.id for d in devices))
            response = pool.submit(request).wait(120)
            assert response.kind == "ok", response
            seen.append(response)
            return backend.deserialize_executable(
                response.executable, devices, options, callbacks)
        compiler.backend_compile_and_load = elsewhere
        got = jax.tree.map(np.asarray, jax.jit(lambda x: f(x))(x))
        assert len(seen) == 1
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        pool.close()
        print("fine")
    """
    flags = "--xla_force_host_platform_device_count=4"
    process = script(text, env={**os.environ, "XLA_FLAGS": flags})
    assert process.communicate(timeout=200)[0] == "fine\n"
    assert process.returncode == 0


def test_what_xla_can_not_compile_is_an_error_and_the_worker_lives(pool, capture):
    request = capture(PROGRAMS["arithmetic"], X)
    bad = Request(module=b"no module", options=request.options, config=request.config)
    response = pool.submit(bad).wait(120)
    assert response.kind == "error"
    assert response.text
    kills = pool.status()["kills"]
    assert pool.submit(request).wait(120).kind == "ok"
    assert pool.status()["kills"] == kills


def test_a_device_that_is_not_there_is_an_error(pool, capture):
    request = capture(PROGRAMS["arithmetic"], X)
    bad = Request(
        module=request.module,
        options=request.options,
        devices=(99,),
        config=request.config,
    )
    assert pool.submit(bad).wait(120).kind == "error"


def cpu_ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_kill_ends_a_compilation_in_the_middle(pool, capture):
    job = pool.submit(capture(chain(2000), X))
    eventually(lambda: job.phase == "compile", 120)
    (pid,) = [c.pid for c in pool._crew._runs]
    before = cpu_ticks(pid)
    eventually(lambda: cpu_ticks(pid) > before + 20, 120)  # it works, and works on
    assert job.wait(0) is None
    job.cancel()
    assert job.wait(0).kind == "cancelled"
    eventually(lambda: not alive(pid))
    request = capture(PROGRAMS["arithmetic"], X)
    assert pool.submit(request).wait(120).kind == "ok"


def test_a_compilation_that_takes_too_much_memory_is_ended(pool, capture):
    request = capture(chain(2001), X)
    limited = Request(
        module=request.module,
        options=request.options,
        config=request.config,
        memory_bytes=16 << 20,
    )
    response = pool.submit(limited).wait(120)
    assert response.kind == "memory"
    assert response.grown_bytes > 16 << 20


def test_a_worker_ends_with_its_lifeline_in_the_middle_of_a_compilation(capture):
    request = capture(chain(2002), X)
    child = _child.Child(
        request.config,
        _child.worker_command(),
        max_request_bytes=1 << 30,
        max_response_bytes=1 << 20,
    )
    try:
        eventually(child.pump, 120)
        order = _child.Order(1, request.module, request.options, (0,), 0)
        child.send(order)
        eventually(lambda: child.pump() is None and not child.midway)
        before = cpu_ticks(child.pid)
        eventually(lambda: cpu_ticks(child.pid) > before + 20, 120)
        child._close("lifeline")
        assert child.wait(30.0) == 0
    finally:
        child.kill()
        child.wait(30.0)


def test_a_parent_that_is_killed_leaves_no_worker_behind(capture, tmp_path):
    request = capture(chain(2003), X)
    (tmp_path / "module").write_bytes(request.module)
    (tmp_path / "options").write_bytes(request.options)
    text = """
        import pathlib, sys, time
        from safejax.compile._job import Request
        from safejax.compile._pool import Pool
        folder = pathlib.Path(sys.argv[1])
        pool = Pool()
        job = pool.submit(Request(module=(folder / "module").read_bytes(),
                                  options=(folder / "options").read_bytes()))
        while job.phase != "compile" or pool.status()["idle"] < 1:
            time.sleep(0.01)
        print(*pool.status()["pids"], flush=True)
        job.wait()
    """
    process = script(text, str(tmp_path))
    try:
        pids = list(map(int, process.stdout.readline().split()))
        assert len(pids) == 2
        assert all(map(running, pids))
    finally:
        process.kill()
        process.communicate()
    eventually(lambda: not any(map(running, pids)))
