"""Reads the text of a dimension into a tree of operations.

The grammar is that of ``jax.export.symbolic_shape``: integers, names, ``+ - *``,
``floordiv(a, b)``, ``mod(a, b)``, ``max(a, b)``, ``min(a, b)``, powers ``b^2``, and
also parentheses, ``//``, ``%``, ``**``. A text is cut into tokens by one regular
expression and read by recursive descent: nothing is handed to Python's own parser or
evaluator. Length, nesting, integers and powers are capped, so that neither reading a
text nor evaluating it can be made expensive.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

Env = Mapping[str, int]
Run = Callable[[Env], int]
Compare = Callable[[int, int], bool]

MAX_LENGTH: Final = 200
MAX_NESTING: Final = 32
MAX_INTEGER: Final = 2**31 - 1
MAX_EXPONENT: Final = 16
MAX_FACTORS: Final = 64  # of one product, powers multiplied out

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+)|(?P<name>[^\W0-9]\w*)"
    r"|(?P<sign>\*\*|//|<=|>=|==|[-+*%^(),<>]))"
)
COMPARE: Final[dict[str, Compare]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}
_APPLY: Final[dict[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "max": max,
    "min": min,
}
_FUNCTIONS: Final = {"floordiv": "//", "mod": "%", "max": "max", "min": "min"}
_SUM, _PRODUCT, _UNARY, _POWER, _ATOM = range(5)  # how tightly a node binds


class DimError(ValueError):
    """A dimension text is malformed, or an expression has no value.

    Attributes:
        reason: What is wrong, in one sentence.
        position: The index of the offending character, where there is one.
    """

    def __init__(self, reason: str, position: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position


class Node(NamedTuple):
    """One operation of an expression, with everything known about it."""

    kind: str
    text: str
    binding: int
    factors: int
    run: Run
    names: frozenset[str] = frozenset()
    args: tuple[Node, ...] = ()

    def wrapped(self, binding: int) -> str:
        """The text, in parentheses where it binds less tightly than that."""
        return self.text if self.binding >= binding else f"({self.text})"


def _number(value: int) -> Node:
    return Node("number", str(value), _ATOM, 1, lambda _: value)


def _name(name: str) -> Node:
    return Node("name", name, _ATOM, 1, lambda env: env[name], frozenset({name}))


def _power(base: Node, exponent: int) -> Node:
    text, run = f"{base.wrapped(_ATOM)}^{exponent}", base.run
    return Node(
        "power",
        text,
        _POWER,
        base.factors * exponent,
        lambda env: run(env) ** exponent,
        base.names,
    )


def _binary(kind: str, left: Node, right: Node) -> Node:
    apply, run_left, run_right = _APPLY[kind], left.run, right.run
    binding, text = _ATOM, f"{kind}({left.text},{right.text})"
    if kind not in ("max", "min"):
        binding = _SUM if kind in "+-" else _PRODUCT
        text = f"{left.wrapped(binding)}{kind}{right.wrapped(binding + 1)}"
    factors = (left.factors, right.factors)
    return Node(
        kind,
        text,
        binding,
        sum(factors) if kind == "*" else max(factors),
        lambda env: apply(run_left(env), run_right(env)),
        left.names | right.names,
        (left, right),
    )


def _negative(arg: Node) -> Node:
    text = f"-{arg.wrapped(_UNARY)}"
    return _binary("-", _number(0), arg)._replace(text=text, binding=_UNARY)


def linear(node: Node, name: str, env: Env) -> tuple[int, int] | None:
    """The node as ``k*name + c`` given the other names, or None where it is not."""
    if name not in node.names:
        return 0, node.run(env)
    if node.kind == "name":
        return 1, 0
    if node.kind not in ("+", "-", "*"):
        return None
    left, right = (linear(arg, name, env) for arg in node.args)
    if left is None or right is None or (node.kind == "*" and left[0] and right[0]):
        return None
    if node.kind == "*":
        return left[0] * right[1] + right[0] * left[1], left[1] * right[1]
    apply = _APPLY[node.kind]
    return apply(left[0], right[0]), apply(left[1], right[1])


class _Token(NamedTuple):
    kind: str  # "number", "name", "sign", or "end"
    text: str
    start: int


def _tokenize(text: str) -> list[_Token]:
    if len(text) > MAX_LENGTH:
        raise DimError(f"a dimension may have at most {MAX_LENGTH} characters")
    text = text.rstrip()
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            at = len(text) - len(text[at:].lstrip())
            raise DimError(f"unexpected character {text[at]!r}", at)
        kind = str(match.lastgroup)
        token = _Token(kind, match[kind], match.start(kind))
        if kind == "name" and not token.text.isidentifier():
            raise DimError(f"{token.text!r} is not a name", token.start)
        tokens.append(token)
        at = match.end()
    tokens.append(_Token("end", "", at))
    return tokens


class Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokenize(text)
        self._at = 0
        self._nesting = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _fail(self, reason: str) -> DimError:
        return DimError(reason, self._next.start)

    def _unexpected(self, wanted: str) -> DimError:
        found = repr(self._next.text) if self._next.text else "the end of the text"
        return self._fail(f"expected {wanted}, found {found}")

    def _accept(self, *signs: str) -> str | None:
        token = self._next
        if token.kind != "sign" or token.text not in signs:
            return None
        self._at += 1
        return token.text

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            raise self._unexpected(repr(sign))

    def _nested(self, read: Callable[[], Node]) -> Node:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._fail(f"nested deeper than {MAX_NESTING} levels")
        node = read()
        self._nesting -= 1
        return node

    def whole(self) -> Node:
        """Reads one expression and nothing after it."""
        sides, signs = self.chain()
        if signs:
            raise DimError(f"a comparison ({signs[0]}) cannot stand here")
        return sides[0]

    def chain(self) -> tuple[list[Node], list[str]]:
        """Reads expressions with comparisons between them and nothing after them."""
        sides, signs = [self._sum()], []
        while sign := self._accept(*COMPARE):
            signs.append(sign)
            sides.append(self._sum())
        if self._next.kind != "end":
            raise self._unexpected("an operator or the end")
        return sides, signs

    def _sum(self) -> Node:
        node = self._product()
        while sign := self._accept("+", "-"):
            node = _binary(sign, node, self._product())
        return node

    def _product(self) -> Node:
        node = self._unary()
        while sign := self._accept("*", "//", "%"):
            node = self._checked(_binary(sign, node, self._unary()))
        return node

    def _unary(self) -> Node:
        sign = self._accept("-", "+")
        if sign is None:
            return self._powered()
        node = self._nested(self._unary)
        return _negative(node) if sign == "-" else node

    def _powered(self) -> Node:
        base = self._atom()
        if not self._accept("^", "**"):
            return base
        exponent = int(self._next.text) if self._next.kind == "number" else 0
        if not 1 <= exponent <= MAX_EXPONENT:
            raise self._unexpected(f"an exponent between 1 and {MAX_EXPONENT}")
        self._at += 1
        return base if exponent == 1 else self._checked(_power(base, exponent))

    def _atom(self) -> Node:
        kind, text, _ = self._next
        if self._accept("("):
            node = self._nested(self._sum)
            self._expect(")")
            return node
        if kind not in ("number", "name"):
            raise self._unexpected("an integer, a name or '('")
        if text == "_":
            raise self._fail("'_' is any size and cannot be part of an expression")
        if kind == "number" and int(text) > MAX_INTEGER:
            raise self._fail(f"an integer may be at most {MAX_INTEGER}")
        self._at += 1
        if kind == "number":
            return _number(int(text))
        return self._call(_FUNCTIONS[text]) if text in _FUNCTIONS else _name(text)

    def _call(self, kind: str) -> Node:
        self._expect("(")
        left = self._nested(self._sum)
        self._expect(",")
        right = self._nested(self._sum)
        self._expect(")")
        return self._checked(_binary(kind, left, right))

    def _checked(self, node: Node) -> Node:
        if node.factors > MAX_FACTORS:
            raise self._fail(f"a product may have at most {MAX_FACTORS} factors")
        if node.kind in ("//", "%"):
            divisor = node.args[1]
            if not divisor.names and divisor.run({}) == 0:
                raise self._fail("division by zero")
        return node
