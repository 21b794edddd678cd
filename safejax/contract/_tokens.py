"""What a checked argument is remembered by.

A token settles every rule about shape, dtype, weak type, structure and sharding: two
arguments with the same token pass or fail a contract together. For an array of JAX it
is the ``aval`` that the array carries (50 ns), for a tree the tuple of them.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from typing_extensions import override

from safejax import _jax
from safejax.contract._contract import leaves_of
from safejax.contract._spec import Spec

# Refuses what is no array of JAX, also where that has an attribute of this name, and
# is faster than the attribute: 17 us instead of 60 for 1,000 arrays.
_aval: Callable[[Any], Hashable] = _jax.array_aval
_serial = itertools.count()
_INT32 = (-(2**31), 2**31)
# Structures remembered for one parameter.
_MAX_READERS = 8

Reader = Callable[[Any], Hashable | None]


class Absent:
    """The default of every optional parameter of a gate: not given."""

    __slots__ = ()


ABSENT = Absent()


def array_token(leaf: Any) -> Hashable | None:
    """The token of one leaf, or ``None`` where the full check must decide."""
    kind: type = leaf.__class__
    if kind is np.ndarray:
        return (leaf.shape, leaf.dtype)
    if kind is float or kind is int or kind is bool or kind is complex:
        fits = kind is not int or _INT32[0] <= leaf < _INT32[1]
        return (kind, _jax.x64_enabled()) if fits else None
    if isinstance(leaf, np.generic):
        return (kind, leaf.dtype)
    if isinstance(leaf, jax.Array):  # tracers and keys are instances, too
        aval: Hashable = leaf.aval
        return aval
    return kind if leaf is ABSENT else None


def static_token(value: Any) -> Hashable | None:
    """The token of a static value; ``None`` for what can't be hashed."""
    try:
        hash(value)
    except Exception:  # noqa: BLE001  the caller's own __hash__ may raise anything
        return None
    return (value.__class__, value)


def sharded_token(leaf: Any) -> Hashable | None:
    """The token of a leaf whose sharding the contract names."""
    token = array_token(leaf)
    sharding = getattr(leaf, "sharding", None)
    return None if token is None else (token, sharding)


class TreeTokens:
    """The tokens of a parameter that is a tree.

    A tree of plain dicts, lists and tuples is read by code laid out for the structure
    that was admitted last: reading 1,000 leaves so costs a fifth of flattening them.
    """

    def __init__(self, tree: Any) -> None:
        specs = [spec for _, spec in leaves_of(tree) if spec is not None]
        self._tree = tree
        self._sharded = any(spec.sharding is not None for spec in specs)
        self._readers: dict[Any, Reader] = {}
        self._reader: Reader = _unread

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # Serial numbers of structures mean nothing in another process.
        return (TreeTokens, (self._tree,))

    def __call__(self, value: Any) -> Hashable | None:
        token = None if self._sharded else array_token(value)
        if token is not None:
            return token
        try:
            return self._reader(value)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            return None

    def learn(self, value: Any) -> Hashable | None:
        """Reads values of this structure from now on; the token of this one."""
        if not self._sharded and array_token(value) is not None:
            return array_token(value)
        structure = jax.tree.structure(value)
        reader = self._readers.get(structure)
        if reader is None:
            reader = self._reader_for(value)
            if len(self._readers) >= _MAX_READERS:
                self._readers.clear()
            self._readers[structure] = reader
        self._reader = reader
        return self(value)

    def _reader_for(self, value: Any) -> Reader:
        try:
            read = None if self._sharded else _layout(self._tree, value)
        except (_NotPlainError, RecursionError):
            read = None
        if read is None:
            return self._flattened
        serial = next(_serial)

        def tokens(tree: Any) -> Hashable | None:
            leaves: list[Any] = []
            read(tree, leaves)
            try:
                return (serial, tuple(map(_aval, leaves)))
            except TypeError:
                return _mixed(serial, leaves)

        return tokens

    def _flattened(self, value: Any) -> Hashable | None:
        leaves, structure = jax.tree.flatten(value)
        token = sharded_token if self._sharded else array_token
        tokens = tuple(map(token, leaves))
        return None if None in tokens else (structure, tokens)


class _NotPlainError(Exception):
    """A tree that is not made of exact dicts, lists and tuples."""


def _unread(_: Any) -> None:
    return None


def _mixed(serial: int, leaves: list[Any]) -> Hashable | None:
    tokens = tuple(map(array_token, leaves))
    return None if None in tokens else (serial, tokens)


def _layout(tree: Any, value: Any) -> Callable[[Any, list[Any]], None] | None:
    """Code that appends the contracted leaves of values structured like this one."""
    if tree is None:
        return None
    kind = value.__class__
    if kind is dict:
        return _dict_layout(tree, value)
    if kind is list or kind is tuple:
        parts = [
            _layout(tree if isinstance(tree, Spec) else tree[i], child)
            for i, child in enumerate(value)
        ]
        return _node_layout(kind, len(value), None, parts)
    if jax.tree_util.all_leaves([value]) and not isinstance(value, (str, bytes)):
        return _append
    raise _NotPlainError


def _dict_layout(
    tree: Any, value: dict[Any, Any]
) -> Callable[[Any, list[Any]], None] | None:
    parts = [
        _layout(tree if isinstance(tree, Spec) else tree[key], child)
        for key, child in value.items()
    ]
    return _node_layout(dict, len(value), list(value), parts)


def _append(value: Any, leaves: list[Any]) -> None:
    leaves.append(value)


def _node_layout(
    kind: Any, size: int, keys: list[Any] | None, parts: list[Any]
) -> Callable[[Any, list[Any]], None]:
    wanted = [i for i, part in enumerate(parts) if part is not None]
    indices = wanted if keys is None else [keys[i] for i in wanted]
    # Unchecked children are not read, but their keys are part of the structure.
    unread = frozenset(keys or ()).difference(indices)
    readers = [parts[i] for i in wanted]
    several = len(indices) > 1
    pick: Any = operator.itemgetter(*indices) if several else _picker(indices)
    only_leaves = all(reader is _append for reader in readers)

    def read_leaves(node: Any, leaves: list[Any]) -> None:
        if node.__class__ is not kind or len(node) != size:
            raise ValueError
        if unread and not unread <= node.keys():
            raise ValueError
        leaves.extend(pick(node))

    def read_nodes(node: Any, leaves: list[Any]) -> None:
        if node.__class__ is not kind or len(node) != size:
            raise ValueError
        if unread and not unread <= node.keys():
            raise ValueError
        for reader, child in zip(readers, pick(node), strict=True):
            reader(child, leaves)

    return read_leaves if only_leaves else read_nodes


def _picker(indices: list[Any]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda node: tuple(node[i] for i in indices)
