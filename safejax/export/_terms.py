"""Contracts as plain data, and contracts made of it again."""

from __future__ import annotations

import dataclasses
import inspect
import keyword
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from safejax._file_errors import FormatError
from safejax.contract._contract import Contract, is_leaf
from safejax.contract._dims import Constraint, DimError, parse_constraint
from safejax.contract._spec import Spec, spec
from safejax.errors import ContractError

_DEEPEST: Final = 50
_MOST_NAME: Final = 100
_RULES: Final = ("weak_type", "minimum", "maximum", "finite", "one_of", "on_dtype")


def terms_of(contract: Contract) -> dict[str, Any]:
    """A contract as plain data.

    Raises:
        FormatError: ``SJ507``: it asks for what can't be written down.
    """
    trees = {
        name: _tree(tree, name)
        for name, tree in contract.trees.items()
        if name not in contract.statics
    }
    return {
        "trees": trees,
        "constraints": [c.text for c in contract.constraints],
        "on_dtype": contract.on_dtype,
    }


def _tree(node: Any, path: str) -> Any:
    if node is None:
        return None
    if is_leaf(node):
        return {"spec": _rules(node, path)}
    if type(node) is dict and all(type(key) is str for key in node):
        return {"dict": {k: _tree(v, f"{path}[{k!r}]") for k, v in node.items()}}
    if type(node) in (list, tuple):
        below = [_tree(child, f"{path}[{i}]") for i, child in enumerate(node)]
        return {type(node).__name__: below}
    raise _unwritable(path, f"a container of type {type(node).__name__}")


def _rules(leaf: Spec, path: str) -> dict[str, Any]:
    if leaf.sharding is not None:
        raise _unwritable(path, "a sharding")
    rules: dict[str, Any] = {"text": leaf.describe()}
    for name in _RULES:
        value = getattr(leaf, name)
        if value is None or value is False:  # 0 is a bound
            continue
        if leaf.on_violation == "clip" and name in ("minimum", "maximum", "finite"):
            continue  # the program itself sees to it
        values = value if isinstance(value, tuple) else (value,)
        if not all(_is_plain(v) for v in values):
            raise _unwritable(path, f"a value in {name} that is no plain number")
        rules[name] = list(value) if isinstance(value, tuple) else value
    return rules


def _is_plain(value: Any) -> bool:
    return type(value) in (bool, int, str) or (
        type(value) is float and math.isfinite(value)
    )


def _unwritable(path: str, what: str) -> FormatError:
    return FormatError(
        f"the contract of {path} has {what}, which can't be signed",
        code="SJ507",
        details={"path": path},
        hint="export a function with a contract of plain containers and numbers",
    )


# --- from a file ------------------------------------------------------------------


def read_terms(data: Any) -> tuple[dict[str, Any], tuple[Constraint, ...], Any]:
    """Trees of specs, constraints and ``on_dtype`` of a signed contract.

    Raises:
        FormatError: It is no contract.
    """
    try:
        trees = {name: _read(tree, 0) for name, tree in data["trees"].items()}
        constraints = tuple(map(parse_constraint, data["constraints"]))
        on_dtype = data["on_dtype"]
    except (KeyError, TypeError, ValueError, AttributeError, ContractError, DimError):
        raise _malformed() from None
    if on_dtype not in ("error", "cast"):
        raise _malformed()
    return trees, constraints, on_dtype


def _read(node: Any, depth: int) -> Any:
    if node is None:
        return None
    ((kind, below),) = node.items()
    if depth > _DEEPEST:
        raise _malformed()
    if kind == "spec":
        return _read_spec(below)
    if kind == "dict":
        return {key: _read(child, depth + 1) for key, child in below.items()}
    children = [_read(child, depth + 1) for child in below]
    if kind not in ("list", "tuple"):
        raise _malformed()
    return children if kind == "list" else tuple(children)


def _read_spec(rules: Mapping[str, Any]) -> Spec:
    given = dict(rules)
    text = given.pop("text")
    if not given.keys() <= set(_RULES):
        raise _malformed()
    return spec(text, **given)


def _malformed() -> FormatError:
    return FormatError("the contract in the file is malformed")


def with_constraints(
    trees: dict[str, Any], constraints: Sequence[Constraint]
) -> dict[str, Any]:
    """The same trees, with the constraints on one of their specs.

    Which one does not matter: the names of dimensions mean the same in all of them.
    """
    left = list(constraints)

    def attach(node: Any) -> Any:
        if isinstance(node, Spec) and node.axes is not None and left:
            found, left[:] = tuple(left), []
            return dataclasses.replace(node, constraints=found)
        if isinstance(node, dict):
            return {key: attach(child) for key, child in node.items()}
        if type(node) in (list, tuple):
            return type(node)(attach(child) for child in node)
        return node

    return {name: attach(tree) for name, tree in trees.items()}


def signature_of(parameters: Any, positional: int, named: Sequence[str]) -> Any:
    """The signature of an imported function.

    Its names become part of generated code: only what is an identifier, and means
    nothing else, is one (T27).

    Raises:
        FormatError: The names are not those of the program's arguments, or no names.
    """
    sound = (
        type(parameters) is list
        and len(parameters) == positional + len(named)
        and parameters[positional:] == list(named)
        and len(set(parameters)) == len(parameters)
        and all(map(is_parameter, parameters))
    )
    if not sound:
        raise FormatError("the names of the program's parameters are malformed")
    kind = inspect.Parameter
    return inspect.Signature(
        [
            kind(name, kind.POSITIONAL_OR_KEYWORD)
            if i < positional
            else kind(name, kind.KEYWORD_ONLY)
            for i, name in enumerate(parameters)
        ]
    )


def is_parameter(name: Any) -> bool:
    """Whether a text can be the name of a parameter."""
    return (
        type(name) is str
        and name.isascii()
        and name.isidentifier()
        and not keyword.iskeyword(name)
        and not name.startswith("_sj")
        and len(name) <= _MOST_NAME
    )
