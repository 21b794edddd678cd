"""T21: files that are opened, made, moved and read while tracing."""

from __future__ import annotations

import io
import linecache
import logging
import os
import pathlib
import shutil
import socket
import sqlite3
import sys
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from threats.bypasses._kit import Trial, bypass, outside

Model = Callable[[Any], Any]
OPENED_BEFORE = (
    "What was opened before is an object like others; reading and writing it has no "
    "event in Python."
)


def doing(act: Callable[[], Any]) -> Model:
    """A model that does this while it is traced."""

    def model(x: Any) -> Any:
        act()
        return x + 1

    return model


def target(trial: Trial) -> str:
    """Where the attack writes; a file there is evidence."""
    return str(trial.folder / "written")


@bypass("T21", "guard")
def open_for_writing(trial: Trial) -> Model:
    """`open(path, "w")`, through `map`."""
    path = target(trial)

    def act() -> None:
        (file,) = map(open, [path], ["w"])
        file.close()

    return doing(act)


@bypass("T21", "guard")
def open_for_reading(trial: Trial) -> Model:
    """`open(path)`: what is read becomes a constant of the program."""
    path = outside(trial) / "secret"

    def model(x: Any) -> Any:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            secret = float(file.read())
        trial.saw(secret)
        return x + secret

    return model


@bypass("T21", "guard")
def lines_of_a_source(trial: Trial) -> Model:
    """`linecache.getlines(path)`: how tracebacks read sources, settings with keys in
    them too."""
    path = outside(trial) / "settings.py"
    path.write_text("KEY = 4711", encoding="utf-8")
    trial.undo(linecache.clearcache)
    return doing(lambda: trial.saw(linecache.getlines(str(path))))


@bypass("T21", "guard")
def lines_of_a_link(trial: Trial) -> Model:
    """The same through a link whose name ends in `.py`: it may be any file."""
    folder = outside(trial)
    (folder / "harmless.py").symlink_to(folder / "secret")
    trial.undo(linecache.clearcache)
    path = str(folder / "harmless.py")
    return doing(lambda: trial.saw(linecache.getlines(path)))


@bypass("T21", "guard")
def reader_named_like_another(trial: Trial) -> Model:
    """A function whose globals say that it is `linecache` opens such a link."""
    folder = outside(trial)
    (folder / "harmless.py").symlink_to(folder / "secret")
    names: dict[str, Any] = {"__name__": "linecache"}
    exec("def read(path):\n    with open(path) as f:\n        return f.read()", names)
    path = str(folder / "harmless.py")
    return doing(lambda: trial.saw(names["read"](path)))


@bypass("T21", "guard")
def os_open(trial: Trial) -> Model:
    """`os.open`: below Python's file objects."""
    path = target(trial)
    return doing(lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)))


@bypass("T21", "guard")
def file_object(trial: Trial) -> Model:
    """`io.FileIO(path, "w")`: no call of `open`."""
    path = target(trial)
    return doing(lambda: io.FileIO(path, "w").close())


@bypass("T21", "guard")
def path_object(trial: Trial) -> Model:
    """`pathlib.Path.write_text`."""
    path = pathlib.Path(target(trial))
    return doing(lambda: path.write_text("x", encoding="utf-8"))


@bypass("T21", "guard")
def temporary_file(trial: Trial) -> Model:
    """`tempfile.mkstemp`."""

    def act() -> None:
        os.close(tempfile.mkstemp(dir=trial.folder)[0])

    return doing(act)


@bypass("T21", "guard")
def folder_made(trial: Trial) -> Model:
    """`os.mkdir`."""
    path = target(trial)
    return doing(lambda: os.mkdir(path))  # noqa: PTH102


@bypass("T21", "guard")
def link(trial: Trial) -> Model:
    """`os.symlink`: the next to write there writes elsewhere."""
    path = target(trial)
    return doing(lambda: os.symlink("elsewhere", path))  # noqa: PTH211


@bypass("T21", "guard")
def file_moved(trial: Trial) -> Model:
    """`os.replace` puts one file in the place of another."""
    path = outside(trial) / "secret"
    return doing(lambda: os.replace(path, target(trial)))  # noqa: PTH105


@bypass("T21", "guard")
def file_removed(trial: Trial) -> Model:
    """`shutil.rmtree`."""
    folder = outside(trial)
    trial.afterwards(lambda: not (folder / "secret").exists())
    trial.undo(folder.mkdir, 0o777, True, True)
    return doing(lambda: shutil.rmtree(folder))


@bypass("T21", "guard")
def folder_listed(trial: Trial) -> Model:
    """`os.scandir`: the names of files."""
    folder = outside(trial)
    return doing(lambda: trial.saw([e.name for e in os.scandir(folder)]))


