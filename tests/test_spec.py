"""Specs: what their text and their rules mean, and which ones are refused."""

from __future__ import annotations

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export

from safejax.contract._spec import (
    ANONYMOUS,
    Spec,
    describe_aval,
    short_dtype,
    spec,
    spec_from_struct,
)
from safejax.errors import ContractError

F32 = np.dtype("float32")


def no_constraints(dim):
    return ()


def axes_of(text):
    return [getattr(axis, "text", axis) for axis in spec(text).axes]


def refusal(*args, **rules):
    with pytest.raises(ContractError) as caught:
        spec(*args, **rules)
    assert caught.value.code == "SJ102"
    return caught.value


class TestText:
    @pytest.mark.parametrize(
        ("text", "described"),
        [
            ("f32[b, 64]", "f32[b, 64]"),
            ("float32[b,64]", "f32[b, 64]"),
            (" f32 [ b , 64 ] ", "f32[b, 64]"),
            ("f32", "f32[...]"),
            ("f32[...]", "f32[...]"),
            ("f32[]", "f32[]"),
            ("[b, 64]", "*[b, 64]"),
            ("*[b, 64]", "*[b, 64]"),
            ("f32|bf16[b]", "f32|bf16[b]"),
            ("f32|float32[b]", "f32[b]"),
            ("bool[_]", "bool[_]"),
            ("i4[2*b + 1]", "i4[2*b+1]"),
            ("u8[b<=64, 28, 28]", "u8[b, 28, 28]"),
            ("c64[max(a, b), a, b]", "c64[max(a,b), a, b]"),
            ("f8_e4m3fn[..., 3]", "f8_e4m3fn[..., 3]"),
            ("float8_e5m2[*batch, 3]", "f8_e5m2[*batch, 3]"),
            ("f64[a, ..., 8*8]", "f64[a, ..., 64]"),
            ("f32[b,]", "f32[b]"),
            ("key[b]", "key[b]"),
            ("key<fry>[]", "key<fry>[]"),
        ],
    )
    def test_is_described_in_one_canonical_form(self, text, described):
        assert spec(text).describe() == described
        assert spec(described).describe() == described

    def test_axes_are_integers_expressions_and_anonymous(self):
        made = spec("f32[b, 64, _]")
        assert made.axes[1:] == (64, ANONYMOUS)
        assert made.axes[0].is_name == "b"
        assert made.dtypes == (F32,)
        assert made.variadic is None

    @pytest.mark.parametrize(
        ("text", "axes", "variadic", "name"),
        [
            ("f32[..., 3]", [3], 0, None),
            ("f32[a, ..., 3]", ["a", 3], 1, None),
            ("f32[a, *rest]", ["a"], 1, "rest"),
            ("f32[*rest]", [], 0, "rest"),
        ],
    )
    def test_variadic_is_an_index_into_the_other_axes(self, text, axes, variadic, name):
        made = spec(text)
        assert axes_of(text) == axes
        assert (made.variadic, made.variadic_name) == (variadic, name)

    def test_any_shape_has_no_axes_and_a_scalar_has_none_of_them(self):
        assert spec("f32").axes is None
        assert spec("f32[...]").axes is None
        assert spec("f32[]").axes == ()
        assert spec().axes is None
        assert spec().dtypes is None

    def test_bounds_become_constraints(self):
        made = spec("f32[1<=b<=64, n>=2, b<=32]")
        assert [c.text for c in made.constraints] == ["1<=b<=64", "n>=2", "b<=32"]
        assert made.names == {"b", "n"}

    @pytest.mark.parametrize(
        ("text", "says", "character"),
        [
            ("", "expected a dtype", 1),
            ("*", "expected a dtype", 1),
            ("f32[b", "expected a ']'", 6),
            ("f32[b]x", "expected a ']'", 8),
            ("f4[b]", "'f4' is no dtype", 1),
            ("float[b]", "'float' is no dtype", 1),
            ("S3[b]", "'S3' is no dtype", 1),
            ("f32|nope[b]", "'nope' is no dtype", 5),
            ("f32||bf16", "'' is no dtype", 5),
            ("key<zzz>[]", "'key<zzz>' is no dtype", 1),
            ("f32[b 64]", "axis 0: expected an operator", 7),
            ("f32[b, 6x]", "axis 1: expected an operator", 9),
            ("f32[a,,b]", "axis 1: expected", 7),
            ("f32[,]", "axis 0: expected", 5),
            ("f32[-3]", "axis 0: an axis cannot be negative", 5),
            ("f32[*]", "axis 0: '*' alone", 5),
            ("f32[*3]", "axis 0: only a name", 5),
            ("f32[*_]", "axis 0: '_' is any size", 5),
            ("f32[..., *rest]", "axis 1: only one", 10),
            ("f32[a<=b]", "axis 0: either a or b", 5),
            ("f32[b//0]", "axis 0: division by zero", 9),
            ("f32[[b]]", "axis 0: unexpected character", 5),
        ],
    )
    def test_malformed_text_is_refused_with_place_and_example(
        self, text, says, character
    ):
        error = refusal(text)
        assert says in error.message
        assert f"(at character {character})" in error.message
        assert "f32[b, 64]" in error.hint

    @pytest.mark.parametrize("text", [3, F32, jnp.float32, ("b", 64), {"x": "f32"}])
    def test_anything_but_a_text_is_refused(self, text):
        assert "takes a text" in refusal(text).message

    @pytest.mark.parametrize(
        "text",
        [
            "f32[__import__('os')]",
            "f32[().__class__]",
            "f32[lambda: 0]",
            "f32[9**9**9]",
            "f32[" + "(" * 150 + "]",
        ],
    )
    def test_code_is_refused_and_never_run(self, text):
        refusal(text)

    def test_ten_megabytes_are_refused_and_not_repeated(self):
        assert len(str(refusal("f32[" + "(" * 10_000_000))) < 300

    def test_too_many_axes_are_refused(self):
        assert spec(f"[{','.join('1' * 64)}]").axes == (1,) * 64
        assert "64 axes" in refusal(f"[{','.join('1' * 65)}]").message

    @given(st.text(max_size=300))
    def test_arbitrary_text_raises_nothing_but_contract_error(self, text):
        try:
            spec(text)
        except ContractError as error:
            code = error.code
        else:
            code = "SJ102"
        assert code == "SJ102"

    @given(st.text(alphabet="fiu3268b[]<>=|,.*_ 1()key", max_size=30))
    def test_what_a_near_miss_describes_reads_back(self, text):
        try:
            made = spec(text)
        except ContractError:
            return
        again = spec(made.describe())
        assert again.axes == made.axes
        assert again.dtypes == made.dtypes
        assert again.variadic == made.variadic


