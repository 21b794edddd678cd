"""Reads the dtypes and the axes of a spec, and says where a text is wrong."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jax import export

from safejax.contract._dims import (
    Constraint,
    DimError,
    Expr,
    parse_axis,
    parse_constraint,
    parse_expr,
)
from safejax.contract._dtypes import read_dtype
from safejax.errors import ContractError

MAX_TEXT: Final = 1000
MAX_AXES: Final = 64
EXAMPLE: Final = "write 'f32[b, 64]', 'f32|bf16[1<=b<=64, ...]' or '[2*b, _]'"


class Anonymous(enum.Enum):
    """The type of the axis that may have any size."""

    ANONYMOUS = "_"


ANONYMOUS: Final = Anonymous.ANONYMOUS
Axis = int | Expr | Anonymous


def malformed(message: str, hint: str = "") -> ContractError:
    """The error of a contract that cannot be understood."""
    return ContractError(message, code="SJ102", hint=hint)


class Shape(NamedTuple):
    axes: tuple[Axis, ...] | None = None
    variadic: int | None = None
    variadic_name: str | None = None
    constraints: tuple[Constraint, ...] = ()


ConstraintsOf = Callable[[Any], Sequence[str]]


def _read_axis(
    entry: Any, constraints_of: ConstraintsOf
) -> tuple[Axis, tuple[Constraint, ...]]:
    """One axis that is not variadic."""
    expr: Expr | None = None
    constraints: tuple[Constraint, ...] = ()
    if isinstance(entry, str):
        if entry.strip() == "_":
            return ANONYMOUS, ()
        expr, constraints = parse_axis(entry)
    elif export.is_symbolic_dim(entry):
        expr = parse_expr(str(entry))
        constraints = tuple(map(parse_constraint, constraints_of(entry)))
    elif isinstance(entry, bool | np.bool_) or not hasattr(entry, "__index__"):
        raise DimError(
            "an axis is an integer, a text or a symbolic dimension, "
            f"not {type(entry).__name__}"
        )
    size = operator.index(entry) if expr is None else expr.constant
    if size is not None and size < 0:
        raise DimError("an axis cannot be negative", 0)
    if size is not None:
        return size, constraints
    return expr if expr is not None else ANONYMOUS, constraints


def _read_variadic(entry: object) -> tuple[bool, str | None]:
    """Whether the entry stands for any number of axes, and the name it gives them."""
    text = entry.strip() if isinstance(entry, str) else ""
    if text == "...":
        return True, None
    if not text.startswith("*"):
        return False, None
    if text == "*":
        raise DimError("'*' alone is no axis: '_' is one axis of any size", 0)
    name = parse_expr(text[1:]).is_name
    if name is None:
        raise DimError("only a name can follow '*'", 0)
    return True, name


def read_shape(
    entries: Sequence[Any],
    fail: Callable[[int, DimError], ContractError],
    constraints_of: ConstraintsOf,
) -> Shape:
    if len(entries) > MAX_AXES:
        raise malformed(f"a shape may have at most {MAX_AXES} axes")
    axes: list[Axis] = []
    constraints: dict[Constraint, None] = {}
    variadic: int | None = None
    variadic_name: str | None = None
    for i, entry in enumerate(entries):
        try:
            is_variadic, name = _read_variadic(entry)
            if is_variadic and variadic is not None:
                raise DimError("only one '...' or '*name' can stand in a shape", 0)  # noqa: TRY301
            if is_variadic:
                variadic, variadic_name = i, name
                continue
            axis, found = _read_axis(entry, constraints_of)
        except DimError as error:
            raise fail(i, error) from error
        axes.append(axis)
        constraints.update(dict.fromkeys(found))
    if not axes and variadic is not None and variadic_name is None:
        return Shape()
    return Shape(tuple(axes), variadic, variadic_name, tuple(constraints))


def _no_constraints(_: object) -> Sequence[str]:
    return ()


def _read_dtypes(head: str, fail: Callable[[int, str], ContractError]) -> Any:
    """The dtypes before the bracket; ``fail`` takes the index of the character."""
    if head.strip() in ("", "*"):
        return None
    dtypes: list[Any] = []
    at = 0
    for part in head.split("|"):
        dtype = read_dtype(part.strip())
        if dtype is None:
            raise fail(
                at,
                f"{part.strip()!r} is no dtype: write one as JAX prints it, "
                "with its width in bits, such as f32, bf16, i8, u8, bool or key",
            )
        if dtype not in dtypes:
            dtypes.append(dtype)
        at += len(part) + 1
    return tuple(dtypes)


def _split_axes(body: str) -> list[str]:
    """The text between brackets, cut at the commas outside of parentheses."""
    pieces, depth, start = [], 0, 0
    for i, character in enumerate(body):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            pieces.append(body[start:i])
            start = i + 1
    rest = body[start:]
    return [*pieces, rest] if rest.strip() else pieces  # "b," is one axis, as in Python


def read_text(text: object) -> tuple[Any, Shape]:
    if not isinstance(text, str):
        raise malformed(f"spec() takes a text, got {type(text).__name__}", EXAMPLE)
    if len(text) > MAX_TEXT:
        raise malformed(f"spec() takes at most {MAX_TEXT} characters", EXAMPLE)

    def fail(at: int, reason: str) -> ContractError:
        message = f"spec({text!r}): {reason} (at character {at + 1})"
        return malformed(message, EXAMPLE)

    head, bracket, body = text.rstrip().partition("[")
    if not bracket:
        if head.strip() in ("", "*"):
            raise fail(0, "expected a dtype or a '['")
        return _read_dtypes(head, fail), Shape()
    if not body.endswith("]"):
        raise fail(len(head) + 1 + len(body), "expected a ']' at the end")
    pieces = _split_axes(body[:-1])
    starts = [len(head) + 1]
    for piece in pieces:
        starts.append(starts[-1] + len(piece) + 1)

    def fail_axis(i: int, error: DimError) -> ContractError:
        blank = len(pieces[i]) - len(pieces[i].lstrip())
        at = starts[i] + max(error.position or 0, blank)
        return fail(at, f"axis {i}: {error.reason}")

    return _read_dtypes(head, fail), read_shape(pieces, fail_axis, _no_constraints)
