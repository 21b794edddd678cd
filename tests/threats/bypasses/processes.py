"""T21: processes, sockets, and memory that is not the program's."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from typing import Any, ClassVar

import numpy as np
from threats.bypasses._kit import Trial, bypass, outside
from threats.bypasses.system import Model, doing, target

# Its name until Python 3.12, and since.
interpreters: Any = importlib.import_module(
    "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
)
NUMPY = "NumPy is written in C and reports nothing: it reads the memory it is told to."
ANOTHER = (
    "What runs in another interpreter is not reported to this one. Python does report "
    "that one is made, but crashes (seen in 3.12.1) if that is refused."
)


@bypass("T21", "guard")
def shell(trial: Trial) -> Model:
    """`os.system(command)`."""
    path = target(trial)
    return doing(lambda: os.system(f"touch {path}"))


@bypass("T21", "guard")
def child_process(trial: Trial) -> Model:
    """`subprocess.run`."""
    command = ["touch", target(trial)]
    return doing(lambda: subprocess.run(command, check=True))


@bypass("T21", "guard")
def posix_spawn(trial: Trial) -> Model:
    """`os.posix_spawn`: below `subprocess`."""
    command = shutil.which("touch") or ""
    path = target(trial)

    def act() -> None:
        os.waitpid(os.posix_spawn(command, ["touch", path], {}), 0)

    return doing(act)


@bypass("T21", "guard")
def pipe_to_a_process(trial: Trial) -> Model:
    """`os.popen(command)`."""
    path = target(trial)
    return doing(lambda: os.popen(f"touch {path}").close())


@bypass("T21", "guard")
def signal_to_a_process(trial: Trial) -> Model:
    """`os.kill`: another process is ended."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def end() -> bool:
        killed = child.poll() is not None
        child.kill()
        child.wait()
        return killed

    def act() -> None:
        os.kill(child.pid, 9)
        child.wait(10)

    trial.afterwards(end)
    return doing(act)


@bypass("T21", "guard")
def connection(trial: Trial) -> Model:
    """`socket.create_connection`: values leave the machine."""
    server = trial.cleanup.enter_context(socket.create_server(("localhost", 0)))
    address = server.getsockname()

    def act() -> None:
        with socket.create_connection(address):
            trial.saw("connected")

    return doing(act)


@bypass("T21", "guard")
def datagram(trial: Trial) -> Model:
    """`socket.sendto`: no connection is made."""
    server = trial.cleanup.enter_context(
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    )
    server.bind(("localhost", 0))

    def act() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"4711", server.getsockname())
        trial.saw(server.recv(10))

    return doing(act)


@bypass("T21", "guard")
def address_looked_up(trial: Trial) -> Model:
    """`socket.getaddrinfo`: a name that is looked up is a message to who answers."""
    return doing(lambda: trial.saw(socket.getaddrinfo("localhost", 80)))


@bypass("T21", "guard")
def url(trial: Trial) -> Model:
    """`urllib.request.urlopen("file:...")`."""
    path = outside(trial) / "secret"

    def act() -> None:
        with urllib.request.urlopen(path.as_uri()) as answer:
            trial.saw(answer.read())

    return doing(act)


@bypass("T21", "guard")
def library_loaded(trial: Trial) -> Model:
    """`ctypes.CDLL(None)`: any function of the C library."""
    path = target(trial).encode()
    return doing(lambda: ctypes.CDLL(None).mkdir(path, 0o777))


@bypass(
    "T21",
    "not defended",
    reason="Calling a C function that was looked up before has no event in Python.",
)
def library_loaded_before(trial: Trial) -> Model:
    """A function of the C library that was looked up before the scope."""
    path = target(trial).encode()
    mkdir = ctypes.CDLL(None).mkdir
    return doing(lambda: mkdir(path, 0o777))


@bypass("T21", "not defended", reason=ANOTHER)
def interpreter_inside(trial: Trial) -> Model:
    """A second interpreter in the same process: hooks of this one do not see what it
    does."""
    text = f"open({target(trial)!r}, 'w').close()"

    def act() -> None:
        made = interpreters.create()
        trial.undo(interpreters.destroy, made)
        interpreters.run_string(made, text)

    return doing(act)


@bypass("T21", "not defended", reason=ANOTHER)
def interpreter_made_before(trial: Trial) -> Model:
    """A second interpreter that was made before the scope."""
    text = f"open({target(trial)!r}, 'w').close()"
    made = interpreters.create()
    trial.undo(interpreters.destroy, made)
    return doing(lambda: interpreters.run_string(made, text))


@bypass("T21", "guard")
def memory_by_address(trial: Trial) -> Model:
    """`ctypes.string_at(address)`: any memory of the process."""
    secret = ctypes.create_string_buffer(b"4711")
    address = ctypes.addressof(secret)
    # `secret` is held, or the memory is another's by the time it is read.
    return doing(lambda kept=secret: trial.saw(ctypes.string_at(address)))


@bypass("T21", "not defended", reason=NUMPY)
def memory_beyond_an_array(trial: Trial) -> Model:
    """`as_strided` of NumPy shows what lies behind an array."""
    memory = np.frombuffer(b"ours4711", np.uint8)
    ours = memory[:4]

    def act() -> None:
        shown = np.lib.stride_tricks.as_strided(ours, shape=(8,)).tobytes()
        trial.saw(b"4711" in shown)

    return doing(act)


@bypass("T21", "not defended", reason=NUMPY)
def memory_of_an_interface(trial: Trial) -> Model:
    """`np.asarray` of an object whose `__array_interface__` names an address."""
    secret = np.frombuffer(b"4711", np.uint8)

    class Sly:
        __array_interface__: ClassVar[dict[str, Any]] = {
            "version": 3,
            "data": (secret.ctypes.data, True),
            "shape": (4,),
            "typestr": "|u1",
        }

    return doing(lambda: trial.saw(np.asarray(Sly()).tobytes() == b"4711"))


@bypass("T21", "guard")
def shared_memory(trial: Trial) -> Model:
    """`mmap` of a file descriptor."""
    path = outside(trial) / "secret"
    file = trial.cleanup.enter_context(path.open("rb"))

    def act() -> None:
        with mmap.mmap(file.fileno(), 4, access=mmap.ACCESS_READ) as memory:
            trial.saw(memory[:])

    return doing(act)