class TestRules:
    @pytest.mark.parametrize(
        ("rules", "says"),
        [
            ({"minimum": 2, "maximum": 1}, "above maximum"),
            ({"minimum": math.nan}, "minimum is NaN"),
            ({"maximum": np.float32("nan")}, "maximum is NaN"),
            ({"minimum": "0"}, "minimum must be a number"),
            ({"minimum": True}, "minimum must be a number"),
            ({"minimum": 1j}, "minimum must be a number"),
            ({"minimum": np.zeros(2)}, "minimum must be a number"),
            ({"finite": 1}, "finite must be a bool"),
            ({"weak_type": 1}, "weak_type must be"),
            ({"one_of": ()}, "one_of is empty"),
            ({"one_of": ([],)}, "one_of[0] is not hashable: list"),
            ({"one_of": (1, math.nan)}, "one_of[1] is NaN"),
            ({"one_of": (complex("nan"),)}, "one_of[0] is NaN"),
            ({"one_of": "relu"}, "one_of must be a tuple"),
            ({"one_of": 3}, "one_of must be a tuple"),
            ({"on_violation": "warn"}, "on_violation must be"),
            ({"on_dtype": "ignore"}, "on_dtype must be"),
            ({"on_violation": "clip"}, "needs a minimum, a maximum or finite"),
            ({"on_violation": "clip", "one_of": (1,)}, "no meaning with one_of"),
            (
                {"on_violation": "clip", "one_of": (1,), "finite": True},
                "no meaning with one_of",
            ),
        ],
    )
    def test_contradictions_are_refused(self, rules, says):
        assert says in refusal(**rules).message
        if "on_violation" not in rules:
            assert says in refusal("f32[b]", **rules).message

    @pytest.mark.parametrize(
        ("text", "rules", "says"),
        [
            ("bool[b]", {"minimum": 0}, "minimum has no meaning for dtype bool"),
            ("c64[b]", {"maximum": 0}, "maximum has no meaning for dtype c64"),
            ("f32|c64[b]", {"maximum": 0}, "maximum has no meaning for dtype c64"),
            ("key[b]", {"minimum": 0}, "no meaning for dtype key"),
            ("key<fry>[b]", {"finite": True}, "no meaning for dtype key<fry>"),
            ("u8[b]", {"minimum": -1}, "out of the range of dtype u8"),
            ("u8[b]", {"maximum": 256}, "out of the range of dtype u8"),
            ("i4[b]", {"maximum": 8}, "out of the range of dtype i4"),
            ("i32[b]", {"maximum": math.inf}, "out of the range of dtype i32"),
            ("f16[b]", {"maximum": 1e6}, "out of the range of dtype f16"),
            (
                "i32[b]",
                {"minimum": 0.5, "on_violation": "clip"},
                "cannot be a value of dtype i32",
            ),
            ("f32[b]", {"one_of": ("relu",)}, "one_of[0] is not a number"),
        ],
    )
    def test_rules_that_do_not_suit_the_dtype_are_refused(self, text, rules, says):
        assert says in refusal(text, **rules).message

    @pytest.mark.parametrize(
        ("text", "rules"),
        [
            ("i32[b]", {"finite": True}),
            ("bool[b]", {"finite": True}),
            ("c64[b]", {"finite": True, "on_violation": "clip"}),
            ("u8[b]", {"minimum": 0, "maximum": 255, "on_violation": "clip"}),
            ("i32[b]", {"minimum": 0.5}),
            ("f16[b]", {"maximum": math.inf}),
            ("f32[b]", {"minimum": 0, "maximum": 0}),
            ("i32[]", {"one_of": (0, 1, 2)}),
            (None, {"one_of": ("relu", None, True)}),
            (None, {"minimum": -1e300}),
        ],
    )
    def test_rules_that_suit_the_dtype_are_admitted(self, text, rules):
        assert spec(text, **rules).has_value_rules

    def test_numpy_numbers_become_python_numbers(self):
        made = spec("f32[b]", minimum=np.float32(0.5), one_of=np.arange(2).tolist())
        assert type(made.minimum) is float
        assert made.one_of == (0, 1)
        assert type(spec(one_of=(np.int32(1),)).one_of[0]) is int

    def test_without_rules_values_do_not_count(self):
        assert not spec("f32[b]", weak_type=False, on_dtype="cast").has_value_rules

    def test_rules_hold_for_specs_made_by_hand(self):
        with pytest.raises(ContractError, match="above maximum"):
            Spec(minimum=1.0, maximum=0.0)
        with pytest.raises(ContractError, match="no arrays of dtype datetime64"):
            Spec(dtypes=(np.dtype("M8[s]"),))


