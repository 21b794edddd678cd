"""Every exception safejax raises on purpose.

One root, and one leaf per decision a caller can take. A leaf also inherits the
built-in that existing handlers already catch. Messages carry shapes, dtypes, paths
and limits; never values, keys or MACs, because messages end in logs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override


class SafeJaxError(Exception):
    """Root of every error safejax raises on purpose.

    Attributes:
        code: Stable identifier of the kind of refusal, such as ``"SJ101"``.
        hint: What to do about it, one sentence; may be empty.

    Example:
        >>> import safejax
        >>> issubclass(safejax.ContractError, (safejax.SafeJaxError, TypeError))
        True
    """

    default_code: ClassVar[str] = "SJ000"

    def __init__(
        self,
        message: str | Callable[[], str] = "",
        *,
        code: str | None = None,
        details: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        hint: str | Callable[[], str] = "",
    ) -> None:
        # No positional text reaches Exception.args: a refusal under attack must
        # not pay for a message that nobody reads.
        super().__init__()
        self.code: str = code or self.default_code
        self._message = message
        self._details = details
        self._hint = hint

    @property
    def message(self) -> str:
        """The text without the code and the hint, rendered on first use."""
        if callable(self._message):
            self._message = self._message()
        return self._message

    @property
    def details(self) -> dict[str, Any]:
        """What the message says, as plain JSON-able data."""
        if callable(self._details):
            self._details = self._details()
        return dict(self._details or {})

    @property
    def hint(self) -> str:
        """What to do about it, or an empty string."""
        if callable(self._hint):
            self._hint = self._hint()
        return self._hint

    @override
    def __str__(self) -> str:
        text = f"[{self.code}] {self.message}"
        return f"{text}\nhint: {self.hint}" if self.hint else text

    @override
    def __repr__(self) -> str:
        first = self.message.partition("\n")[0]
        return f"{type(self).__name__}({first!r}, code={self.code!r})"

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self._state()), self._extra())

    def _state(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "code": self.code,
            "details": self.details,
            "hint": self.hint,
        }

    def _extra(self) -> dict[str, Any] | None:
        notes = getattr(self, "__notes__", None)
        return {"__notes__": list(notes)} if notes else None


def _rebuild(cls: type[SafeJaxError], state: dict[str, Any]) -> SafeJaxError:
    return cls(**state)


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    """One way in which one call broke its contract.

    Attributes:
        path: Where, as in ``params['layer']['w']``.
        rule: Which rule: ``"shape"``, ``"dtype"``, ``"structure"``, ``"value"``,
            ``"static"``, ``"dimension"``, ``"weak_type"`` or ``"sharding"``.
        expected: What the contract asks for.
        got: What the call brought; shapes, dtypes and counts, never values.
        note: Who bound the name that this leaf contradicts, or an empty string.

    Example:
        >>> import safejax
        >>> safejax.Violation("x", "shape", "(b, 3)", "(2, 4)").rule
        'shape'
    """

    path: str
    rule: str
    expected: str
    got: str
    note: str = ""


class ContractError(SafeJaxError, TypeError):
    """A call broke its contract, or the contract itself is malformed.

    ``SJ101``: a call was refused; ``violations`` lists every reason, not the first.
    ``SJ102``: the contract could not be understood, found at decoration. ``SJ103``:
    ``buckets=`` would pad the input of a function in whose answer padding shows.

    Attributes:
        violations: All violations of the refused call; otherwise empty.

    Example:
        >>> import safejax
        >>> three = safejax.spec("f32[3]")
        >>> head = safejax.safe_jit(lambda x: x[0], contract={"x": three})
        >>> try:
        ...     head(1.0)
        ... except safejax.ContractError as error:
        ...     error.violations[0].expected, error.violations[0].got
        ('(3,)', '()')
    """

    default_code = "SJ101"

    def __init__(
        self,
        message: str | Callable[[], str] = "",
        *,
        code: str | None = None,
        details: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        hint: str | Callable[[], str] = "",
        violations: (Sequence[Violation] | Callable[[], Sequence[Violation]]) = (),
    ) -> None:
        super().__init__(message, code=code, details=details, hint=hint)
        self._violations = violations

    @property
    def violations(self) -> tuple[Violation, ...]:
        """All violations of the refused call, in the order of its parameters."""
        if callable(self._violations):
            self._violations = tuple(self._violations())
        return tuple(self._violations)

    @property
    @override
    def details(self) -> dict[str, Any]:
        given = super().details
        if self.violations:
            given["violations"] = [dataclasses.asdict(v) for v in self.violations]
        return given

    @override
    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "violations": self.violations}


class CompileLimitError(SafeJaxError, RuntimeError):
    """A new program was refused because a limit on compilations is reached.

    ``SJ201``: ``Limits.max_compiles`` of the function; ``SJ202``: the budget of the
    process (:func:`safejax.set_process_limits`); ``SJ203``: a rate, whose ``details``
    say whether the function's, the tenant's or the process's; ``SJ204``: frozen, no
    new programs from now on; ``SJ205``: the compilation of this signature failed, and
    its back-off has not ended; ``SJ207``: the cap of the tenant; ``SJ208``: too many
    compilations that outlived their deadline still run; ``SJ209``: too many wait for
    a compile worker. Known signatures are still served.

    Attributes:
        retry_after_s: Seconds after which the same call may be admitted, or ``None``
            where waiting does not help.

    Example:
        >>> import jax.numpy as jnp, safejax
        >>> one = safejax.safe_jit(lambda x: -x, limits=safejax.Limits(max_compiles=1))
        >>> _ = one(jnp.ones(2))
        >>> try:
        ...     one(jnp.ones(3))
        ... except safejax.CompileLimitError as error:
        ...     error.code, error.details["live"]
        ('SJ201', 1)
    """

    default_code = "SJ201"

    def __init__(
        self,
        message: str | Callable[[], str] = "",
        *,
        code: str | None = None,
        details: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        hint: str | Callable[[], str] = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details, hint=hint)
        self.retry_after_s = retry_after_s

    @override
    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "retry_after_s": self.retry_after_s}


class CompilePendingError(CompileLimitError):
    """The program is being compiled in the background; call again later.

    ``SJ206``. Raised instead of waiting, where a function is to answer at once.

    Attributes:
        retry_after_s: Seconds after which the same call is worth another try.

    Example:
        >>> import safejax
        >>> try:
        ...     raise safejax.CompilePendingError("wait a little", retry_after_s=0.5)
        ... except safejax.CompileLimitError as error:
        ...     error.code, error.retry_after_s
        ('SJ206', 0.5)
    """

    default_code = "SJ206"


class CompileTimeoutError(SafeJaxError, TimeoutError):
    """A new program was not ready at its deadline, ``Limits.compile_timeout_s``.

    ``SJ210``. ``details`` has ``function``, ``phase`` (where the time ran out),
    ``elapsed_s``, ``limit_s`` and, once it is known, ``program_bytes``.

    Example:
        >>> import safejax
        >>> facts = {"phase": "compile", "elapsed_s": 2.1, "limit_s": 2.0}
        >>> try:
        ...     raise safejax.CompileTimeoutError("f() took too long", details=facts)
        ... except TimeoutError as error:
        ...     error.code, error.details["phase"]
        ('SJ210', 'compile')
    """

    default_code = "SJ210"


class CompileMemoryError(SafeJaxError, MemoryError):
    """A compilation grew past its limit, ``Limits.compile_memory_bytes``.

    ``SJ220``. The memory of the calling process has not grown.

    Example:
        >>> import safejax
        >>> facts = {"limit_bytes": 2**30}
        >>> try:
        ...     raise safejax.CompileMemoryError("f() grew too large", details=facts)
        ... except MemoryError as error:
        ...     error.code, error.details["limit_bytes"]
        ('SJ220', 1073741824)
    """

    default_code = "SJ220"


class WorkerError(SafeJaxError, RuntimeError):
    """A process that compiles for this one died, or answered what it must not.

    ``SJ230``. The calling process is unharmed. ``SJ231``: XLA does not answer in this
    process, which was forked from one that had used JAX.

    Example:
        >>> import safejax
        >>> try:
        ...     raise safejax.WorkerError("XLA died", details={"signal": "SIGSEGV"})
        ... except RuntimeError as error:
        ...     error.code, error.details["signal"]
        ('SJ230', 'SIGSEGV')
    """

    default_code = "SJ230"


class GuardError(SafeJaxError, PermissionError):
    """An API that the guard's policy disallows was called in its scope.

    ``SJ301``. ``details`` has ``api``, ``category`` and the caller's ``file`` and
    ``line``.

    Example:
        >>> import jax, safejax
        >>> try:
        ...     with safejax.guard():
        ...         jax.make_jaxpr(lambda x: x)
        ... except PermissionError as error:
        ...     error.code, error.details["category"]
        ('SJ301', 'introspection')
    """

    default_code = "SJ301"


class ProgramRejectedError(SafeJaxError, RuntimeError):
    """A traced program was refused before it could be compiled or run.

    ``SJ401``: a primitive or an effect that the policy does not admit; ``SJ402``: a
    custom call that it does not admit. The others are budgets of
    :class:`safejax.Limits`: ``SJ403`` ``max_equations``; ``SJ404``
    ``trace_timeout_s``; ``SJ405`` ``max_constant_bytes``; ``SJ406``
    ``max_output_bytes``; ``SJ407`` ``max_memory_bytes``, estimated or, after
    compilation, real; ``SJ408`` ``max_flops``; ``SJ409`` ``max_loop_nesting``;
    ``SJ410`` ``max_process_memory_bytes``, at run time. ``SJ411``: it was called under
    ``jax.disable_jit()``, where nothing is reviewed.

    Example:
        >>> import jax.numpy as jnp, safejax
        >>> small = safejax.Limits(max_output_bytes=100)
        >>> try:
        ...     safejax.safe_jit(lambda: jnp.zeros(1000), limits=small)()
        ... except safejax.ProgramRejectedError as error:
        ...     error.code, error.details["got"]
        ('SJ406', 4000)
    """

    default_code = "SJ401"
