"""What may run in a guarded scope, and what a reviewed program may contain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, get_args

Decision = Literal["allow", "log", "disallow"]
Category = Literal[
    "introspection",
    "callbacks",
    "primitives",
    "serialization",
    "codegen",
    "config",
    "threads",
    "system",
]

DECISIONS: tuple[Decision, ...] = get_args(Decision)
CATEGORIES: tuple[Category, ...] = get_args(Category)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Which APIs a guarded scope admits, by category, and what a review admits.

    The words are those of ``jax.transfer_guard``: ``"allow"`` says nothing, ``"log"``
    tells the logger ``safejax.guard`` and lets it run, ``"disallow"`` raises
    :class:`safejax.GuardError`.

    Attributes:
        introspection: Looking into programs: ``jax.make_jaxpr``, ``jax.eval_shape``.
        callbacks: From a program back into Python: ``jax.pure_callback``.
        primitives: New primitives, lowerings, FFI targets, Pallas kernels.
        serialization: ``jax.export``, ``pickle``, loading arrays from files.
        codegen: ``exec``, ``eval``, ``compile``, functions made of code objects.
        config: ``jax.config.update`` and ``compiler_options``.
        threads: Starting a thread, which would leave the scope; with ``"allow"`` and
            ``"log"`` the thread inherits it.
        system: Files, processes, sockets, ``ctypes``.
        allow: APIs that are admitted whatever their category says, such as
            ``{"jax.eval_shape"}``.
        trusted_modules: Modules, with what is in them, whose own calls are admitted,
            such as ``("flax",)``.
        allow_primitives: Primitives that a review admits by name, besides those that
            JAX itself defines and that stay inside the program.
        allow_custom_calls: Targets of custom calls that a review admits, besides
            those of JAX's own kernels.

    Raises:
        TypeError: ``allow`` or another set of names is a single string.
        ValueError: A category has an unknown word.

    Example:
        >>> import safejax
        >>> lenient = safejax.Policy.strict().replace(callbacks="log")
        >>> lenient.callbacks, lenient.system
        ('log', 'disallow')
    """

    introspection: Decision = "disallow"
    callbacks: Decision = "disallow"
    primitives: Decision = "disallow"
    serialization: Decision = "disallow"
    codegen: Decision = "disallow"
    config: Decision = "disallow"
    threads: Decision = "disallow"
    system: Decision = "disallow"
    allow: frozenset[str] = frozenset()
    trusted_modules: tuple[str, ...] = ()
    allow_primitives: frozenset[str] = frozenset()
    allow_custom_calls: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for category in CATEGORIES:
            word = getattr(self, category)
            if word not in DECISIONS:
                raise ValueError(
                    f"Policy({category}=...) must be one of {DECISIONS}, got {word!r}"
                )
        for name in ("allow", "allow_primitives", "allow_custom_calls"):
            object.__setattr__(self, name, frozenset(_names(name, self)))
        modules = tuple(sorted(set(_names("trusted_modules", self))))
        object.__setattr__(self, "trusted_modules", modules)

    def replace(self, **changes: Any) -> Policy:
        """The same policy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def strict(cls) -> Policy:
        """Nothing advanced: for functions and programs that others have written."""
        return cls()

    @classmethod
    def serving(cls) -> Policy:
        """For your own model code, traced for requests of others.

        Frameworks look at shapes and generate code while they trace; what leaves the
        process or the program stays refused.
        """
        return cls(introspection="allow", codegen="log", threads="disallow")

    @classmethod
    def permissive(cls) -> Policy:
        """Everything runs; what a stricter policy would refuse is logged."""
        words: dict[str, Any] = dict.fromkeys(CATEGORIES, "log")
        return cls(**words)


def _names(field: str, policy: Policy) -> Iterable[str]:
    value: Any = getattr(policy, field)
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"Policy({field}=...) takes a set of names")
    names: Iterable[str] = value
    return names


# The name users know it by.
Policy.__module__ = "safejax"