class TestStruct:
    def test_integers_texts_and_numpy_integers_are_axes(self):
        struct = jax.ShapeDtypeStruct(
            ("b", "2*b", "_", np.int64(3), "n<=8", "..."), F32
        )
        made = spec_from_struct(struct, no_constraints)
        assert made.describe() == "f32[b, 2*b, _, 3, n, ...]"
        assert [c.text for c in made.constraints] == ["n<=8"]
        assert made.weak_type is None
        assert made.sharding is None

    def test_symbolic_dimensions_bring_the_constraints_of_their_scope(self):
        shape = export.symbolic_shape(
            "a, 2*b^2 - 1, floordiv(a, 2)", constraints=["a <= 8", "mod(b, 4) == 0"]
        )
        asked = []

        def constraints_of(dim):
            asked.append(dim)
            return ["a <= 8", "mod(b, 4) == 0"]

        made = spec_from_struct(jax.ShapeDtypeStruct(shape, F32), constraints_of)
        assert made.describe() == "f32[a, 2*b^2-1, a//2]"
        assert [c.text for c in made.constraints] == ["a<=8", "b%4==0"]
        assert asked == list(shape)

    def test_weak_type_and_sharding_are_kept(self):
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        made = spec_from_struct(
            jax.ShapeDtypeStruct((2,), F32, weak_type=True, sharding=sharding),
            no_constraints,
        )
        assert made.weak_type is True
        assert made.sharding == sharding

    @pytest.mark.parametrize("dtype", ["bfloat16", "int4", "float8_e4m3fn", "key"])
    def test_every_dtype_of_jax_is_kept(self, dtype):
        if dtype == "key":
            dtype = jax.random.key(0).dtype
        struct = jax.ShapeDtypeStruct((2,), dtype)
        assert spec_from_struct(struct, no_constraints).dtypes == (struct.dtype,)

    @pytest.mark.parametrize(
        ("axis", "says"),
        [
            (True, "not bool"),
            (np.bool_(True), "not bool"),
            (-1, "negative"),
            (1.5, "not float"),
            ("-1", "negative"),
            ("b c", "expected an operator"),
            ("a, b", "expected an operator"),
            ("", "expected an integer"),
        ],
    )
    def test_bad_axis_is_refused_by_its_number(self, axis, says):
        struct = jax.ShapeDtypeStruct(("b", axis), F32)
        with pytest.raises(ContractError, match="axis 1") as caught:
            spec_from_struct(struct, no_constraints)
        assert caught.value.code == "SJ102"
        assert says in caught.value.message

    @pytest.mark.parametrize("dtype", ["S3", "M8[s]", object])
    def test_dtype_that_jax_does_not_have_is_refused(self, dtype):
        with pytest.raises(ContractError, match="JAX has no arrays of dtype"):
            spec_from_struct(jax.ShapeDtypeStruct((2,), dtype), no_constraints)


