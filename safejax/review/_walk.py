"""One pass over a traced program and all programs nested in it.

Programs nest in the parameters of equations, and the same nested program may stand in
many places. Each is visited once, its users hold on to it, and what is counted is
multiplied: 50 functions that each call the one before twice are 50 small programs
and 2**50 equations. Nothing here recurses, because programs may nest deeper than
Python's stack.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from safejax import _jax
from safejax.review._admitted import is_plain

# Values without programs in them. The first look at each costs one lookup here.
_PLAIN = frozenset(
    {
        type(None), bool, int, float, complex, str, bytes, np.dtype,
        types.FunctionType, types.BuiltinFunctionType, types.MethodType, type,
    }
    | _jax.OPAQUE
)  # fmt: skip


class Role(enum.Enum):
    """What an equation does with the programs in its parameters."""

    CALL = "call"
    SCAN = "scan"
    WHILE = "while"
    COND = "cond"
    EACH = "each"  # for two scalars, once for each element
    OTHER = "other"


# Equations that XLA replaces by the program they hold, with the same inputs.
_CALLS = frozenset(
    {
        "jit", "pjit", "closed_call", "core_call", "call", "remat2", "checkpoint",
        "remat_opt", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call",
        "custom_lin", "eval_jaxpr", "composite", "custom_jvp_call_jaxpr",
    }
)  # fmt: skip
_NUMBERS = frozenset({int, *(np.dtype(letter).type for letter in "bhilqBHILQ")})
_UNKNOWN = 1 << 40
_EACH = ("reduce", "reduce_window", "select_and_scatter", "scatter")
# An equation of more operands and results counts once more for each so many: XLA
# writes and reads them one by one.
_WIDE = 64
# The equations that run a program many times.
LOOPS = frozenset({"scan", "while"})


@dataclasses.dataclass(slots=True)
class Call:
    """An equation that holds programs.

    Attributes:
        equation: The equation.
        role: What it does with them.
        nested: The programs, in the order of its parameters.
        trips: How often they run; 1 where that isn't known.
        known: Whether ``trips`` is known.
        copies: How often the programs are written out; more than 1 in an unrolled
            loop.
    """

    equation: Any
    role: Role
    nested: tuple[Nest, ...]
    trips: int = 1
    known: bool = True
    copies: int = 1


@dataclasses.dataclass(slots=True, eq=False)
class Nest:
    """One program, alone and with all that is nested in it.

    Attributes:
        jaxpr: The program as JAX has it, without its constants.
        calls: Its equations that hold programs, by position.
        equations: How many equations XLA gets, calls written out.
        users: How many equations hold this program.
        loops: How many loops stand inside one another, at most.
        depth: How many programs stand inside one another, itself included.
        primitives: The primitives of its own equations, each once.
    """

    jaxpr: Any
    calls: dict[int, Call] = dataclasses.field(default_factory=dict)
    equations: int = 0
    users: int = 0
    loops: int = 0
    depth: int = 1
    primitives: set[Any] = dataclasses.field(default_factory=set)


class Constant(NamedTuple):
    """An array that a program captured.

    Attributes:
        value: The array.
        jaxpr: The program that captured it.
        atom: What stands for it there, or the equation it is a parameter of.
    """

    value: Any
    jaxpr: Any
    atom: Any


@dataclasses.dataclass(slots=True)
class Walk:
    """What one pass found.

    Attributes:
        root: The outermost program.
        nests: Every program once; those nested in another come before it.
        constants: Arrays that programs capture, each once.
        endless: Whether a program holds itself.
    """

    root: Nest
    nests: list[Nest]
    constants: list[Constant]
    endless: bool


def walk(program: Any) -> Walk:
    """Visits a traced program and everything in it.

    Args:
        program: A program as JAX traced it.
    """
    nests: list[Nest] = []
    constants: dict[int, Constant] = {}
    root = Nest(getattr(program, "jaxpr", program))
    found: dict[int, Nest] = {id(root.jaxpr): root}
    open_now = {id(root.jaxpr)}
    endless = False
    _keep_constants(program, constants)
    stack = [(root, _fresh(root, found, constants))]
    while stack:
        nest, to_visit = stack[-1]
        child = next(to_visit, None)
        if child is None:
            stack.pop()
            open_now.discard(id(nest.jaxpr))
            _sum_up(nest)
            nests.append(nest)
        elif child.depth == 0:
            child.depth = 1
            open_now.add(id(child.jaxpr))
            stack.append((child, _fresh(child, found, constants)))
        elif id(child.jaxpr) in open_now:
            endless = True
    return Walk(root, nests, list(constants.values()), endless)


def _fresh(
    nest: Nest, found: dict[int, Nest], constants: dict[int, Constant]
) -> Iterator[Nest]:
    """Looks through the equations of one program; yields the programs they hold."""
    equations = nest.jaxpr.eqns
    nest.primitives = {equation.primitive for equation in equations}
    telling = {p for p in nest.primitives if not is_plain(p)}
    for at, equation in enumerate(equations) if telling else ():
        if equation.primitive not in telling:
            continue
        held: list[Any] = []
        arrays: list[Any] = []
        for value in equation.params.values():
            if type(value) not in _PLAIN:
                _look_into(value, held, arrays)
        if equation.primitive.name == "composite":
            arrays += _texts_of(equation)
        for array in arrays:
            constants.setdefault(id(array), Constant(array, nest.jaxpr, equation))
        if held:
            nested = []
            for program in held:
                _keep_constants(program, constants)
                jaxpr = getattr(program, "jaxpr", program)
                inner = found.get(id(jaxpr))
                if inner is None:
                    inner = found[id(jaxpr)] = Nest(jaxpr, depth=0)
                inner.users += 1
                nested.append(inner)
            nest.calls[at] = _call(equation, tuple(nested))
            yield from nested


def _keep_constants(program: Any, constants: dict[int, Constant]) -> None:
    values = getattr(program, "consts", ())
    if values:
        jaxpr = getattr(program, "jaxpr", program)
        for value, var in zip(values, jaxpr.constvars, strict=True):
            constants.setdefault(id(value), Constant(value, jaxpr, var))


def _call(equation: Any, nested: tuple[Nest, ...]) -> Call:
    """Tells how an equation runs its programs; anything may have JAX's names."""
    name = equation.primitive.name
    role = Role.COND if name == "cond" else Role.OTHER
    if name.startswith(_EACH):
        return Call(equation, Role.EACH, nested)
    if len(nested) == 1 and _is_shaped_alike(equation, nested[0]):
        if name in _CALLS:
            role = Role.CALL
        elif name == "scan":
            trips = _number(equation.params.get("length"))
            copies = _copies(trips, _number(equation.params.get("unroll", 1)))
            known, trips = trips is not None, max(0, trips or 1)
            return Call(equation, Role.SCAN, nested, trips, known, copies)
    elif name == "while" and len(nested) == 2:
        return Call(equation, Role.WHILE, nested, known=False)
    return Call(equation, role, nested)


