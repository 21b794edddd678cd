"""Whether a module takes and gives what its program says, so that calling it can't."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from safejax.contract._dims import parse_expr
from safejax.export._flat import Table, malformed
from safejax.export._schema import DTYPES

_ELEMENTS: Final = {
    "bool": "i1", "float0": "i1", "c64": "complex<f32>", "c128": "complex<f64>",
    **{f"u{n}": f"ui{n}" for n in (4, 8, 16, 32, 64)},
}  # fmt: skip
_KEY_WORDS: Final = {"key<fry>": 2, "key<rbg>": 4, "key<urbg>": 4}
_TOKEN: Final = "!stablehlo.token"  # noqa: S105  a type of MLIR
_INDEX: Final = "tensor<i32>"


def check_interface(program: Table, inputs: list[str], outputs: list[str]) -> None:
    """Compares the types of a module's main function with the program's arrays.

    Args:
        program: What was read; its arrays have been checked.
        inputs: The types that the module takes.
        outputs: The types that it gives.

    Raises:
        FormatError: They differ.
    """
    arrays = list(_arrays(program, "in"))
    kept = program.get("kept", [])
    if any(place >= len(arrays) for place in kept) or kept != sorted(set(kept)):
        raise malformed("it names an argument that is not there")
    tokens = [_TOKEN] * len(program.get("ordered_effects", ()))
    index = [_INDEX] if len(program["platforms"]) > 1 else []
    wanted = [*index, *tokens, *(arrays[place] for place in kept)]
    if inputs != wanted or outputs != [*tokens, *_arrays(program, "out")]:
        raise malformed("its module takes or gives something else than it says")


def _arrays(program: Table, side: str) -> Iterator[str]:
    places = program.get(f"{side}_array")
    if places is None:
        found = program.get(f"{side}_avals", [])
    else:
        found = [program["arrays"][place] for place in places]
    return map(_mlir_type, found)


def _mlir_type(array: Any) -> str:
    dtype = DTYPES[array.get("dtype", 0)]
    sizes = [parse_expr(axis).constant for axis in array.get("shape", [])]
    axes = ["?" if size is None else str(size) for size in sizes]
    if dtype in _KEY_WORDS:
        axes.append(str(_KEY_WORDS[dtype]))
        dtype = "u32"
    return f"tensor<{''.join(f'{axis}x' for axis in axes)}{_element(dtype)}>"


def _element(dtype: str) -> str:
    if dtype in _ELEMENTS:
        return _ELEMENTS[dtype]
    if dtype.startswith(("f8_", "f4_")):
        width, _, form = dtype.partition("_")
        return f"{width}{form.upper()}"
    return dtype
