"""What one array of a contract must be: its axes, its dtype, its values.

A spec is written as a text (``"f32[b, 64]"``) or taken from a ``jax.ShapeDtypeStruct``.
Whatever is wrong with it is refused here, when the function is decorated.
"""

from __future__ import annotations

import cmath
import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any, Final, Literal

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from safejax.contract._axes import (
    ANONYMOUS,
    EXAMPLE,
    Axis,
    ConstraintsOf,
    Shape,
    malformed,
    read_shape,
    read_text,
)
from safejax.contract._dims import Constraint, DimError, Expr
from safejax.contract._dtypes import DTYPES, describe_aval, kind_of, short_dtype
from safejax.errors import ContractError

__all__ = [
    "ANONYMOUS",
    "DTYPES",
    "Axis",
    "Spec",
    "describe_aval",
    "malformed",
    "short_dtype",
    "spec",
    "spec_from_struct",
]


_iinfo: Final[Callable[[Any], Any]] = jnp.iinfo
_finfo: Final[Callable[[Any], Any]] = jnp.finfo


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Spec:
    """What one array, or every array of a subtree, must be. Made by :func:`spec`.

    Attributes:
        axes: The size of each axis (an integer, an expression, or ``ANONYMOUS``), or
            None where any shape will do. The axes that ``variadic`` stands for are
            not among them.
        variadic: The index in ``axes`` before which zero or more further axes may
            stand (``...`` or ``*name``), or None.
        variadic_name: The name in ``*name``, or None.
        dtypes: The admitted dtypes, or None where any will do. The class
            ``jax.dtypes.prng_key`` stands for the keys of every implementation.
        weak_type: Whether the array must be weakly typed, must not be, or (None) may.
        sharding: The sharding the array must have, or None.
        constraints: What the names of the axes must obey.
        minimum: The smallest value admitted, or None.
        maximum: The largest value admitted, or None.
        finite: Whether infinities and NaN are refused.
        one_of: The values admitted, or None.
        on_violation: What a value outside of these rules leads to.
        on_dtype: What another dtype leads to, or None: as the function says.

    Raises:
        ContractError: ``SJ102``: two rules contradict each other, or a rule does not
            suit the dtype.

    Example:
        >>> import safejax
        >>> s = safejax.spec("f32[b<=64, 28, ...]", finite=True)
        >>> s
        Spec(f32[b, 28, ...], b<=64, finite=True)
        >>> s.describe(), s.has_value_rules
        ('f32[b, 28, ...]', True)
    """

    axes: tuple[Axis, ...] | None = None
    variadic: int | None = None
    variadic_name: str | None = None
    dtypes: tuple[Any, ...] | None = None
    weak_type: bool | None = None
    sharding: Any | None = None
    constraints: tuple[Constraint, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    finite: bool = False
    one_of: tuple[Any, ...] | None = None
    on_violation: Literal["raise", "clip"] = "raise"
    on_dtype: Literal["error", "cast"] | None = None

    def __post_init__(self) -> None:
        _check_words(self)
        _check_bounds(self)
        _check_one_of(self)
        _check_clip(self)
        for dtype in self.dtypes or ():
            _check_dtype(self, dtype)

    @property
    def has_value_rules(self) -> bool:
        """Whether the values count, and not the shape and the dtype alone."""
        bounds = self.minimum is not None or self.maximum is not None
        return bounds or self.finite or self.one_of is not None

    @property
    def names(self) -> frozenset[str]:
        """The names of dimensions that the axes and the constraints mention."""
        exprs = (axis.names for axis in self.axes or () if isinstance(axis, Expr))
        return frozenset().union(*exprs, *(c.names for c in self.constraints))

    def admits_dtype(self, dtype: Any) -> bool:
        """Whether an array may have the dtype."""
        if self.dtypes is None:
            return True
        for admitted in self.dtypes:
            if admitted is jax.dtypes.prng_key:
                if jnp.issubdtype(dtype, admitted):
                    return True
            elif dtype == admitted:
                return True
        return False

    def describe(self) -> str:
        """The dtype and the shape as messages write them, such as ``f32[b, 64]``."""
        dtypes = "*" if self.dtypes is None else "|".join(map(short_dtype, self.dtypes))
        if self.axes is None:
            return f"{dtypes}[...]"
        axes = [_axis_text(axis) for axis in self.axes]
        if self.variadic is not None:
            name = self.variadic_name
            axes.insert(self.variadic, "..." if name is None else f"*{name}")
        return f"{dtypes}[{', '.join(axes)}]"

    @override
    def __repr__(self) -> str:
        shown = [self.describe(), *(bound.text for bound in self.constraints)]
        for field in dataclasses.fields(self)[4:]:
            value = getattr(self, field.name)
            if field.name != "constraints" and value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"Spec({', '.join(shown)})"


def _axis_text(axis: Axis) -> str:
    if isinstance(axis, Expr):
        return axis.text
    return "_" if axis is ANONYMOUS else str(axis)


def _check_words(spec: Spec) -> None:
    if spec.on_violation not in ("raise", "clip"):
        raise malformed(
            f"on_violation must be 'raise' or 'clip', got {spec.on_violation!r}"
        )
    if spec.on_dtype not in (None, "error", "cast"):
        raise malformed(f"on_dtype must be 'error' or 'cast', got {spec.on_dtype!r}")
    if not isinstance(spec.finite, bool):
        raise malformed(f"finite must be a bool, got {type(spec.finite).__name__}")
    if spec.weak_type is not None and not isinstance(spec.weak_type, bool):
        kind = type(spec.weak_type).__name__
        raise malformed(f"weak_type must be a bool or None, got {kind}")


def _check_bounds(spec: Spec) -> None:
    for name in ("minimum", "maximum"):
        bound: object = getattr(spec, name)
        if bound is None:
            continue
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise malformed(f"{name} must be a number, got {type(bound).__name__}")
        if math.isnan(bound):
            raise malformed(f"{name} is NaN: nothing compares with it")
    low, high = spec.minimum, spec.maximum
    if low is not None and high is not None and low > high:
        raise malformed(f"minimum={low} is above maximum={high}: nothing is admitted")


def _check_one_of(spec: Spec) -> None:
    if spec.one_of is None:
        return
    if not spec.one_of:
        raise malformed("one_of is empty: nothing is admitted")
    for i, member in enumerate(spec.one_of):
        if not _is_hashable(member):
            kind = type(member).__name__
            raise malformed(f"one_of[{i}] is not hashable: {kind}")
        if isinstance(member, float | complex) and cmath.isnan(member):
            raise malformed(f"one_of[{i}] is NaN, which equals nothing")
        if spec.dtypes is not None and not isinstance(member, int | float | complex):
            kind = type(member).__name__
            raise malformed(
                f"one_of[{i}] is not a number: {kind}",
                hint="for a static argument leave the text out: spec(one_of=...)",
            )


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _check_clip(spec: Spec) -> None:
    if spec.on_violation != "clip":
        return
    if spec.one_of is not None:
        raise malformed("on_violation='clip' has no meaning with one_of")
    if not spec.has_value_rules:
        raise malformed("on_violation='clip' needs a minimum, a maximum or finite=True")


def _check_dtype(spec: Spec, dtype: Any) -> None:
    kind, short = kind_of(dtype), short_dtype(dtype)
    if kind is None and dtype != jax.dtypes.float0:
        raise malformed(f"JAX has no arrays of dtype {short}")
    if kind in ("key", None) and spec.has_value_rules:
        raise malformed(f"a rule on values has no meaning for dtype {short}")
    for name in ("minimum", "maximum"):
        bound: float | None = getattr(spec, name)
        if bound is None:
            continue
        if kind not in ("int", "float"):
            raise malformed(f"{name} has no meaning for dtype {short}")
        if not _is_representable(bound, dtype, kind):
            raise malformed(f"{name}={bound} is out of the range of dtype {short}")
        if kind == "int" and spec.on_violation == "clip" and bound != int(bound):
            raise malformed(f"{name}={bound} cannot be a value of dtype {short}")


def _is_representable(bound: float, dtype: Any, kind: str) -> bool:
    if kind == "int":
        info = _iinfo(dtype)
        return bool(info.min <= bound <= info.max)
    return math.isinf(bound) or abs(bound) <= float(_finfo(dtype).max)


def _as_number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def spec(
    text: str | None = None,
    /,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    finite: bool = False,
    one_of: Collection[Any] | None = None,
    on_violation: Literal["raise", "clip"] = "raise",
    on_dtype: Literal["error", "cast"] | None = None,
    weak_type: bool | None = None,
) -> Spec:
    """Says what an array, or a static argument, must be.

    Args:
        text: ``DTYPE[AXES]``. The dtype is written as JAX prints it, with its width in
            bits (``f32``, ``bf16``, ``i8``, ``u8``, ``c64``, ``bool``, ``key``), or in
            full (``float32``); ``f32|bf16`` admits both; ``*`` or nothing admits any.
            An axis is an integer, a name, an expression (``2*b``), a name within
            bounds (``1<=b<=64``), ``_`` for any size, and once ``...`` or ``*name``
            for any number of axes. Without brackets any shape will do; ``f32[]`` is a
            scalar. No text at all admits any array, and is meant for static arguments.
        minimum: The smallest value admitted. NaN satisfies no bound.
        maximum: The largest value admitted.
        finite: Whether infinities and NaN are refused.
        one_of: The values admitted.
        on_violation: ``"raise"`` refuses the call; ``"clip"`` replaces what is outside
            of the rules within the compiled program.
        on_dtype: ``"cast"`` converts another dtype, ``"error"`` refuses it; None leaves
            that to the function's own ``on_dtype``.
        weak_type: Whether the array must be weakly typed, must not be, or (None) may.

    Returns:
        A leaf for ``contract=``.

    Raises:
        ContractError: ``SJ102``: the text is malformed, two rules contradict each
            other, or a rule does not suit the dtype.

    Example:
        >>> import safejax
        >>> safejax.spec("u8[b<=64, 28, 28]").describe()
        'u8[b, 28, 28]'
        >>> safejax.spec(one_of=("train", "eval")).one_of
        ('train', 'eval')
    """
    dtypes, shape = (None, Shape()) if text is None else read_text(text)
    if isinstance(one_of, str | bytes) or not isinstance(one_of, Collection | None):
        kind = type(one_of).__name__
        raise malformed(f"one_of must be a tuple of values, got {kind}")
    return Spec(
        **shape._asdict(),
        dtypes=dtypes,
        weak_type=weak_type,
        minimum=_as_number(minimum),
        maximum=_as_number(maximum),
        finite=finite,
        one_of=None if one_of is None else tuple(map(_as_number, one_of)),
        on_violation=on_violation,
        on_dtype=on_dtype,
    )


def spec_from_struct(
    struct: jax.ShapeDtypeStruct, constraints_of: ConstraintsOf
) -> Spec:
    """The spec that a ``jax.ShapeDtypeStruct`` stands for.

    Args:
        struct: Its axes are integers, texts as in :func:`spec`, or dimensions made by
            ``jax.export.symbolic_shape``.
        constraints_of: Gives the constraints of a symbolic dimension's scope, as texts.

    Raises:
        ContractError: ``SJ102``: an axis is malformed.
    """

    def fail(i: int, error: DimError) -> ContractError:
        return malformed(f"ShapeDtypeStruct: axis {i}: {error.reason}", EXAMPLE)

    shape = read_shape(tuple(struct.shape), fail, constraints_of)
    return Spec(
        **shape._asdict(),
        dtypes=(struct.dtype,),
        weak_type=True if struct.weak_type else None,
        sharding=struct.sharding,
    )


Spec.__module__ = spec.__module__ = "safejax"
