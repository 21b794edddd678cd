"""Reads a contract from type hints: ``Annotated[...]`` and jaxtyping's.

jaxtyping is not imported: its hints are recognised by their public attributes
(``dim_str`` and ``dtypes``; ``leaftype`` of a ``PyTree``). A hint that carries a
contract in a place that is not read (inside ``list[...]``, or beside ``None``) is
refused: a contract must not be dropped silently.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

import jax
import numpy as np

from safejax.contract._dims import DimError, parse_expr
from safejax.contract._spec import DTYPES, Spec, malformed, spec
from safejax.errors import ContractError

MAX_WRAPPERS: Final = 100
_SCALARS: Final = (bool, int, float, complex, np.generic)
_ALIASES: Final = {"bool_": "bool", "prng_key": "key"}
_EXPLICIT: Final = "give contract={...} by parameter name instead"


class _HintError(Exception):
    """A hint that carries a contract cannot be read; says why."""


def from_annotations(fun: Callable[..., Any]) -> dict[str, Any]:
    """The contract that the hints of a function's parameters spell out.

    Args:
        fun: A function, a method, a ``functools.partial`` of one, or a callable.

    Returns:
        A ``Spec`` or a ``jax.ShapeDtypeStruct`` by parameter name; parameters without
        such a hint are left out.

    Raises:
        ContractError: ``SJ102``: a hint cannot be resolved or read, or there is none.
    """
    target = _underlying(fun)
    owner = str(getattr(target, "__qualname__", type(target).__qualname__))
    contract: dict[str, Any] = {}
    for name, hint in _hints(fun, target, owner).items():
        try:
            found = _read(hint)
        except _HintError as error:
            raise _refused(owner, name, str(error)) from error
        if found is not None:
            contract[name] = found
    if not contract:
        raise malformed(
            f"contract='annotations' found no Annotated or jaxtyping hint on {owner}()",
            hint="write x: Annotated[jax.Array, safejax.spec('f32[b, 64]')]",
        )
    return contract


def _refused(owner: str, name: str, reason: str) -> ContractError:
    message = f"contract='annotations': {owner}(), parameter {name!r}: {reason}"
    return malformed(message, hint=_EXPLICIT)


def _underlying(fun: Any) -> Any:
    """The plain function that holds the hints, as far as there is one."""
    for _ in range(MAX_WRAPPERS):
        if isinstance(fun, functools.partial):
            fun = fun.func
        elif hasattr(fun, "__func__"):  # bound, static and class methods
            fun = fun.__func__
        elif hasattr(fun, "__wrapped__"):
            fun = fun.__wrapped__
        elif isinstance(fun, types.FunctionType):
            break
        elif isinstance(fun, type):
            fun = inspect.getattr_static(fun, "__init__")
        elif isinstance(type(fun).__call__, types.FunctionType):
            fun = type(fun).__call__
        else:
            break
    return fun


def _hints(fun: Any, target: Any, owner: str) -> Mapping[str, Any]:
    """The resolved hints of the parameters that a caller can still give."""
    try:
        written = dict(getattr(target, "__annotations__", {}))
        parameters = set(_parameters(fun, written))
    except NameError as error:  # Python 3.14 evaluates all hints at once, on demand
        raise malformed(
            f"contract='annotations': a hint of {owner}() cannot be resolved ({error})",
            hint=_EXPLICIT,
        ) from error
    wanted = [name for name in written if name in parameters and name != "return"]
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except Exception:  # noqa: BLE001 - a hint is code, and may fail in any way
        return {name: _resolve(target, name, owner) for name in wanted}
    return {name: hints[name] for name in wanted if name in hints}


def _parameters(fun: Any, written: Iterable[str]) -> Iterable[str]:
    try:
        return inspect.signature(fun).parameters
    except (TypeError, ValueError):  # such as a classmethod object: not callable
        return written


def _resolve(target: Any, name: str, owner: str) -> Any:
    """One hint by itself: to name the one that fails, and to spare the others."""
    holder = types.SimpleNamespace(
        __annotations__={name: target.__annotations__[name]},
        __type_params__=getattr(target, "__type_params__", ()),
    )
    namespace = getattr(target, "__globals__", {})
    try:
        return typing.get_type_hints(holder, namespace, include_extras=True)[name]
    except Exception as error:
        reason = f"the hint cannot be resolved ({type(error).__name__}: {error})"
        raise _refused(owner, name, reason) from error


def _read(hint: Any) -> Any:
    """The spec or struct that the hint carries, or None."""
    hint = _unaliased(hint)
    if typing.get_origin(hint) is Annotated:
        found = _metadata(hint)
        return _read(hint.__origin__) if found is None else found
    if _is_array_hint(hint):
        return _read_array(hint)
    if not _carries(hint):
        return None
    if isinstance(hint, type) and hasattr(hint, "leaftype"):
        if getattr(hint, "structure", None) is not None:
            raise _HintError("a PyTree hint that names its structure is not supported")
        return _read(hint.leaftype)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(hint))
    where = getattr(typing.get_origin(hint), "__name__", str(hint))
    raise _HintError(f"a contract inside of {where}[...] is not read")


def _unaliased(hint: Any) -> Any:
    """What ``type X = ...`` and ``NewType`` stand for."""
    for _ in range(MAX_WRAPPERS):
        inner = getattr(hint, "__supertype__", None)
        if inner is None and type(hint).__name__ == "TypeAliasType":
            inner = hint.__value__
        if inner is None:
            break
        hint = inner
    return hint


def _metadata(hint: Any) -> Any:
    for item in hint.__metadata__:
        if isinstance(item, Spec | jax.ShapeDtypeStruct):
            return item
    return None


def _is_array_hint(hint: Any) -> bool:
    return (
        isinstance(hint, type)
        and isinstance(getattr(hint, "dim_str", None), str)
        and hasattr(hint, "dtypes")
    )


def _carries(hint: Any, above: tuple[Any, ...] = ()) -> bool:
    """Whether a contract stands anywhere in the hint."""
    hint = _unaliased(hint)
    if any(hint is outer for outer in above):  # an alias that mentions itself
        return False
    if _is_array_hint(hint):
        return True
    origin = typing.get_origin(hint)
    if origin is Annotated and _metadata(hint) is not None:
        return True
    if origin in (collections.abc.Callable, typing.Literal, type):
        return False  # these describe functions, values and classes, not arrays
    inner = [hint.__origin__] if origin is Annotated else [*typing.get_args(hint)]
    if isinstance(hint, type) and hasattr(hint, "leaftype"):
        inner.append(hint.leaftype)
    return any(_carries(part, (*above, hint)) for part in inner)


def _read_union(members: tuple[Any, ...]) -> Any:
    if type(None) in members:
        raise _HintError("a contract that also admits None is not read from a hint")
    arrays = [member for member in members if not _is_scalar(member)]
    found = [_read(member) for member in arrays]
    if any(spec != found[0] for spec in found):
        raise _HintError("a union of different contracts is not supported")
    return found[0]


def _is_scalar(hint: Any) -> bool:
    return (
        isinstance(hint, type)
        and issubclass(hint, _SCALARS)
        and not _is_array_hint(hint)
    )


def _read_array(hint: Any) -> Spec:
    axes = [_axis(token) for token in hint.dim_str.split()]
    try:
        shape = spec(f"[{', '.join(axes)}]")
    except ContractError as error:
        raise _HintError(error.message) from error
    return dataclasses.replace(shape, dtypes=_dtypes(hint.dtypes))


def _axis(token: str) -> str:
    """One axis of jaxtyping's, as :func:`safejax.spec` writes it."""
    if token == "...":  # noqa: S105
        return token
    text = token.lstrip("#?*_")
    marks = token.removesuffix(text)
    for mark, meaning in (("#", "broadcasts"), ("?", "varies over a tree")):
        if mark in marks:
            raise _HintError(f"axis {token!r}, which {meaning}, is not supported")
    if "_" in marks:
        return "..." if "*" in marks else "_"
    label, equals, size = text.partition("=")
    if equals and label.isidentifier():  # rows=4 is a labelled 4
        text = size
    if "^" in text:
        raise _HintError(f"axis {token!r}: '^' is no power in Python, write '**'")
    try:
        expr = parse_expr(text)
    except DimError as error:
        raise _HintError(f"axis {token!r} is not supported: {error.reason}") from error
    return f"{'*' if '*' in marks else ''}{expr.text}"


def _dtypes(names: Any) -> tuple[Any, ...] | None:
    """The dtypes of those names, without the ones that JAX does not have."""
    if isinstance(names, str):
        names = (names,)
    if not isinstance(names, list | tuple):
        return None  # jaxtyping's mark for any dtype
    found: dict[Any, None] = {}
    for name in names:
        if isinstance(name, str):
            dtype = DTYPES.get(_ALIASES.get(name, name))
            found.update({} if dtype is None else {dtype: None})
        elif hasattr(name, "match"):  # a compiled regular expression
            known = (d for d in DTYPES.values() if name.match(getattr(d, "name", "")))
            found.update(dict.fromkeys(known))
    if not found:
        raise _HintError("none of the dtypes of the hint is one that JAX has")
    return tuple(found)
