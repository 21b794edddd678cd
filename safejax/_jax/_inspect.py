"""Looking into traced programs: what they are made of, and where it was written."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import core, named_sharding, source_info_util, stages
from jax._src import sharding as sharding_lib
from jax._src.hashable_array import HashableArray
from jax._src.lib.mlir import ir  # type: ignore[attr-defined]
from jax._src.state.types import AbstractRef

Literal: Any = core.Literal
Primitive: Any = core.Primitive
# Up to JAX 0.11 a program with its constants is a class of its own.
PROGRAMS: tuple[type, ...] = tuple(
    kind
    for kind in (core.Jaxpr, getattr(core, "ClosedJaxpr", None))
    if isinstance(kind, type)
)
# Types of parameters without programs in them, of which each ``jit`` has a dozen.
OPAQUE: frozenset[type] = frozenset(
    {
        type(named_sharding.UNSPECIFIED),
        jax.sharding.Mesh,
        jax.sharding.AbstractMesh,
        jax.sharding.NamedSharding,
        jax.tree_util.PyTreeDef,
    }
)
# Where JAX keeps what it defines, as attributes of modules.
_HOMES = ("jax._src.", "jax.experimental.sparse")
_CUSTOM_CALLS = ("stablehlo.custom_call", "mhlo.custom_call")
_KEY_HOMES = ("jax._src.random.", "jax._src.prng")
# Containers that are put together without code of anybody.
_BUILT_IN = (tuple, list, dict, type(None))

_own_primitives: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def is_own_primitive(primitive: Any) -> bool:
    """Whether this very object is a primitive of JAX, whatever its name is.

    Anyone can make ``Primitive("add")``; JAX's own are attributes of its modules.
    """
    known = _own_primitives.get(primitive)
    if known is None:
        # Modules are imported late, so what is unknown is looked for again.
        for own in _primitives_of_jax():
            _own_primitives[own] = True
        known = _own_primitives.setdefault(primitive, False)
    return known


def _primitives_of_jax() -> Iterator[Any]:
    for name, module in list(sys.modules.items()):
        if name.startswith(_HOMES) and module is not None:
            for value in list(vars(module).values()):
                if isinstance(value, core.Primitive):
                    yield value


def is_own_class(kind: type) -> bool:
    """Whether a class, of an effect for example, is one that JAX's modules define."""
    module = sys.modules.get(kind.__module__)
    return (
        kind.__module__.startswith(_HOMES)
        and getattr(module, kind.__qualname__.partition(".")[0], None) is not None
    )


def has_foreign_keys(atoms: Iterable[Any], impl: Any = None) -> bool:
    """Whether values are random keys of a type that JAX does not define.

    Args:
        atoms: Variables of a program.
        impl: The key type that an equation names, if it does.
    """
    if impl is not None and not _is_own_key_type(impl):
        return True
    for atom in atoms:
        kind = getattr(getattr(atom.aval, "dtype", None), "_impl", None)
        if kind is not None and not _is_own_key_type(kind):
            return True
    return False


def _is_own_key_type(kind: Any) -> bool:
    return any(
        kind is value
        for name, module in list(sys.modules.items())
        if name.startswith(_KEY_HOMES) and module is not None
        for value in list(vars(module).values())
    )


def array_in(value: Any) -> Any:
    """The array that a parameter of an equation is, or ``None``."""
    if isinstance(value, HashableArray):
        value = value.val
    if isinstance(value, np.ndarray):
        return None if value.dtype.hasobject else value  # such as the devices of a mesh
    return value if isinstance(value, jax.Array) else None


def is_reference(atom: Any) -> bool:
    """Whether a variable of a program is memory that other code can read."""
    return isinstance(getattr(atom, "aval", None), AbstractRef)


def metadata_of(equation: Any) -> Any:
    """What goes with an equation to XLA, as text; empty where there is nothing.

    JAX itself sets none: it comes from ``set_xla_metadata`` only.
    """
    return getattr(equation.ctx, "xla_metadata", None)


