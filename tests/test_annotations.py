"""Contracts read from type hints, and the hints that are refused, not dropped."""

# ruff: noqa: F821, UP007, UP037, UP045
# (the axes of jaxtyping look like names to ruff; both forms of a union are tested)

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Annotated, Literal, NewType, Optional, Union, no_type_check

import jax
import jaxtyping
import numpy as np
import pytest
from jaxtyping import (
    Array,
    ArrayLike,
    Bool,
    Float,
    Float32,
    Int,
    Key,
    PRNGKeyArray,
    PyTree,
    Shaped,
    UInt8,
)

from safejax.contract._annotations import from_annotations
from safejax.contract._spec import Spec, spec
from safejax.errors import ContractError

BATCH = spec("f32[b, 64]")
STRUCT = jax.ShapeDtypeStruct(("b", 3), np.float32)
Batch = Annotated[jax.Array, BATCH]
BatchType = NewType("BatchType", Batch)


def hinted(hint):
    def f(x, y):
        pass

    f.__annotations__ = {"x": hint}
    return f


def read(hint):
    return from_annotations(hinted(hint))["x"]


def refusal(fun):
    with pytest.raises(ContractError) as caught:
        from_annotations(fun)
    assert caught.value.code == "SJ102"
    return caught.value


class TestAnnotated:
    def test_first_spec_or_struct_of_the_metadata_counts(self):
        assert read(Annotated[jax.Array, "words", BATCH, STRUCT]) is BATCH
        assert read(Annotated[jax.Array, STRUCT, BATCH]) is STRUCT
        assert read(Annotated[jax.Array | None, BATCH]) is BATCH

    def test_other_metadata_is_looked_through(self):
        assert read(Annotated[Float32[Array, "b"], "words"]).describe() == "f32[b]"

    def test_hints_as_strings_are_resolved(self):
        def f(params, x: Annotated[jax.Array, BATCH], y: Batch, n: int = 3) -> Batch:
            pass

        assert from_annotations(f) == {"x": BATCH, "y": BATCH}

    def test_aliases_are_followed(self):
        assert read(BatchType) is BATCH

    def test_variadic_parameters_keep_their_names(self):
        def f(*xs: Batch, **named: Batch):
            pass

        assert from_annotations(f) == {"xs": BATCH, "named": BATCH}


class TestJaxtyping:
    @pytest.mark.parametrize(
        ("hint", "described"),
        [
            (Float32[Array, "b 64"], "f32[b, 64]"),
            (Float32[np.ndarray, "b 64"], "f32[b, 64]"),
            (Float32[Array, ""], "f32[]"),
            (Float32[Array, "..."], "f32[...]"),
            (Float32[Array, "*batch 3"], "f32[*batch, 3]"),
            (Float32[Array, "*_ 3"], "f32[..., 3]"),
            (Float32[Array, "a ... 3"], "f32[a, ..., 3]"),
            (Float32[Array, "_ _width b"], "f32[_, _, b]"),
            (Float32[Array, "rows=4 b"], "f32[4, b]"),
            (Float32[Array, "2*b b-1 min(a,b)"], "f32[2*b, b-1, min(a,b)]"),
            (Float32[Array, "in out"], "f32[in, out]"),
            (UInt8[Array, "b"], "u8[b]"),
            (Bool[Array, "b"], "bool[b]"),
            (Int[Array, "b"], "i2|i4|i8|i16|i32|i64[b]"),
            (Shaped[Array, "b"], "*[b]"),
            (Key[Array, "b"], "key[b]"),
            (Float[Float32[Array, "a"], "b"], "f32[b, a]"),
            (Float32[Array | np.ndarray, "b"], "f32[b]"),
            (Float32[ArrayLike, ""], "f32[]"),
            (PyTree[Float32[Array, "b"]], "f32[b]"),
        ],
    )
    def test_hint_means_the_spec_it_spells_out(self, hint, described):
        assert read(hint).describe() == described

    def test_float_admits_the_floats_of_jax_alone(self):
        made = read(Float[Array, "b"])
        for name in ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn"):
            assert made.admits_dtype(np.dtype(name))
        assert not made.admits_dtype(np.dtype("int32"))

    def test_dtypes_given_as_patterns_are_matched(self):
        class Wide(jaxtyping.AbstractDtype):
            dtypes = ("float64", re.compile("int(32|64)$"))

        assert read(Wide[Array, "b"]).describe() == "f64|i32|i64[b]"

    def test_dtypes_that_jax_does_not_have_are_left_out(self):
        class Odd(jaxtyping.AbstractDtype):
            dtypes = ("float32", "float128")

        assert read(Odd[Array, "b"]).describe() == "f32[b]"

    def test_hint_without_any_dtype_of_jax_is_refused(self):
        class Text(jaxtyping.AbstractDtype):
            dtypes = ("str96",)

        assert "none of the dtypes" in refusal(hinted(Text[Array, "b"])).message

    @pytest.mark.parametrize(
        ("hint", "says"),
        [
            (Float[Array, "#b"], "'#b', which broadcasts, is not supported"),
            (Float[Array, "a *#b"], "'*#b', which broadcasts, is not supported"),
            (PyTree[Float[Array, "?b"]], "'?b', which varies over a tree"),
            (Float[Array, "{n}"], "'{n}' is not supported"),
            (Float[Array, "b/2"], "'b/2' is not supported"),
            (Float[Array, "b^2"], "no power in Python"),
            (Float[Array, "-3"], "cannot be negative"),
            (PyTree[Float[Array, "b"], "T"], "names its structure"),
            (PRNGKeyArray, "a union of different contracts"),
        ],
    )
    def test_what_cannot_be_honoured_is_refused_by_parameter(self, hint, says):
        error = refusal(hinted(hint))
        assert says in error.message
        assert "parameter 'x'" in error.message
        assert "hinted.<locals>.f()" in error.message

    @pytest.mark.parametrize("hint", [PyTree, PyTree[int], float, Float[float, ""]])
    def test_hints_without_a_shape_are_left_out(self, hint):
        assert "found no Annotated or jaxtyping hint" in refusal(hinted(hint)).message


