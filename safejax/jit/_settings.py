"""What ``safe_jit`` was asked for besides a contract and JAX's own options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from safejax.compile._service import Isolation
from safejax.guard._policy import Policy
from safejax.limits import Limits

OnNewSignature = Literal["block", "background"]
Fallback = Literal["raise", "eager"] | Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of one function, checked.

    Attributes:
        limits: What it may cost.
        isolation: Where its programs are compiled.
        on_new_signature: Whether a call waits for its program.
        fallback: What answers a call that doesn't wait.
        policy: What it may call while it is traced, and contain.
    """

    limits: Limits = dataclasses.field(default_factory=Limits)
    isolation: Isolation | None = None
    on_new_signature: OnNewSignature = "block"
    fallback: Fallback = "raise"
    policy: Policy | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limits, Limits):
            raise TypeError(
                "safe_jit(limits=...) takes safejax.Limits, "
                f"got {type(self.limits).__name__}"
            )
        if not isinstance(self.policy, Policy | None):
            raise TypeError(
                "safe_jit(policy=...) takes safejax.Policy, "
                f"got {type(self.policy).__name__}"
            )
        if self.isolation not in (None, "process", "thread", "none"):
            raise ValueError(
                "safe_jit(isolation=...) must be 'process', 'thread' or 'none', "
                f"got {self.isolation!r}"
            )
        if self.on_new_signature not in ("block", "background"):
            raise ValueError(
                "safe_jit(on_new_signature=...) must be 'block' or 'background', "
                f"got {self.on_new_signature!r}"
            )
        if self.policy is not None and self.fallback == "eager":
            raise ValueError(
                "safe_jit(fallback='eager') can't be used with a policy: what runs "
                "without being compiled is not reviewed"
            )
        if self.fallback not in ("raise", "eager") and not callable(self.fallback):
            raise ValueError(
                "safe_jit(fallback=...) must be 'raise', 'eager' or a callable"
            )

    @property
    def has_programs_of_its_own(self) -> bool:
        """Whether programs made without these settings must not be served.

        JAX shares traces and programs between all wrappers of one function, also with
        plain ``jax.jit`` (T20).
        """
        limits = self.limits
        return (
            self.policy is not None
            or limits.max_memory_bytes is not None
            or limits.max_process_memory_bytes is not None
        )

    @property
    def is_compiled_apart(self) -> bool:
        """Whether a caller may stop waiting for a program: at a deadline, at Ctrl-C."""
        limits = self.limits
        return (
            limits.compile_timeout_s is not None
            or limits.compile_memory_bytes is not None
            or self.isolation in ("process", "thread")
        )

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuses what would consume a buffer for an answer that isn't computed.

        Raises:
            ValueError: Buffers are donated and calls don't wait.
        """
        donates = any(
            options.get(name) not in (None, (), [], "")
            for name in ("donate_argnums", "donate_argnames")
        )
        if donates and self.on_new_signature == "background":
            raise ValueError(
                "safe_jit(on_new_signature='background') can't be used with donated "
                "buffers: the fallback and the program would both need them"
            )