@bypass("T21", "guard")
def archive(trial: Trial) -> Model:
    """`zipfile.ZipFile(path, "w")`."""
    path = target(trial)
    return doing(lambda: zipfile.ZipFile(path, "w").close())


@bypass("T21", "guard")
def database(trial: Trial) -> Model:
    """`sqlite3.connect(path)`: the file is opened in C."""
    path = target(trial)

    def act() -> None:
        connection = sqlite3.connect(path)
        connection.execute("create table t (x)")
        connection.close()

    return doing(act)


@bypass("T21", "guard")
def handler_of_a_log_file(trial: Trial) -> Model:
    """`logging.FileHandler(path)`."""
    path = target(trial)
    return doing(lambda: logging.FileHandler(path).close())


@bypass("T21", "guard")
def numpy_save(trial: Trial) -> Model:
    """`np.save(path, array)`."""
    path = target(trial)
    return doing(lambda: np.save(path, np.ones(2)))


@bypass("T21", "guard")
def jax_numpy_save(trial: Trial) -> Model:
    """`jnp.save(path, array)`: JAX opens the file on the attacker's behalf."""
    path = target(trial)
    return doing(lambda: jnp.save(path, np.ones(2)))


@bypass("T21", "guard")
def array_to_file(trial: Trial) -> Model:
    """`array.tofile(path)`: a method written in C."""
    path = target(trial)
    return doing(lambda: np.ones(2).tofile(path))


@bypass("T21", "guard")
def array_from_file(trial: Trial) -> Model:
    """`np.fromfile(path)`: a function written in C."""
    path = outside(trial) / "secret"
    return doing(lambda: trial.saw(np.fromfile(path, np.uint8).tobytes()))


@bypass("T21", "guard")
def array_in_a_file(trial: Trial) -> Model:
    """`np.memmap(path)`: an array that is a file."""
    path = target(trial)
    return doing(lambda: np.memmap(path, np.uint8, "w+", shape=4).flush())


@bypass("T21", "guard")
def text_of_numbers(trial: Trial) -> Model:
    """`np.loadtxt(path)`."""
    path = outside(trial) / "secret"
    return doing(lambda: trial.saw(float(np.loadtxt(path))))


@bypass(
    "T21",
    "not defended",
    reason="A few functions of `os` and of extension modules that touch files raise "
    "no audit event: `os.mknod`, `os.mkfifo`, `readline.write_history_file`.",
)
def node(trial: Trial) -> Model:
    """`os.mknod(path)` makes a file."""
    path = target(trial)
    return doing(lambda: os.mknod(path))


@bypass("T21", "not defended", reason=OPENED_BEFORE)
def file_opened_before(trial: Trial) -> Model:
    """`file.write` and `os.write`, of a file that was opened before the scope."""
    path = outside(trial) / "log"
    file = trial.cleanup.enter_context(path.open("wb", buffering=0))
    trial.afterwards(path.read_bytes)

    def act() -> None:
        file.write(b"4711")
        os.write(file.fileno(), b"4711")

    return doing(act)


@bypass("T21", "not defended", reason=OPENED_BEFORE)
def socket_connected_before(trial: Trial) -> Model:
    """`socket.send` on a connection that was made before the scope."""
    ours, theirs = socket.socketpair()
    trial.cleanup.enter_context(ours)
    trial.cleanup.enter_context(theirs)
    theirs.setblocking(False)

    def arrived() -> bytes:
        try:
            return theirs.recv(10)
        except BlockingIOError:
            return b""

    trial.afterwards(arrived)
    return doing(lambda: ours.send(b"4711"))


@bypass(
    "T21",
    "not defended",
    reason="Reading the environment and the state of a file has no event in Python. "
    "Keep secrets out of the environment of a process that traces foreign models.",
)
def environment_and_status(trial: Trial) -> Model:
    """`os.environ`, `os.stat`, `os.path.exists`, `os.getcwd`."""
    path = outside(trial) / "secret"

    def act() -> None:
        trial.saw(os.environ.get("PATH"))
        trial.saw(os.stat(path).st_size)  # noqa: PTH116

    return doing(act)


@bypass("T21", "not defended", reason=OPENED_BEFORE)
def standard_output(trial: Trial) -> Model:
    """`print`: standard output was open before."""
    stream = io.StringIO()
    before = sys.stdout
    sys.stdout = stream
    trial.undo(setattr, sys, "stdout", before)
    trial.afterwards(stream.getvalue)
    return doing(lambda: print("4711"))  # noqa: T201
