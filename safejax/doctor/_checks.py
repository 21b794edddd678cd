"""The checks: each takes the facts and says what it thinks of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from safejax.doctor._folder import Folder
from safejax.doctor._records import SETTINGS, Facts, Finding
from safejax.doctor._scan import Seen

# What this release was tested with, at both ends; a newer line is not known to fail.
_OLDEST_PYTHON = (3, 11)
_OLDEST_JAX = (0, 10, 2)
_NEWEST_JAX = (0, 12)

_DEBUG = {
    "jax_debug_nans": "a call with a NaN in it makes JAX run the function again, one "
    "operation at a time, and raise",
    "jax_debug_infs": "a call with an infinity in it makes JAX run the function again, "
    "one operation at a time, and raise",
    "jax_log_compiles": "every compilation writes lines to the log, with the shapes of "
    "its arguments",
    "jax_explain_cache_misses": "every new signature writes an explanation to the log",
}


def check_versions(facts: Facts) -> Iterator[Finding]:
    """Python and JAX against what is supported."""
    python = ".".join(map(str, facts.python))
    if facts.python < _OLDEST_PYTHON:
        yield Finding(
            "versions",
            "problem",
            f"Python {python} is too old",
            "install 3.11 or later",
        )
    jax = facts.versions.get("jax", "")
    number = tuple(int(part) for part in re.findall(r"\d+", jax)[:3])
    if number < _OLDEST_JAX:
        yield Finding(
            "versions",
            "problem",
            f"JAX {jax or 'without a version'} is older than 0.10.2",
            "install a JAX release that the documentation lists",
        )
    elif number[:2] > _NEWEST_JAX:
        yield Finding(
            "versions",
            "warning",
            f"JAX {jax} is newer than what this safejax was tested with (0.12)",
            "run your own tests, or update safejax",
        )
    if facts.optimized:
        yield Finding(
            "versions",
            "note",
            "Python runs with -O: what other packages check with `assert` is unchecked",
            "start Python without -O if you rely on it; safejax does not",
        )


def check_jax(facts: Facts) -> Iterator[Finding]:
    """What safejax relies on in JAX (``SJ001``)."""
    if facts.changed:
        yield Finding(
            "jax",
            "problem",
            f"[SJ001] {facts.changed}",
            "install a JAX release that the documentation lists",
        )


def check_workers(facts: Facts) -> Iterator[Finding]:
    """Whether compilations can be killed, and what a worker could do."""
    if facts.lacking is None:
        yield Finding(
            "workers",
            "warning",
            "compilations can't run in a process of their own, so none can be killed: "
            f"{facts.worker_error}",
            "limit what may be compiled by caps and rates, or serve on Linux and CPU",
        )
    elif facts.lacking:
        yield Finding(
            "workers",
            "warning",
            f"compile workers are not confined: {', '.join(facts.lacking)}",
            "`python -m pip install landlock pyseccomp`, with libseccomp, then "
            "set_compile_workers(require_confinement=True)",
        )


def check_compile_cache(facts: Facts) -> Iterator[Finding]:
    """JAX's compile cache: it runs what it finds there, and checks nothing."""
    cache = facts.cache
    if cache is None:
        return
    why = _why_others_write(cache)
    if why:
        yield Finding(
            "compile-cache",
            "problem",
            f"others can write to JAX's compile cache, whose programs JAX runs "
            f"unverified: {why}",
            "use safejax.compile_cache, which verifies what it loads, or a folder of "
            "this user's with mode 0700",
            cache.path,
        )
    else:
        yield Finding(
            "compile-cache",
            "note",
            "JAX runs what is in its compile cache unverified; only this user can "
            "write there",
            "keep it so, or use safejax.compile_cache, which verifies what it loads",
            cache.path,
        )


def _why_others_write(cache: Folder) -> str:
    if cache.kind == "url":
        return (
            "it is on another machine, and who may write there can't be seen from here"
        )
    if cache.weak:
        return f"others may change {cache.weak[0]}, above it"
    if cache.kind == "absent":
        return ""
    if cache.kind != "folder":
        return "it is a link" if cache.kind == "link" else "it is no folder"
    if not cache.is_ours:
        return "it belongs to another user"
    return f"its mode is {cache.mode:04o}" if cache.mode & 0o022 else ""


def check_dumps(facts: Facts) -> Iterator[Finding]:
    """Programs written to files: captured arrays are in them, so weights may be."""
    if facts.settings.get("jax_dump_ir_to"):
        yield Finding(
            "dumps",
            "problem",
            "JAX writes every program, with the arrays captured in it, to files",
            "unset JAX_DUMP_IR_TO",
            str(facts.settings["jax_dump_ir_to"]),
        )
    found = re.search(r"--xla_dump_\w+(?:=(\S+))?", facts.xla_flags)
    if found:
        yield Finding(
            "dumps",
            "problem",
            f"XLA_FLAGS has {found[0].partition('=')[0]}: XLA writes every program, "
            "with the arrays captured in it",
            "remove --xla_dump_... from XLA_FLAGS",
        )


