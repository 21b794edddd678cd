"""Whether a module may be used, by what a worker has found in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from safejax.compile._inquiry import Findings
from safejax.errors import ProgramRejectedError
from safejax.export._flat import malformed
from safejax.guard._policy import Policy
from safejax.limits import Limits
from safejax.review._modules import judge_targets

_DEEPEST: Final = 100

# Code, limit, what was found, and how to say it.
_BUDGETS: Final = (
    ("SJ403", "max_equations", "operations", "operations, calls written out"),
    ("SJ409", "max_loop_nesting", "loops", "loops inside one another"),
    ("SJ405", "max_constant_bytes", "constant_bytes", "bytes of constants"),
    ("SJ406", "max_output_bytes", "result_bytes", "bytes of results"),
    ("SJ407", "max_memory_bytes", "argument_bytes", "bytes of arguments"),
    ("SJ407", "max_memory_bytes", "largest_bytes", "bytes for one value"),
)


def judge_findings(
    found: Findings, function: str, limits: Limits, policies: Sequence[Policy]
) -> None:
    """Refuses what the limits or the policies don't admit.

    Raises:
        FormatError: The module has nothing that could be called.
        ProgramRejectedError: ``SJ401``, an operation of an unknown dialect; ``SJ402``,
            a custom call or a transfer; ``SJ403`` and ``SJ405`` to ``SJ409``, a budget.
    """
    if not found.has_main:
        raise malformed("its module has no main function")
    if found.depth > _DEEPEST:
        raise malformed(f"its module is nested deeper than {_DEEPEST} regions")
    if found.endless:
        raise _refused(function, "SJ403", "a function of its module calls itself", {})
    if found.foreign:
        raise _refused(
            function,
            "SJ401",
            f"operations that JAX does not export: {', '.join(found.foreign[:5])}",
            {"items": found.foreign},
        )
    judge_targets(found.targets, function, policies)
    for code, name, field, words in _BUDGETS:
        limit, got = getattr(limits, name), getattr(found, field)
        if limit is not None and got > limit:
            more = "more than " if found.stopped and field == "operations" else ""
            number = limit if more else got
            raise _refused(
                function,
                code,
                f"{name}={limit:,}: {more}{number:,} {words}",
                {"limit": limit, "got": got},
            )


def _refused(
    function: str, code: str, why: str, details: dict[str, Any]
) -> ProgramRejectedError:
    return ProgramRejectedError(
        f"{function}() refused: {why}",
        code=code,
        details={"function": function, **details},
        hint="raise the limit with limits= if the program is meant to be like that",
    )
