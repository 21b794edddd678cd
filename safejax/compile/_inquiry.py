"""Asks a worker what a StableHLO module consists of, before this process reads it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from safejax._file_errors import FormatError
from safejax.compile import _refusals
from safejax.compile._job import Request, Response, WorkerConfig
from safejax.compile._pool import available
from safejax.compile._service import service
from safejax.limits import Limits

# Where no limit says: how long a worker may look, and how far it may grow.
_LONGEST_S = 60.0
_LARGEST_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """What a module consists of.

    Attributes:
        operations: How many operations XLA gets, calls written out.
        stopped: Whether there are more than were looked at.
        endless: Whether a function calls itself.
        loops: How many loops stand inside one another, at most.
        depth: How many regions stand inside one another, at most.
        constant_bytes: How large all constants are together, as arrays.
        largest_constant_bytes: How large the largest is.
        largest_bytes: How large the largest value is, as far as sizes are known.
        argument_bytes: The same of the arguments together.
        result_bytes: And of the results.
        targets: Targets of custom calls, and transfers.
        foreign: Operations of other dialects than those that JAX exports.
        inputs: The types of the arguments.
        outputs: The types of the results.
        has_main: Whether there is a function to call.
    """

    operations: int
    stopped: bool
    endless: bool
    loops: int
    depth: int
    constant_bytes: int
    largest_constant_bytes: int
    largest_bytes: int
    argument_bytes: int
    result_bytes: int
    targets: list[str]
    foreign: list[str]
    inputs: list[str]
    outputs: list[str]
    has_main: bool


def look_into(module: bytes, limits: Limits, function: str) -> Findings:
    """Has a worker read a module that may crash whoever reads it.

    Args:
        module: A portable artifact, of which nothing is known.
        limits: How many operations it may have, how long the worker may take and how
            far it may grow.
        function: Who asks, for errors.

    Raises:
        FormatError: The module can't be read, or the worker did not survive it.
        WorkerError: No worker could be started.
        CompileLimitError: ``SJ209``: too many wait for a worker.
    """
    if not available():
        none = Response(kind="start", text="this platform has no workers")
        raise _refusals.failed(function, none, None)
    most = limits.max_equations
    request = Request(
        module=module,
        options=b"" if most is None else str(most).encode(),
        config=WorkerConfig(looks=True),
        memory_bytes=limits.compile_memory_bytes or _LARGEST_BYTES,
    )
    job = service.submit(request, function)
    try:
        response = job.wait(limits.compile_timeout_s or _LONGEST_S)
    finally:
        job.cancel()  # harmless once it is done
    if response is None:
        raise _unreadable("reading it took too long")
    if response.kind == "start":
        raise _refusals.failed(function, response, None)
    if response.kind != "ok":
        # XLA's text may quote the module.
        told = {"error": "it is broken", "memory": "it takes too much memory to read"}
        raise _unreadable(told.get(response.kind, f"{response.text} reading it"))
    return Findings(**_parsed(response.executable))


def _parsed(answer: bytes) -> dict[str, Any]:
    """The worker's answer; it has read what a stranger wrote."""
    try:
        found = json.loads(answer)
        fields = {field.name: field.type for field in dataclasses.fields(Findings)}
        kinds = {"int": int, "bool": bool, "list[str]": list}
        sound = found.keys() == fields.keys() and all(
            type(found[name]) is kinds[str(kind)] for name, kind in fields.items()
        )
    except (ValueError, AttributeError, RecursionError):
        sound = False
        found = {}
    if not sound:
        raise _unreadable("the worker that read it answered rubbish")
    return dict(found)


def _unreadable(why: str) -> FormatError:
    return FormatError(
        f"the StableHLO module can't be read: {why}",
        details={"reason": why},
        hint="export the program again; this process has not read it",
    )
