"""What one leaf is, and the arrays that stand for it in a file and in memory."""

from __future__ import annotations

import math
import re
from typing import Any, Final, NamedTuple

import jax
import numpy as np

from safejax._file_errors import FormatError
from safejax.checkpoint._dtypes import (
    DTYPES,
    NATIVE,
    name_of,
    stored_bytes,
)
from safejax.signing._header import Tensor

_SCALARS: Final = {
    "bool": (bool, "bool"),
    "int": (int, "int64"),
    "float": (float, "float64"),
    "complex": (complex, "complex128"),
}
_KEY: Final = "key:"
_MOST_AXES: Final = 64
_IMPL: Final = re.compile(r"key:[A-Za-z0-9_]{1,64}")
_FROM_NATIVE: Final = {code: name for name, code in NATIVE.items()}


class Leaf(NamedTuple):
    """What one leaf is.

    Attributes:
        kind: ``"jax"`` or ``"numpy"`` for arrays, the name of a Python scalar's type,
            or ``"key:"`` with the algorithm of random keys.
        dtype: Of the array; for random keys, of their data.
        shape: The same.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def stored(self) -> int:
        """How many bytes it takes in a file."""
        return stored_bytes(self.dtype, math.prod(self.shape))

    def describe(self) -> str:
        """As in ``float32[3, 4]``."""
        if self.kind in _SCALARS:
            return f"Python {self.kind}"
        if self.kind.startswith(_KEY):
            impl = self.kind.removeprefix(_KEY)
            return f"random keys {impl}{list(self.shape[:-1])}"
        return f"{self.dtype}{list(self.shape)}"

    def tensor(self, start: int, size: int) -> Tensor:
        """How safetensors is told of it; ``size`` is ``stored``."""
        if self.dtype in NATIVE:
            return Tensor(NATIVE[self.dtype], self.shape, start, start + size)
        return Tensor("U8", (size,), start, start + size)

    def note(self) -> list[Any] | None:
        """What the tensor does not tell, as plain data; None where it tells all."""
        if self.kind == "jax" and self.dtype in NATIVE:
            return None
        return [self.kind, self.dtype, list(self.shape)]


def is_random_key(value: Any) -> bool:
    """Whether this is a typed PRNG key array, or a struct of one."""
    return bool(jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key))


def leaf_of(value: Any, name: str) -> Leaf:
    """What a leaf of a tree in memory is.

    Raises:
        FormatError: Its dtype can't be saved (``SJ507``).
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return _scalar_leaf(value, name)
    if not isinstance(dtype, np.dtype) and is_random_key(value):
        return _key_leaf(value)
    stored_as = name_of(np.dtype(dtype))
    if stored_as is None:
        raise _unsupported(name, str(dtype))
    kind = "numpy" if isinstance(value, np.ndarray | np.generic) else "jax"
    return Leaf(kind, stored_as, value.shape)


def leaf_to_save(value: Any, name: str) -> Leaf:
    """What a leaf is that has values to be saved, all of which the file can hold.

    Raises:
        FormatError: It has none, or a mask, or its dtype can't be saved (``SJ507``).
    """
    if isinstance(value, jax.ShapeDtypeStruct):
        raise _unsupported(name, "a ShapeDtypeStruct, which has no values")
    if isinstance(value, np.ma.MaskedArray):
        raise _unsupported(name, "the mask of a masked array")
    return leaf_of(value, name)


def _scalar_leaf(value: Any, name: str) -> Leaf:
    for kind, (cls, dtype) in _SCALARS.items():
        if type(value) is cls:
            return Leaf(kind, dtype, ())
    raise _unsupported(name, type(value).__name__)


def _unsupported(name: str, what: str) -> FormatError:
    return FormatError(
        f"can't save {name}: no way to store {what}",
        code="SJ507",
        details={"path": name, "dtype": what},
    )


def _key_leaf(value: Any) -> Leaf:
    found: list[str] = []

    def look(keys: Any) -> jax.Array:  # an abstract key has no algorithm to ask for
        found.append(str(jax.random.key_impl(keys)))
        return jax.random.key_data(keys)

    data = jax.eval_shape(look, value)
    return Leaf(f"{_KEY}{found[0]}", str(data.dtype), tuple(data.shape))


def leaf_in_file(tensor: Tensor, note: Any) -> Leaf:
    """What a leaf of a verified file is.

    Raises:
        FormatError: Its note is malformed or contradicts the tensor.
    """
    if note is None:
        return Leaf("jax", _FROM_NATIVE[tensor.dtype], tensor.shape)
    leaf = leaf_of_note(note)
    if leaf.tensor(tensor.start, leaf.stored) != tensor:
        raise _malformed()
    return leaf


def leaf_of_note(note: Any) -> Leaf:
    """What a note says, without a tensor to compare.

    Raises:
        FormatError: It is malformed.
    """
    if type(note) is not list or len(note) != 3:
        raise _malformed()
    kind, dtype, shape = note
    if (
        type(shape) is not list
        or len(shape) > _MOST_AXES
        or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape)
        or not _is_kind(kind, dtype, shape)
    ):
        raise _malformed()
    return Leaf(kind, dtype, tuple(shape))


def _malformed() -> FormatError:
    return FormatError("the note on an array is malformed")


def _is_kind(kind: Any, dtype: Any, shape: Any) -> bool:
    if type(kind) is not str or type(dtype) is not str or dtype not in DTYPES:
        return False
    if kind in _SCALARS:
        return dtype == _SCALARS[kind][1] and shape == []
    if kind.startswith(_KEY):
        return bool(_IMPL.fullmatch(kind)) and dtype == "uint32" and shape != []
    return kind in ("jax", "numpy")


def to_numpy(value: Any, leaf: Leaf, name: str) -> np.ndarray[Any, Any]:
    """The leaf's values on the host; a view where there can be one.

    Raises:
        FormatError: An integer has more than 64 bits (``SJ507``).
    """
    if leaf.kind in _SCALARS:
        try:
            return np.array(value, DTYPES[leaf.dtype])
        except OverflowError:
            raise _unsupported(name, "an integer of more than 64 bits") from None
    if leaf.kind.startswith(_KEY):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def from_numpy(array: np.ndarray[Any, Any], kind: str) -> Any:
    """The Python scalar that :func:`to_numpy` was given."""
    return _SCALARS[kind][0](array[()])


def is_scalar(kind: str) -> bool:
    """Whether the kind is a Python scalar's."""
    return kind in _SCALARS


def key_impl(kind: str) -> str:
    """The algorithm of random keys, or an empty string for other kinds."""
    return kind.removeprefix(_KEY) if kind.startswith(_KEY) else ""
