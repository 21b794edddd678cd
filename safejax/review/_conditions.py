"""What a program must meet on its way: while traced, lowered, compiled and run."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from safejax import _jax
from safejax.errors import ProgramRejectedError
from safejax.guard import _scope
from safejax.guard._policy import Policy
from safejax.limits import Limits
from safejax.review import _judge, _modules, _sources

_SHOWN_SOURCES = 3


class Conditions:
    """The limits and the policy of one function, put to each of its programs."""

    def __init__(self, function: str, limits: Limits, policy: Policy | None) -> None:
        self._function = function
        self._limits = limits
        self._own = () if policy is None else (policy,)
        self._has_budget = (
            limits.max_equations is not None or limits.trace_timeout_s is not None
        )

    @property
    def is_guarded(self) -> bool:
        """Whether the function has a policy of its own."""
        return bool(self._own)

    def trace(self, trace: Callable[[], Any]) -> Any:
        """Traces under the guard and within the budgets, and judges what comes out.

        Raises:
            GuardError: An API was called that a policy disallows.
            ProgramRejectedError: The program is not admitted.
        """
        with self.tracing():
            traced = trace()
            # What stands for a program is expanded here, by code the user may have
            # brought; JAX keeps the result.
            _jax.program_of(traced)
        _judge.judge(
            traced,
            function=self._function,
            limits=self._limits,
            policies=self.policies(),
        )
        return traced

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """The guard and the budgets alone, for a trace that is part of another."""
        with contextlib.ExitStack() as stack:
            for policy in self._own:
                stack.enter_context(_scope.tracing(policy))
            if self._has_budget:
                budget = _jax.TraceBudget(
                    self._limits.max_equations,
                    self._limits.trace_timeout_s,
                    self._overspent,
                )
                stack.enter_context(_jax.tracing_within(budget))
            yield

    @contextlib.contextmanager
    def found_again(self) -> Iterator[None]:
        """JAX finds in the block what was traced under the guard, unguarded."""
        with contextlib.ExitStack() as stack:
            for policy in self._own:
                stack.enter_context(_scope.keyed(policy))
            yield

    def module(self, module: Any) -> None:
        """Judges a lowered program.

        Raises:
            ProgramRejectedError: ``SJ402``, a custom call that is not admitted.
        """
        policies = self.policies()
        if policies:
            _modules.judge_module(module, self._function, policies)

    def needs(self, needs: _jax.Needs) -> None:
        """Judges a compiled program by what it needs in fact.

        Raises:
            ProgramRejectedError: ``SJ407``, more memory than allowed.
        """
        limit = self._limits.max_memory_bytes
        if limit is not None and needs.total > limit:
            raise ProgramRejectedError(
                f"{self._function}() refused: it needs {needs.total:,} bytes "
                f"(max_memory_bytes={limit:,})",
                code="SJ407",
                details={
                    "function": self._function,
                    "limit": limit,
                    "got": needs.total,
                    "argument_bytes": needs.arguments,
                    "output_bytes": needs.outputs,
                    "temporary_bytes": needs.temporaries,
                },
                hint="its .review() says which buffers are alive at the peak",
            )

    def policies(self) -> tuple[Policy, ...]:
        """Those of the open scopes, and its own."""
        return (*_scope.active(), *self._own)

    def _overspent(self, spent: _jax.Overspent) -> ProgramRejectedError:
        counts = Counter(_sources.Source(*at, "").short for at in spent.sources)
        heaviest = counts.most_common(_SHOWN_SOURCES)
        lines = [f"{source} ({count:,})" for source, count in heaviest]
        limit = self._limits.max_equations
        is_long = limit is not None and spent.equations > limit
        what = (
            f"max_equations={limit:,}"
            if is_long
            else f"trace_timeout_s={self._limits.trace_timeout_s}"
        )
        return ProgramRejectedError(
            f"{self._function}() refused while it was traced: {what} exceeded after "
            f"{spent.equations:,} equations and {spent.seconds:.2f} s; "
            f"of the last, most come from {', '.join(lines)}",
            code="SJ403" if is_long else "SJ404",
            details={
                "function": self._function,
                "limit": limit if is_long else self._limits.trace_timeout_s,
                "got": spent.equations if is_long else round(spent.seconds, 3),
                "sources": lines,
            },
            hint="use lax.scan or lax.fori_loop instead of a Python loop, "
            "or raise the limit",
        )


def not_compiled(function: str) -> ProgramRejectedError:
    """What is not compiled is not reviewed."""
    return ProgramRejectedError(
        f"{function}() refused: under jax.disable_jit() there is no program to review",
        code="SJ411",
        details={"function": function},
        hint="call it outside of disable_jit(), or debug the function without a policy",
    )
