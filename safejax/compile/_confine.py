"""What a worker gives up before it reads a program, and the proof that it did.

Loaded by the worker by path, in a process with a single thread: Landlock and seccomp
bind the calling thread and those it starts later, not the ones that run already.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_PTRACE_ATTACH = 16
_CLONE_THREAD = 0x10000
# Longer than the kernel takes for one argument, on every page size.
_TOO_LONG = "x" * (32 * 65536 + 1)

# XLA sizes its thread pools by the processors and seeds its random numbers.
_READABLE = (
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/dev/urandom",
)

# Files: already open descriptors need none of these. Chmod and its like are here since
# Landlock does not cover them.
_DENIED = [
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "execve",
    "execveat",
    "fork",
    "vfork",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "kcmp",
    "pidfd_open",
    "pidfd_getfd",
    "pidfd_send_signal",
    "tkill",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "perf_event_open",
    "bpf",
    "mount",
    "umount2",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "pivot_root",
    "chroot",
    "unshare",
    "setns",
    "name_to_handle_at",
    "open_by_handle_at",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "sethostname",
    "setdomainname",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
    "add_key",
    "request_key",
    "keyctl",
    "shmget",
    "shmat",
    "msgget",
    "semget",
    "mq_open",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "utime",
    "utimes",
    "utimensat",
    "futimesat",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setgroups",
    "capset",
    "ioperm",
    "iopl",
    "modify_ldt",
    "personality",
    "syslog",
]
# Signals to others: an abort signals its own process, and must be able to.
_OWN_PROCESS_ONLY = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")


class Extras(NamedTuple):
    """The optional packages, as far as they are installed and work."""

    landlock: ModuleType | None
    seccomp: ModuleType | None


def load_extras() -> Extras:
    """Imports the optional packages; afterwards no file of theirs can be read."""
    seccomp = _optional("pyseccomp")
    return Extras(_optional("landlock"), seccomp)


def _optional(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError):
        # pyseccomp raises RuntimeError where libseccomp is missing, AttributeError
        # where it is too old.
        return None


def confine(extras: Extras) -> dict[str, bool | str]:
    """Gives up what compilation does not need, and reports what really holds."""
    single = _threads() == 1
    writable = _writable_directory()
    report: dict[str, bool | str] = {
        "rlimits": _limit(),
        "undumpable": _prctl(_PR_SET_DUMPABLE, 0) == 0
        and _prctl(_PR_GET_DUMPABLE) == 0,
        "no_new_privs": _prctl(_PR_SET_NO_NEW_PRIVS, 1) == 0
        and _prctl(_PR_GET_NO_NEW_PRIVS) == 1,
        "landlock": single and _try(_apply_landlock, extras.landlock),
        "seccomp": single and _try(_apply_seccomp, extras.seccomp),
    }
    return report | _prove(writable)


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends.

    Args:
        parent: The process id of the parent; if it is gone already, so is this one.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int = 0) -> int:
    if sys.platform != "linux":
        return -1
    libc = ctypes.CDLL(None)
    return int(libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))))


def _threads() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names, counted
    return 1


def _limit() -> bool:
    """Sets the limits that hold everywhere; both the soft and the hard ones."""
    # No core file holds a caller's constants; no file grows, so none is written (the
    # write fails with EFBIG: Python ignores SIGXFSZ); few descriptors are needed.
    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 64 if files == resource.RLIM_INFINITY else min(64, files)
    wanted[resource.RLIMIT_NOFILE] = most
    try:
        for which, limit in wanted.items():
            resource.setrlimit(which, (limit, limit))
    except (OSError, ValueError):
        return False
    return all(resource.getrlimit(which) == (v, v) for which, v in wanted.items())


def _try(apply: Callable[[Any], None], module: ModuleType | None) -> bool:
    """Applies one optional layer; the probes afterwards tell what it is worth."""
    if module is None:
        return False
    try:
        apply(module)
    except Exception:  # noqa: BLE001 - two libraries and a kernel; reported, not hidden
        return False
    return True


def _apply_landlock(landlock: Any) -> None:
    ruleset = landlock.Ruleset()
    access = landlock.FSAccess
    for path in _READABLE:
        rights = access.READ_FILE
        if os.path.isdir(path):  # noqa: PTH112 - pathlib is not imported here
            rights |= access.READ_DIR
        with contextlib.suppress(FileNotFoundError):
            ruleset.allow(path, rules=rights)
    ruleset.apply()


def _apply_seccomp(seccomp: Any) -> None:
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    denied = seccomp.ERRNO(errno.EPERM)
    for name in _DENIED:
        _add(rules, denied, name)
    own = os.getpid()
    for name in _OWN_PROCESS_ONLY:
        _add(rules, denied, name, seccomp.Arg(0, seccomp.NE, own))
    # Threads are needed, processes are not. The flags of clone3 lie in memory, out of a
    # filter's sight: say that it does not exist, and libc takes clone.
    _add(rules, seccomp.ERRNO(errno.ENOSYS), "clone3")
    _add(rules, denied, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0))
    rules.load()


def _add(rules: Any, action: int, name: str, *args: Any) -> None:
    # A call unknown to this libseccomp, or absent on this processor, can't be named.
    # What matters most is probed afterwards.
    with contextlib.suppress(OSError):
        rules.add_rule(action, name, *args)


def _writable_directory() -> str:
    """Where a write would succeed now, so that a later failure proves something."""
    usual = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - to be refused there
    return next((path for path in usual if os.access(path, os.W_OK)), usual[0])


def _prove(writable: str) -> dict[str, bool | str]:
    attempts: dict[str, Callable[[], None]] = {
        "open": _attempt_open,
        "write": lambda: _attempt_write(writable),
        "socket": _attempt_socket,
        "exec": _attempt_exec,
        "ptrace": _attempt_ptrace,
        "signal": lambda: os.kill(os.getppid(), 0),
    }
    return {name: _outcome(attempt) for name, attempt in attempts.items()}


def _outcome(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EFBIG):
            return "denied"
        # Failed for a reason that has nothing to do with confinement.
        return "allowed"
    return "allowed"


def _attempt_open() -> None:
    os.close(os.open("/etc/passwd", os.O_RDONLY))


def _attempt_write(directory: str) -> None:
    name = f"{directory}/safejax-probe-{secrets.token_hex(8)}"
    descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, b"x")
    finally:
        os.close(descriptor)
        os.unlink(name)  # noqa: PTH108 - pathlib is not imported here


def _attempt_socket() -> None:
    with socket.socket() as probe:
        probe.setblocking(False)  # noqa: FBT003 - the name says it
        probe.connect(("127.0.0.1", 9))


def _attempt_exec() -> None:
    # If this were allowed, it would fail for the length of the argument; the process is
    # never replaced.
    os.execv(sys.executable, [sys.executable, _TOO_LONG])  # noqa: S606 - no shell


def _attempt_ptrace() -> None:
    # No process has this id: where tracing is allowed, none is found.
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    if libc.ptrace(_PTRACE_ATTACH, 0x7FFF_FFFF, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