class TestDescriptions:
    @pytest.mark.parametrize(
        ("dtype", "short"),
        [
            ("float32", "f32"),
            ("bfloat16", "bf16"),
            ("int32", "i32"),
            ("uint8", "u8"),
            ("bool", "bool"),
            ("complex64", "c64"),
            ("int4", "i4"),
            ("float8_e4m3fn", "f8_e4m3fn"),
            ("float4_e2m1fn", "f4_e2m1fn"),
            (">f4", ">f32"),
            ("S3", "bytes24"),
            ("M8[s]", "datetime64[s]"),
            (jax.dtypes.float0, "float0"),
        ],
    )
    def test_short_dtype_is_what_jax_prints(self, dtype, short):
        assert short_dtype(np.dtype(dtype)) == short

    def test_keys_have_short_dtypes(self):
        assert short_dtype(jax.random.key(0).dtype) == "key<fry>"
        assert short_dtype(jax.dtypes.prng_key) == "key"

    def test_aval_is_dtype_and_sizes(self):
        assert describe_aval((2, 3), F32) == "f32[2,3]"
        assert describe_aval((), F32, weak_type=True) == "weak f32[]"

    def test_repr_shows_the_rules(self):
        made = spec("f32[b<=8]", minimum=0.0, on_violation="clip", weak_type=False)
        assert repr(made) == (
            "Spec(f32[b], b<=8, weak_type=False, minimum=0.0, on_violation='clip')"
        )


class TestDtypes:
    def test_any_dtype_admits_all(self):
        assert spec("[b]").admits_dtype(F32)
        assert spec("[b]").admits_dtype(jax.random.key(0).dtype)

    def test_only_the_named_dtypes_are_admitted(self):
        made = spec("f32|bf16[b]")
        assert made.admits_dtype(F32)
        assert made.admits_dtype(np.dtype("bfloat16"))
        assert not made.admits_dtype(np.dtype("float64"))
        assert not made.admits_dtype(np.dtype(">f4"))
        assert not made.admits_dtype(jax.random.key(0).dtype)

    def test_key_admits_every_implementation_and_a_named_key_one(self):
        fry, rbg = (jax.random.key(0, impl=i).dtype for i in ("threefry2x32", "rbg"))
        assert spec("key[]").admits_dtype(fry)
        assert spec("key[]").admits_dtype(rbg)
        assert not spec("key[]").admits_dtype(np.dtype("uint32"))
        assert spec("key<rbg>[]").admits_dtype(rbg)
        assert not spec("key<rbg>[]").admits_dtype(fry)


def test_specs_are_hashable_values_and_pytree_leaves():
    text = "f32[b<=8, 2*b, ...]"
    assert spec(text) == spec(text)
    assert hash(spec(text)) == hash(spec(text))
    assert spec(text) != spec("f32[b<=9, 2*b, ...]")
    assert spec("key[]") != spec("f32[]")
    assert jax.tree.leaves({"x": spec(text)}) == [spec(text)]
    with pytest.raises(AttributeError):
        spec(text).axes = ()


def test_contract_error_of_a_malformed_spec_survives_pickle():
    error = refusal("f32[b")
    twin = pickle.loads(pickle.dumps(error))
    assert str(twin) == str(error)
    assert twin.violations == ()
