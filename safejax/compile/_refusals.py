"""The errors of a compilation that was refused or ended, each in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safejax.compile._deadline import Deadline
from safejax.compile._job import Response
from safejax.compile._rates import Refusal
from safejax.errors import (
    CompileLimitError,
    CompileMemoryError,
    CompileTimeoutError,
    WorkerError,
)

_SCOPES = {
    "function": "its own rate",
    "tenant": "the rate of this tenant",
    "process": "the rate of the process",
}


def full(
    function: str,
    live: int,
    limit: int,
    difference: Callable[[], list[str]],
    advice: Callable[[], str],
) -> CompileLimitError:
    """The function owns as many programs as it may; explained when it is read."""

    def message() -> str:
        lines = [
            f"{function}() refused a new program: "
            f"{live} of max_compiles={limit} are live",
            *(f"  {line}" for line in difference()),
        ]
        return "\n".join(lines)

    return CompileLimitError(
        message,
        code="SJ201",
        details=lambda: {
            "function": function,
            "max_compiles": limit,
            "live": live,
            "difference": difference(),
            "advice": advice(),
        },
        hint=advice,
    )


def process_full(function: str, live: int, limit: int) -> CompileLimitError:
    """The budget of the process is used up."""
    return CompileLimitError(
        f"{function}() refused a new program: the process owns {live} of "
        f"max_compiles={limit}",
        code="SJ202",
        details={"function": function, "max_compiles": limit, "live": live},
        hint="free programs with clear_cache(), or set_process_limits() higher",
    )


def tenant_full(function: str, live: int, limit: int) -> CompileLimitError:
    """The tenant owns its share."""
    return CompileLimitError(
        f"{function}() refused a new program: this tenant owns {live} of {limit}",
        code="SJ207",
        details={"function": function, "max_compiles_per_tenant": limit, "live": live},
        hint="known signatures are still served; other tenants are not affected",
    )


def rate_exceeded(function: str, refusal: Refusal) -> CompileLimitError:
    """Too many compilations in too short a time."""
    return CompileLimitError(
        f"{function}() refused a new program: {_SCOPES[refusal.scope]} is used up",
        code="SJ203",
        details={"function": function, "scope": refusal.scope},
        hint=f"try again in {refusal.retry_after_s:.1f} s; "
        "known signatures are still served",
        retry_after_s=refusal.retry_after_s,
    )


def frozen(function: str, *, whole_process: bool) -> CompileLimitError:
    """Nothing new is compiled after a freeze."""
    what = "the process is" if whole_process else "it is"
    return CompileLimitError(
        f"{function}() refused a new program: {what} frozen",
        code="SJ204",
        details={"function": function, "process": whole_process},
        hint="compile every signature that will be served before freeze()",
    )


def backing_off(function: str, retry_after_s: float, why: str) -> CompileLimitError:
    """The same signature failed a moment ago."""
    reason = f": {why}" if why else ""
    return CompileLimitError(
        f"{function}() refused a signature that failed a moment ago{reason}",
        code="SJ205",
        details={"function": function},
        hint=f"it may be tried again in {retry_after_s:.1f} s",
        retry_after_s=retry_after_s,
    )


def too_many_orphans(function: str, limit: int) -> CompileLimitError:
    """Abandoned compilations that can't be killed are still running."""
    return CompileLimitError(
        f"{function}() refused a new program: {limit} abandoned compilations still run",
        code="SJ208",
        details={"function": function, "max_orphans": limit},
        hint="compilations in threads can't be killed; wait for them to end",
    )


def queue_full(function: str) -> CompileLimitError:
    """All compile workers are busy and too many compilations wait for one."""
    return CompileLimitError(
        f"{function}() refused a new program: too many wait for a compile worker",
        code="SJ209",
        details={"function": function},
        hint="known signatures are still served; try again later",
        retry_after_s=1.0,
    )


def forked(function: str) -> WorkerError:
    """XLA's threads are the parent's."""
    return WorkerError(
        f"{function}() refused a new program: XLA does not answer in this process, "
        "which was forked from one that had used JAX",
        code="SJ231",
        details={"function": function},
        hint="start processes with multiprocessing's 'spawn' or 'forkserver', "
        "or fork before JAX is used",
    )


def too_late(
    function: str, deadline: Deadline, phase: str, program_bytes: int | None = None
) -> CompileTimeoutError:
    """The deadline of a compilation has passed."""
    details: dict[str, Any] = {
        "function": function,
        "phase": phase,
        "elapsed_s": round(deadline.elapsed_s, 3),
        "limit_s": deadline.limit_s,
        "program_bytes": program_bytes,
    }
    size = "" if program_bytes is None else f"; the program has {program_bytes} bytes"
    return CompileTimeoutError(
        f"{function}() gave up in phase {phase!r} after {deadline.elapsed_s:.2f} s "
        f"(compile_timeout_s={deadline.limit_s}){size}",
        details=details,
        hint="make the program smaller (lax.scan instead of a Python loop), "
        "or raise compile_timeout_s",
    )


def failed(
    function: str, response: Response, memory_bytes: int | None
) -> CompileMemoryError | WorkerError:
    """The worker did not bring the compilation to an end."""
    if response.kind == "memory":
        return CompileMemoryError(
            f"{function}(): compiling it took more than "
            f"compile_memory_bytes={memory_bytes}",
            details={
                "function": function,
                "limit_bytes": memory_bytes,
                "grown_bytes": response.grown_bytes,
            },
            hint="pass large constants as arguments, or raise compile_memory_bytes",
        )
    return WorkerError(
        f"{function}(): the compile worker failed: {response.text}",
        details={
            "function": function,
            "kind": response.kind,
            "signal": response.signal,
        },
        hint="the program crashes XLA or the worker; this process is not affected",
    )