def _is_shaped_alike(equation: Any, nest: Nest) -> bool:
    jaxpr = nest.jaxpr
    return len(jaxpr.invars) == len(equation.invars) and len(jaxpr.outvars) == len(
        equation.outvars
    )


def _number(value: Any) -> int | None:
    """JAX keeps what it is given: numbers of NumPy, names, objects that count anew."""
    return int(value) if type(value) in _NUMBERS else None


def _copies(trips: int | None, unroll: int | None) -> int:
    """How often JAX writes the body of a scan out; 0 stands for all trips."""
    if unroll == 1:
        return 1
    if trips is None:
        return _UNKNOWN
    if not unroll:
        return max(1, trips)
    rounds, rest = divmod(trips, unroll)
    return max(1, rest + (unroll if rounds else 0))


def weight_of(equation: Any) -> int:
    """How many equations XLA gets of one, without those in its programs."""
    wide = len(equation.invars) + len(equation.outvars)
    count = max(1, wide // _WIDE)
    if wide > _WIDE and equation.primitive.name == "sort":
        count += _number(equation.params.get("num_keys")) or 0  # compared one by one
    elif equation.primitive.name == "integer_pow":
        # Squares and products, as many as the exponent has digits.
        power = _number(equation.params.get("y"))
        count += _UNKNOWN if power is None else power.bit_length()
    return count


def _sum_up(nest: Nest) -> None:
    equations = nest.jaxpr.eqns
    powers = any(primitive.name == "integer_pow" for primitive in nest.primitives)
    nest.equations = len(equations)
    for equation in equations:
        if powers or len(equation.invars) + len(equation.outvars) > _WIDE:
            nest.equations += weight_of(equation) - 1
    for call in nest.calls.values():
        for inner in call.nested:
            nest.equations += call.copies * inner.equations
            nest.depth = max(nest.depth, inner.depth + 1)
            nest.loops = max(
                nest.loops, inner.loops + (call.equation.primitive.name in LOOPS)
            )


def _look_into(value: Any, held: list[Any], arrays: list[Any]) -> None:
    """Programs and arrays in a parameter, also inside containers and the like.

    Functions and their closures are not looked into: of the primitives that a review
    admits, none calls one when the program is lowered or run.
    """
    if isinstance(value, _jax.PROGRAMS):
        held.append(value)
    elif not (isinstance(value, tuple | list) and _all_plain(value)):
        _search(value, held, arrays)


def _all_plain(values: Any) -> bool:
    for value in values:  # noqa: SIM110 (a generator costs three times as much)
        if type(value) not in _PLAIN:
            return False
    return True


def _search(value: Any, held: list[Any], arrays: list[Any]) -> None:
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if type(item) in _PLAIN or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, _jax.PROGRAMS):
            held.append(item)
        elif (array := _jax.array_in(item)) is not None:
            arrays.append(array)
        else:
            stack.extend(reversed(_parts(item)))


