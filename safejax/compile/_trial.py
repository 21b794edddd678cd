"""Whether an executable can be loaded, found out in a worker.

A genuine executable can end the process that loads it: LLVM links the kernels of a
large program on a stack that is too small for it, for example. It is the worker then
that ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Literal

from safejax import _jax
from safejax.compile._job import Job, Request, WorkerConfig
from safejax.compile._pool import available
from safejax.errors import CompileLimitError, WorkerError

# What XLA says of a custom call that a worker has no code for.
UNKNOWN_TARGET: Final = "No FFI handler registered"

Verdict = Literal["loads", "refused", "crashes", "untried"]

_VERDICTS: Final[dict[str, Verdict]] = {
    "ok": "loads",
    "error": "refused",
    "start": "untried",
    "cancelled": "untried",
}

# Loading takes milliseconds, starting a worker less than a second.
_LONGEST_S = 30.0


def request_for(
    task: _jax.CompileTask,
    module: bytes,
    *,
    memory_bytes: int | None = None,
    is_trial: bool = False,
) -> Request:
    """What a worker is told about a compilation of this process."""
    return Request(
        module=module,
        options=task.options,
        devices=task.device_ids,
        config=WorkerConfig(
            devices=task.device_count, xla_flags=os.environ.get("XLA_FLAGS", "")
        ),
        memory_bytes=memory_bytes,
        is_trial=is_trial,
    )


def try_to_load(
    submit: Callable[[Request, str], Job],
    task: _jax.CompileTask,
    executable: bytes,
    patience_s: float | None,
) -> Verdict:
    """What became of a worker that loaded it.

    ``"untried"``: no worker could try it in time. ``"loads"`` also where workers have
    no such backend, or not the code of a custom call: then there is nothing to learn
    from them.
    """
    if task.platform != "cpu":
        return "loads"
    if not available():
        return "untried"
    wait_s = _LONGEST_S if patience_s is None else min(patience_s, _LONGEST_S)
    try:
        job = submit(request_for(task, executable, is_trial=True), task.name)
    except (CompileLimitError, WorkerError):
        return "untried"
    try:
        response = job.wait(wait_s)
    finally:
        if not job.done:
            job.cancel()
    if response is None:
        return "crashes" if wait_s == _LONGEST_S else "untried"
    if response.kind == "error" and UNKNOWN_TARGET in response.text:
        return "loads"
    return _VERDICTS.get(response.kind, "crashes")
