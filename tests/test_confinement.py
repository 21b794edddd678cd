"""What a worker gives up, and that it says the truth about it."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
import textwrap
import time

import pytest

from safejax.compile import _child, _protocol
from safejax.compile._child import Child
from safejax.compile._job import Request, WorkerConfig
from safejax.compile._pool import Pool

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="confinement is for Linux"
)

FOLDER = pathlib.Path(_child.__file__).parent


def confined(code):
    """Runs code in a process of its own after confinement, as the worker would."""
    program = f"""
        import importlib.util, sys
        sys.path.extend({list(_child.package_paths())!r})
        spec = importlib.util.spec_from_file_location(
            "_confine", {str(FOLDER / "_confine.py")!r})
        confine = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(confine)
        import errno, os, resource, socket, subprocess, threading
        extras = confine.load_extras()
    """
    result = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            textwrap.dedent(program) + textwrap.dedent(code),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def extras_work():
    """Whether the optional layers can be put in force on this machine."""
    if not all(map(importlib.util.find_spec, ("landlock", "pyseccomp"))):
        return False
    code = """
        report = confine.confine(extras)
        print(report["landlock"], report["seccomp"])
    """
    return confined(code) == ["True", "True"]


@pytest.fixture(scope="module")
def extras():
    if not extras_work():
        pytest.skip("landlock and pyseccomp are not installed, or can't be in force")


@pytest.fixture(scope="module")
def hello():
    """What a real worker says of itself."""
    child = Child(
        WorkerConfig(),
        _child.worker_command(),
        max_request_bytes=1 << 20,
        max_response_bytes=1 << 20,
    )
    try:
        end = time.monotonic() + 100
        while (frame := child.pump()) is None:
            assert time.monotonic() < end, child.stderr
            time.sleep(0.01)
        yield _protocol.parse_hello(frame[1])
    finally:
        child.kill()
        child.wait(30.0)


def test_the_base_measures_always_hold(hello):
    for name in ("no_new_privs", "rlimits", "undumpable"):
        assert hello.confinement[name] is True


def test_a_worker_reports_each_probe_and_measure(hello):
    expected = {*_protocol.PROBES, *_protocol.MEASURES}
    assert set(hello.confinement) == expected
    probes = {hello.confinement[name] for name in _protocol.PROBES}
    assert probes <= {"denied", "allowed"}


def test_writing_is_denied_even_without_the_extras():
    code = """
        report = confine.confine(confine.Extras(None, None))
        print(report["write"], report["landlock"], report["seccomp"])
    """
    assert confined(code) == ["denied", "False", "False"]


def test_without_the_extras_what_is_allowed_is_said_so():
    code = """
        report = confine.confine(confine.Extras(None, None))
        print(*(report[name] for name in ("open", "socket", "exec")))
    """
    assert confined(code) == ["allowed"] * 3


def test_the_probes_leave_nothing_behind():
    code = """
        confine.confine(confine.Extras(None, None))
        print(sum("safejax-probe" in name for name in os.listdir("/tmp")))
    """
    assert confined(code) == ["0"]


def test_limits_can_not_be_raised_again():
    code = """
        confine.confine(confine.Extras(None, None))
        print(*resource.getrlimit(resource.RLIMIT_CORE))
        print(*resource.getrlimit(resource.RLIMIT_FSIZE))
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 64)
    """
    assert confined(code) == ["0", "0", "0", "0", "True"]


def test_with_the_extras_a_worker_is_fully_confined(extras, hello):
    assert hello.unconfined == []


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/hostname')",
        "os.listdir('/')",
        "open('/tmp/safejax-test', 'w')",
        "open('/dev/shm/safejax-test', 'w')",
        "os.mkdir('/tmp/safejax-test')",
        "os.unlink(VICTIM)",
        "os.rename(VICTIM, '/tmp/safejax-test')",
        "os.chmod(VICTIM, 0o777)",
        "os.utime(VICTIM)",
        "os.truncate(VICTIM, 0)",
        "os.symlink('/etc', '/tmp/safejax-test')",
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.fork()",
        "os.kill(os.getppid(), 0)",
        "os.kill(1, 0)",
        "os.kill(-1, 0)",
        "os.chroot('/')",
        "os.setuid(12345)",
    ],
)
def test_what_is_forbidden_is_refused(extras, attempt, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    code = f"""
        VICTIM = {str(victim)!r}
        confine.confine(extras)
        try:
            {attempt}
        except OSError as error:
            # Sandbox refusals, not accidents such as a missing file.
            print(error.errno in (errno.EPERM, errno.EACCES))
    """
    assert confined(code) == ["True"]
    assert victim.read_text() == "untouched"


def test_what_a_compiler_needs_still_works(extras):
    code = """
        confine.confine(extras)
        seen = []
        threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(seen), len(os.urandom(4)), len(bytearray(1 << 26)))
        os.kill(os.getpid(), 0)
        open("/proc/self/status").close()
        open("/sys/devices/system/cpu/online").close()
    """
    assert confined(code) == ["4", "4", str(1 << 26)]


def test_threads_started_later_are_confined_too(extras):
    code = """
        confine.confine(extras)
        def attempt():
            for call in (lambda: open("/etc/passwd"), socket.socket):
                try:
                    call()
                except OSError:
                    print("denied")
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    """
    assert confined(code) == ["denied", "denied"]


def test_a_process_with_threads_already_does_not_claim_to_be_confined(extras):
    code = """
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        thread.start()
        report = confine.confine(extras)
        gate.set()
        thread.join()
        print(report["landlock"], report["seccomp"], report["open"])
    """
    assert confined(code) == ["False", "False", "allowed"]


def test_an_abort_still_ends_the_process_by_its_signal(extras):
    program = "confine.confine(extras)\nos.abort()"
    with pytest.raises(AssertionError):
        confined(program)


def test_required_confinement_compiles_where_it_is_proven(extras):
    pool = Pool(require_confinement=True)
    try:
        request = Request(module=b"no module", options=b"")
        # An answer of XLA: the worker was let in.
        assert pool.submit(request).wait(100).kind == "error"
        assert pool.status()["confinement"]["open"] == "denied"
    finally:
        pool.close()


def test_required_confinement_fails_closed_without_the_extras(hello, monkeypatch):
    if not hello.unconfined:
        pytest.skip("the extras are installed here")
    pool = Pool(require_confinement=True)
    try:
        response = pool.submit(Request(module=b"", options=b"")).wait(100)
        assert response.kind == "start"
        assert "not confined" in response.text
    finally:
        pool.close()


def test_a_worker_can_not_be_traced_by_its_own_user(hello):
    code = """
        confine.confine(confine.Extras(None, None))
        import ctypes
        print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
    """
    assert confined(code) == ["0"]