def check_profiler(facts: Facts) -> Iterator[Finding]:
    """JAX's profiler server: whoever reaches its port sees what runs."""
    if facts.profiler:
        yield Finding(
            "profiler",
            "problem",
            "JAX's profiler server listens in this process, without authentication",
            "call jax.profiler.stop_server(), and start none where others can connect",
        )
    elif facts.profiler is None:
        yield Finding(
            "profiler",
            "note",
            "whether JAX's profiler server runs can't be seen in this version",
            "search the code for start_server",
        )


def check_debugging(facts: Facts) -> Iterator[Finding]:
    """Settings for debugging that cost, tell or undo something when one serves."""
    gone = [name for name in SETTINGS if name not in facts.settings]
    if gone:
        yield Finding(
            "debugging",
            "note",
            f"this JAX does not have the settings {', '.join(gone)}",
        )
    if facts.settings.get("jax_disable_jit"):
        yield Finding(
            "debugging",
            "problem",
            "jax_disable_jit is set: nothing is compiled as a whole, so that no limit "
            "on compilations holds",
            "unset JAX_DISABLE_JIT",
        )
    for name, text in _DEBUG.items():
        if facts.settings.get(name):
            yield Finding(
                "debugging",
                "warning",
                f"{name} is set: {text}",
                f"unset {name.upper()} where others send the calls",
            )


def check_core_dumps(facts: Facts) -> Iterator[Finding]:
    """A core dump has the keys of the process in it."""
    if not facts.dumps_core:
        return
    seen = facts.scan.seen if facts.scan else ()
    has_key = facts.has_key or any(not file.runs_code for file in seen)
    yield Finding(
        "core-dumps",
        "warning" if has_key else "note",
        "a crash writes the memory of the process to a file, signing keys included",
        "`ulimit -c 0`, and no pipe in /proc/sys/kernel/core_pattern",
    )


def check_files(facts: Facts) -> Iterator[Finding]:
    """Files that run code when they are loaded, and keys that others can read."""
    scan = facts.scan
    if scan is None:
        return
    yield from (finding for seen in scan.seen for finding in _about(seen))
    if not scan.complete:
        yield Finding(
            "files",
            "warning",
            f"too many files, or too deep: {scan.files} were looked at, not all",
            "name the folders that matter",
        )
    if scan.unreadable:
        yield Finding(
            "files",
            "warning",
            f"{scan.unreadable} files could not be read",
            "run this as the user that loads them",
        )


def _about(seen: Seen) -> Iterator[Finding]:
    if seen.runs_code:
        yield Finding(
            "files",
            "problem",
            f"{seen.runs_code}: loading it runs whatever code its author put in",
            "convert it once, where nothing is at stake, and sign it (safejax convert)",
            seen.path,
        )
    elif seen.mode & 0o077:
        yield Finding(
            "keys",
            "problem",
            f"a key file that others may use: mode {seen.mode:04o}",
            "make a new key (safejax keygen), sign again (safejax resign), and delete "
            "this one: it may have been read",
            seen.path,
        )


def _versions(facts: Facts) -> str:
    python = ".".join(map(str, facts.python))
    projects = [f"{name} {version}" for name, version in facts.versions.items()]
    return ", ".join([f"Python {python}", *projects])


def _cache(facts: Facts) -> str:
    return "signed, and open" if facts.has_store else "JAX's own is off"


def _files(facts: Facts) -> str:
    if facts.scan is None:
        return "no folder was named"
    return f"{facts.scan.files} files, none that runs code when it is loaded"


_Check = Callable[[Facts], Iterator[Finding]]
# With what to say where a check finds nothing.
CHECKS: dict[str, tuple[_Check, Callable[[Facts], str]]] = {
    "versions": (check_versions, _versions),
    "jax": (check_jax, lambda _: "has what safejax relies on"),
    "workers": (check_workers, lambda _: "have shown that they are confined"),
    "compile-cache": (check_compile_cache, _cache),
    "dumps": (check_dumps, lambda _: "programs are not written to files"),
    "profiler": (check_profiler, lambda _: "its server is not running"),
    "debugging": (check_debugging, lambda _: "no setting that costs or tells"),
    "core-dumps": (check_core_dumps, lambda _: "off"),
    "files": (check_files, _files),
}


def examine(facts: Facts) -> list[Finding]:
    """All checks; one that finds nothing says what is so instead."""
    findings: list[Finding] = []
    for name, (check, so) in CHECKS.items():
        said = list(check(facts))
        findings += said or [Finding(name, "ok", so(facts))]
    return findings