class TestUnions:
    @pytest.mark.parametrize(
        "hint",
        [
            Optional[Batch],
            Union[None, Float[Array, "b"]],
            Float[Array, "b"] | None,
        ],
    )
    def test_contract_beside_none_is_refused(self, hint):
        error = refusal(hinted(hint))
        assert "also admits None" in error.message
        assert "contract={...}" in error.hint

    @pytest.mark.parametrize(
        "hint", [Float[Array, "b"] | Float[Array, "b c"], Batch | jax.Array]
    )
    def test_union_of_different_contracts_is_refused(self, hint):
        assert "union of different contracts" in refusal(hinted(hint)).message

    def test_union_of_equal_contracts_is_that_contract(self):
        assert read(Batch | Annotated[np.ndarray, BATCH] | float) == BATCH

    @pytest.mark.parametrize(
        "hint",
        [
            list[Batch],
            dict[str, Float[Array, "b"]],
            tuple[Batch, int],
            list[list[Batch]],
        ],
    )
    def test_contract_inside_a_container_is_refused(self, hint):
        assert "is not read" in refusal(hinted(hint)).message

    def test_hints_without_contracts_are_left_out(self):
        def f(
            x: Batch,
            b: np.ndarray | None,
            c: Optional[int],
            d: dict[str, list[jax.Array]],
            e: Callable[[Batch], Float[Array, "b"]],
            g: Literal["x", None],
            h: Annotated[int, "words"],
            *args: int,
        ) -> Float[Array, "b"]:
            pass

        assert from_annotations(f) == {"x": BATCH}


class Model:
    weight: Float[Array, "w"]

    def __init__(self, w: Batch):
        pass

    def __call__(self, x: Batch):
        pass

    def method(self, x: Batch):
        pass

    @staticmethod
    def static(x: Batch):
        pass

    @classmethod
    def of_class(cls, x: Batch):
        pass


def plain(x: Batch, n: int, y: Batch):
    pass


@functools.wraps(plain)
def wrapping(*args, **kwargs):
    pass


class TestCallables:
    @pytest.mark.parametrize(
        "fun",
        [
            Model(1),
            Model(1).method,
            Model.method,
            Model.static,
            Model.of_class,
            vars(Model)["static"],
            vars(Model)["of_class"],
        ],
    )
    def test_methods_and_callables_are_read(self, fun):
        assert from_annotations(fun) == {"x": BATCH}

    def test_classes_are_read_by_their_constructor(self):
        assert from_annotations(Model) == {"w": BATCH}

    @pytest.mark.parametrize(
        "fun", [wrapping, functools.wraps(wrapping)(lambda *a: 0), jax.jit(plain)]
    )
    def test_wrappers_are_looked_through(self, fun):
        assert from_annotations(fun) == {"x": BATCH, "y": BATCH}

    def test_parameters_that_a_partial_has_given_are_left_out(self):
        assert from_annotations(functools.partial(plain, 1)) == {"y": BATCH}
        assert from_annotations(functools.partial(plain, n=1)).keys() == {"x", "y"}
        twice = functools.partial(functools.partial(wrapping, 1), 2)
        assert from_annotations(twice) == {"y": BATCH}

    @pytest.mark.parametrize("fun", [len, print, object(), int, lambda x: x])
    def test_callables_without_hints_are_refused(self, fun):
        assert "found no Annotated or jaxtyping hint" in refusal(fun).message

    def test_hints_that_the_author_switched_off_are_left_out(self):
        assert "found no" in refusal(no_type_check(hinted(Batch))).message


class TestUnresolvable:
    def test_parameter_is_named(self):
        def f(x: Batch, y: Nowhere):
            pass

        error = refusal(f)
        assert "parameter 'y': the hint cannot be resolved" in error.message
        assert "NameError" in error.message

    def test_return_hint_does_not_matter(self):
        def f(x: Batch, y: int) -> Nowhere:
            pass

        assert from_annotations(f) == {"x": BATCH}

    def test_hint_of_a_parameter_already_given_does_not_matter(self):
        def f(x: Nowhere, y: Batch):
            pass

        assert from_annotations(functools.partial(f, 1)) == {"y": BATCH}

    def test_malformed_spec_inside_a_hint_is_told(self):
        def f(x: Annotated[jax.Array, spec("f32[b")]):
            pass

        assert "expected a ']'" in refusal(f).message


def test_nothing_of_jaxtyping_is_imported():
    source = from_annotations.__globals__
    assert "jaxtyping" not in source
    assert isinstance(read(Float32[Array, "b"]), Spec)
