"""What an exported program is, taken from its bytes and not from what is said of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Final

from safejax.contract._dims import DimError, parse_expr
from safejax.export._flat import Table, malformed
from safejax.export._schema import CUSTOM, DICT, DTYPES, LEAF

_MAGIC: Final = b"ML\xefR"
_MOST_VJPS: Final = 4
_MOST_AXES: Final = 64
_MOST_DEVICES: Final = 1 << 16
_MOST_NAME: Final = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an exported program is.

    Attributes:
        function: The name of the function.
        platforms: What it was lowered for, such as ``"cpu"``.
        calling_convention: The version of how its module is called.
        devices: For how many devices.
        vjp_order: How often it can be differentiated.
        inputs: Path and type of each array that goes in, in order.
        outputs: The same of what comes out.
        positional: How many arguments are passed by position.
        named: The names of the others.
        modules: The StableHLO modules: of the function, and of its derivatives.
    """

    function: str
    platforms: list[str]
    calling_convention: int
    devices: int
    vjp_order: int
    inputs: list[list[str]]
    outputs: list[list[str]]
    positional: int
    named: list[str]
    modules: list[bytes] = dataclasses.field(repr=False)

    def as_data(self) -> dict[str, Any]:
        """Plain data, to be signed and to be compared."""
        data = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        del data["modules"]
        return data


def facts_of(program: Table) -> Facts:
    """Checks what was read, the derivatives included.

    Raises:
        FormatError: It is nothing that JAX exports, or out of proportion.
    """
    chain = [program]
    while "vjp" in chain[-1]:
        chain.append(chain[-1]["vjp"])
    if len(chain) > 1 + _MOST_VJPS:
        raise malformed(f"it has more than {_MOST_VJPS} derivatives in a row")
    for one in chain:
        _check(one)
    tree = program["in_tree"]
    positional, named = _parameters(tree)
    inputs = _described(program, tree, "in")
    return Facts(
        function=program["name"],
        platforms=program["platforms"],
        calling_convention=program.get("calling_convention", 0),
        devices=program.get("devices") or program.get("devices_short", 0),
        vjp_order=len(chain) - 1,
        inputs=inputs,
        outputs=_described(program, program["out_tree"], "out"),
        positional=positional,
        named=named,
        modules=[one["module"] for one in chain],
    )


def _check(program: Table) -> None:
    lacking = [
        name
        for name in ("name", "in_tree", "out_tree", "module")
        if name not in program
    ]
    if lacking or not program.get("platforms"):
        raise malformed(f"it lacks {(*lacking, 'platforms')[0]}")
    name = program["name"]
    if not name.isprintable() or not 0 < len(name) <= _MOST_NAME:
        raise malformed("the name of its function is no name")
    # MLIR's reader takes text as well, which JAX never writes.
    if not program["module"].startswith(_MAGIC):
        raise malformed("its module is no MLIR bytecode")
    for field in ("arrays", "in_avals", "out_avals"):
        for array in program.get(field, ()):
            _type_of(array)
    for mesh in _tables(program, "sizes"):
        if math.prod(mesh["sizes"]) > _MOST_DEVICES:
            raise malformed(f"it has a mesh of more than {_MOST_DEVICES} devices")


def _tables(value: Any, field: str) -> Iterator[Table]:
    """All tables with a field, however deep."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if field in item:
                yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _type_of(array: Table) -> str:
    """The text of an array's type, once its dimensions are known to be harmless."""
    axes = array.get("shape", [])
    number = array.get("dtype", 0)
    if array.get("kind", 0) != 0 or not 0 <= number < len(DTYPES):
        raise malformed("an array has a dtype that this version does not know")
    if len(axes) > _MOST_AXES:
        raise malformed("an array has too many axes")
    for axis in axes:
        try:
            size = parse_expr(axis).constant
        except DimError:
            raise malformed("an array has an axis that is no dimension") from None
        if size is not None and size < 0:
            raise malformed("an array has a negative axis")
    return f"{DTYPES[number]}[{', '.join(axes)}]"


def _described(program: Table, tree: Table, side: str) -> list[list[str]]:
    """Path and type of each array of one side."""
    paths = list(_paths(tree))
    places = program.get(f"{side}_array")
    arrays = program.get("arrays", [])
    if places is None:
        found = program.get(f"{side}_avals", [])
    elif all(place < len(arrays) for place in places):
        found = [arrays[place] for place in places]
    else:
        raise malformed("it names an array that is not there")
    if len(found) != len(paths):
        raise malformed("its trees and its arrays are not the same")
    types = map(_type_of, found)
    return [[path, text] for path, text in zip(paths, types, strict=True)]


def _paths(tree: Table) -> Iterator[str]:
    """The path of each leaf, in order."""
    stack = [(tree, "")]
    while stack:
        node, path = stack.pop()
        kind, children = node.get("kind", LEAF), node.get("children", [])
        if not LEAF <= kind <= CUSTOM or (kind == LEAF and children):
            raise malformed("a tree has a node of an unknown kind")
        if kind == LEAF:
            yield path or "."
        keys: list[Any] = list(range(len(children)))
        if kind == DICT:
            keys = node.get("keys", [])
            if len(keys) != len(children) or len(set(keys)) != len(keys):
                raise malformed("the keys of a tree are not those of its children")
        inner = [(c, f"{path}[{k!r}]") for k, c in zip(keys, children, strict=True)]
        stack.extend(reversed(inner))


def _parameters(tree: Table) -> tuple[int, list[str]]:
    """How many arguments go by position, and the names of the others."""
    children = tree.get("children", [])
    if len(children) != 2 or children[1].get("kind") != DICT:
        raise malformed("its arguments are no arguments")
    named = children[1].get("keys", [])
    return len(children[0].get("children", [])), named