def _texts_of(composite: Any) -> list[Any]:
    """Texts and numbers among the attributes of a composite, as bytes of a module."""
    try:
        values, _ = _jax.attributes_of(composite)
    except (TypeError, ValueError, AttributeError):
        return []  # not the primitive of JAX, whatever its name is
    sizes = [
        len(str.encode(v, errors="replace"))
        if isinstance(v, str)
        else 8 * isinstance(v, int | float | np.generic)
        for v in values
    ]
    return [np.empty((size,), np.uint8) for size in sizes if size]


def _parts(item: Any) -> list[Any]:
    """What a parameter is made of, if it is made of parts that may be programs."""
    if isinstance(item, tuple | list | set | frozenset):
        return list(item)
    if isinstance(item, dict | types.MappingProxyType):
        return list(item.values())
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        names = [field.name for field in dataclasses.fields(item)]
        return [getattr(item, name, None) for name in names]
    inner = getattr(item, "__dict__", {}).get("jaxpr")
    return [] if inner is None else [inner]


def captured_in(found: Walk) -> list[Constant]:
    """The captured arrays, also those that JAX wrote into equations.

    It does so under ``jax_use_simplified_jaxpr_constants``.
    """
    constants = {id(constant.value): constant for constant in found.constants}
    literal = _jax.Literal
    for nest in found.nests:
        rows: list[Any] = [equation.invars for equation in nest.jaxpr.eqns]
        for atoms in (*rows, nest.jaxpr.outvars):
            for atom in atoms:
                if type(atom) is literal and getattr(atom.aval, "shape", None):
                    constant = Constant(atom.val, nest.jaxpr, atom)
                    constants.setdefault(id(atom.val), constant)
    return list(constants.values())


def path_to(found: Walk, nest: Nest, equation: Any) -> list[Any]:
    """The equations around an equation of a program, outermost first, and itself."""
    above: dict[int, tuple[Nest, Any]] = {}
    for outer in found.nests:
        for call in outer.calls.values():
            for inner in call.nested:
                above.setdefault(id(inner), (outer, call.equation))
    path = [equation]
    around = above.get(id(nest))
    while around is not None:
        path.append(around[1])
        around = above.get(id(around[0]))
    return path[::-1]
