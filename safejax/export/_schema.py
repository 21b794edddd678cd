"""What stands in the bytes of ``jax.export``: its flatbuffer schema, as a table.

Of JAX 0.10.2 and 0.12.0.1. A table's fields are in the order of their slots; a slot
that no row knows makes a file one of a newer JAX, which is refused.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

Scalar = Literal["b", "B", "h", "H", "I"]  # as in the module struct


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of a table.

    Attributes:
        name: What it is called here.
        kind: A number by its letter, ``"text"``, ``"bytes"``, or the name of a table.
        many: Whether it is a vector of these.
    """

    name: str
    kind: str
    many: bool = False


def _fields(text: str) -> tuple[Field, ...]:
    return tuple(
        Field(name, kind.removesuffix("*"), kind.endswith("*"))
        for name, kind in (word.split(":") for word in text.split())
    )


# A star stands for a vector.
TABLES: Final = {
    "Program": _fields(
        "serialization:H name:text in_tree:Tree in_avals:Array* out_tree:Tree "
        "out_avals:Array* devices_short:h in_shardings:Sharding* "
        "out_shardings:Sharding* platforms:text* ordered_effects:Effect* "
        "unordered_effects:Effect* disabled_checks:Check* module:bytes "
        "calling_convention:H kept:H* global_constants:B vjp:Program devices:I "
        "arrays:Array* meshes:Mesh* layouts:Layout* in_array:I* out_array:I* "
        "in_layout:I* out_layout:I* jax:text"
    ),
    "Tree": _fields("kind:b children:Tree* keys:text* custom:text auxdata:bytes"),
    "Array": _fields("kind:b shape:text* dtype:b memory:b"),
    "Sharding": _fields("kind:b hlo:bytes layout:Layout"),
    "Layout": _fields("mesh:Mesh spec:Spec memory:text mesh_at:I"),
    "Mesh": _fields("sizes:I* names:text* types:b* device:Device"),
    "Device": _fields("kind:text cores:I platform:text"),
    "Spec": _fields("axes:Axes* reduced:text* unreduced:text*"),
    "Axes": _fields("names:text*"),
    "Effect": _fields("name:text"),
    "Check": _fields("kind:b target:text"),
}
# The dtypes by their numbers, as messages write them.
DTYPES: Final = [
    "bool",
    "i8",
    "i16",
    "i32",
    "i64",
    "u8",
    "u16",
    "u32",
    "u64",
    "f16",
    "f32",
    "f64",
    "c64",
    "c128",
    "bf16",
    "i4",
    "u4",
    "f8_e4m3b11fnuz",
    "f8_e4m3fn",
    "f8_e4m3fnuz",
    "f8_e5m2",
    "f8_e5m2fnuz",
    "float0",
    "f8_e4m3",
    "f8_e3m4",
    "f8_e8m0fnu",
    "f4_e2m1fn",
    "key<fry>",
    "key<rbg>",
    "key<urbg>",
]
# Kinds of tree nodes.
LEAF, NONE, TUPLE, LIST, DICT, CUSTOM = range(6)