def attributes_of(composite: Any) -> tuple[list[Any], bool]:
    """What a composite has written into the module beside its program.

    Args:
        composite: The equation.

    Returns:
        The values, and whether putting them together again, which is done when the
        program is lowered, takes code that JAX does not know.
    """
    values: list[Any] = []
    strange = False
    for name, leaves, tree in composite.params.get("attributes", ()):
        values += (name, *leaves)
        stack = [tree]
        while stack:
            node = stack.pop()
            data = node.node_data()
            strange = strange or (data is not None and data[0] not in _BUILT_IN)
            stack.extend(node.children())
    return values, strange


def program_of(traced: Any) -> Any:
    """The program that ``jax.jit(f).trace(...)`` will lower, or the program itself.

    What stands for a program of its own (hijax' primitives, which JAX uses for
    ``linalg`` and ``custom_root``) is replaced by it, as JAX does when it lowers; JAX
    keeps the result for that.
    """
    return _lowered(traced)._params["jaxpr"] if _is_traced(traced) else traced


def _is_traced(value: Any) -> bool:
    return isinstance(value, stages.Traced)


def _lowered(traced: Any) -> Any:
    return traced.lojax if traced.jaxpr.is_high else traced


def donated_of(traced: Any) -> tuple[bool, ...]:
    """Which flat arguments a call gives up to the program."""
    if not _is_traced(traced):
        return ()
    return tuple(_lowered(traced)._params.get("donated_invars", ()))


def shardings_of(traced: Any) -> tuple[Any, ...]:
    """How each flat argument is laid out over devices, or ``None``, where known.

    Where ``in_shardings`` says nothing, a committed argument keeps its own layout.
    """
    if not _is_traced(traced):
        return ()
    lowered = _lowered(traced)
    asked = lowered._params.get("in_shardings", ())
    given = lowered._meta_tys_flat
    if len(asked) != len(given):
        return ()
    return tuple(
        _sharding_or_none(a) or (_sharding_or_none(g.sharding) if g.committed else None)
        for a, g in zip(asked, given, strict=True)
    )


def out_shardings_of(traced: Any) -> tuple[Any, ...]:
    """How each flat result is laid out over devices, or ``None``, where asked for."""
    if not _is_traced(traced):
        return ()
    asked = _lowered(traced)._params.get("out_shardings", ())
    return tuple(map(_sharding_or_none, asked))


def _sharding_or_none(value: Any) -> Any:
    return value if isinstance(value, sharding_lib.Sharding) else None


def source_of(equation: Any) -> tuple[str, int, str]:
    """File, line and function of the user's code that an equation comes from.

    An empty file where JAX kept no traceback, or only frames of its own.
    """
    frame = source_info_util.user_frame(equation.source_info.traceback)
    if frame is None:
        return "", 0, ""
    return frame.file_name, frame.start_line, frame.function_name


def argument_names(traced: Any) -> tuple[str, ...]:
    """Names of the flat arguments, such as ``params['w']``, as JAX knows them."""
    program = program_of(traced)
    jaxpr = getattr(program, "jaxpr", program)
    names: Sequence[Any] = getattr(jaxpr.debug_info, "arg_names", None) or ()
    return tuple(map(str, names))


def custom_calls_of(
    module: Any, also: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Names and targets of the custom calls of a StableHLO module.

    Args:
        module: The module.
        also: Names of further operations to report, with an empty target.
    """
    stack = [module.operation]
    while stack:
        operation = stack.pop()
        name = operation.name
        if name in _CUSTOM_CALLS:
            target = operation.attributes["call_target_name"]
            yield name, ir.StringAttr(target).value
        elif name in also:
            yield name, ""
        for region in operation.regions:
            for block in region:
                stack.extend(inner.operation for inner in block)


def is_of_gradient(equation: Any) -> bool:
    """Whether an equation was made for the forward part of a gradient."""
    stack = str(equation.source_info.name_stack)
    return "jvp(" in stack and "transpose(" not in stack
