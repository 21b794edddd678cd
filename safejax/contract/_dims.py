"""Dimension expressions, and the constraints that dimensions obey."""

from __future__ import annotations

import dataclasses
from typing import Any

from typing_extensions import override

from safejax.contract._grammar import (
    COMPARE,
    Compare,
    DimError,
    Env,
    Node,
    Parser,
    Run,
    linear,
)

__all__ = [
    "Constraint",
    "DimError",
    "Expr",
    "parse_axis",
    "parse_constraint",
    "parse_expr",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Expr:
    """A dimension expression such as ``b``, ``2*b`` or ``floordiv(b, 4)``.

    Two expressions are equal where their canonical texts are: there is no algebra.

    Attributes:
        text: The canonical text, without spaces; :func:`parse_expr` reads it back.
        names: The names the expression mentions.
        is_name: The name, where the expression is one bare name, else None.
        constant: The value, where the expression mentions no name, else None.
        run: :meth:`evaluate` without its error handling, for the hot path.
    """

    text: str
    names: frozenset[str] = dataclasses.field(compare=False, repr=False)
    is_name: str | None = dataclasses.field(compare=False, repr=False)
    constant: int | None = dataclasses.field(compare=False, repr=False)
    _node: Node = dataclasses.field(compare=False, repr=False)
    _line: tuple[int, int] | None = dataclasses.field(compare=False, repr=False)
    run: Run = dataclasses.field(compare=False, repr=False)

    def evaluate(self, env: Env) -> int:
        """The value under ``env``, which gives every name its size.

        Raises:
            DimError: A name has no size, or the expression divides by zero.
        """
        try:
            return self.run(env)
        except KeyError as missing:
            raise DimError(f"{missing.args[0]!r} in {self.text} has no size") from None
        except ZeroDivisionError:
            raise DimError(f"{self.text} divides by zero") from None

    def solve(self, size: int, env: Env) -> tuple[str, int] | None:
        """The one unbound name, and the size it must have for the value ``size``.

        Returns:
            ``(name, value)``, or None where no name or more than one is unbound, the
            expression is not linear in it, or no integer of at least 0 fits.
        """
        if self.is_name is not None:
            bound = self.is_name in env or size < 0
            return None if bound else (self.is_name, size)
        unbound = [name for name in self.names if name not in env]
        if len(unbound) != 1:
            return None
        line = self._line
        if len(self.names) > 1:
            try:
                line = linear(self._node, unbound[0], env)
            except ZeroDivisionError:
                return None
        if line is None or line[0] == 0:
            return None
        value, rest = divmod(size - line[1], line[0])
        return None if rest or value < 0 else (unbound[0], value)

    @override
    def __str__(self) -> str:
        return self.text

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return parse_expr, (self.text,)


@dataclasses.dataclass(frozen=True, slots=True)
class Constraint:
    """A comparison, or a chain of them, between dimension expressions.

    Attributes:
        text: The canonical text, such as ``1<=b<=64``.
        names: The names it mentions.
        sides: The expressions compared, from left to right.
    """

    text: str
    names: frozenset[str] = dataclasses.field(compare=False, repr=False)
    sides: tuple[Expr, ...] = dataclasses.field(compare=False, repr=False)
    _tests: tuple[tuple[Compare, Run, Run], ...] = dataclasses.field(
        compare=False, repr=False
    )

    def holds(self, env: Env) -> bool:
        """Whether every comparison is true; one that divides by zero is not.

        Raises:
            DimError: A name has no size.
        """
        try:
            for compare, left, right in self._tests:
                if not compare(left(env), right(env)):
                    return False
        except KeyError as missing:
            raise DimError(f"{missing.args[0]!r} in {self.text} has no size") from None
        except ZeroDivisionError:
            return False
        return True

    @override
    def __str__(self) -> str:
        return self.text

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return parse_constraint, (self.text,)


def _straight(slope: int, name: str, offset: int) -> Run:
    if slope == 1 and offset == 0:
        return lambda env: env[name]
    return lambda env: slope * env[name] + offset


def _expr(node: Node) -> Expr:
    run, line = node.run, None
    if len(node.names) == 1:
        (name,) = node.names
        line = linear(node, name, {})
        if line is not None:  # most are: one look-up beats a walk over closures
            run = _straight(line[0], name, line[1])
    return Expr(
        text=node.text,
        names=node.names,
        is_name=node.text if node.kind == "name" else None,
        constant=None if node.names else run({}),
        _node=node,
        _line=line,
        run=run,
    )


def _constraint(sides: list[Node], signs: list[str]) -> Constraint:
    names = frozenset[str]().union(*(side.names for side in sides))
    if not names:
        raise DimError("a comparison must mention at least one name")
    text = sides[0].text
    for sign, side in zip(signs, sides[1:], strict=True):
        text += f"{sign}{side.text}"
    exprs = tuple(map(_expr, sides))
    return Constraint(
        text=text,
        names=names,
        sides=exprs,
        _tests=tuple(
            (COMPARE[sign], left.run, right.run)
            for sign, left, right in zip(signs, exprs, exprs[1:], strict=False)
        ),
    )


def parse_expr(text: str) -> Expr:
    """Reads one dimension expression.

    Raises:
        DimError: The text is malformed or too large.
    """
    return _expr(Parser(text).whole())


def parse_constraint(text: str) -> Constraint:
    """Reads one comparison such as ``b<=64``, or a chain such as ``1 <= b <= 64``.

    Raises:
        DimError: The text is malformed, too large, or compares nothing.
    """
    sides, signs = Parser(text).chain()
    if not signs:
        raise DimError("expected a comparison such as b<=64")
    return _constraint(sides, signs)


def parse_axis(text: str) -> tuple[Expr, tuple[Constraint, ...]]:
    """Reads one axis of a spec: an expression, or an expression within bounds.

    Returns:
        The size of the axis, and the constraints written on it: the axis is the one
        side of the comparison that is not constant.

    Raises:
        DimError: The text is malformed or too large, or two sides could be the axis.
    """
    sides, signs = Parser(text).chain()
    if not signs:
        return _expr(sides[0]), ()
    constraint = _constraint(sides, signs)
    named = [side for side in constraint.sides if side.names]
    if len(named) > 1:
        raise DimError(
            f"either {named[0]} or {named[1]} could be the axis: "
            "bounds written on an axis must be integers"
        )
    return named[0], (constraint,)
