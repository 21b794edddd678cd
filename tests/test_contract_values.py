"""Value rules: what the elements hold, on the host, on the device, in the program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safejax import ContractError, Limits, safe_jit, spec
from safejax.contract import _values
from safejax.jit import _gate

f32 = np.float32
MANY = Limits(max_compiles=100_000, warn_compiles=100_000)
NAN, INF = float("nan"), float("inf")


def anything(x):
    return 0


def accepts(f, *args):
    try:
        f(*args)
    except ContractError as error:
        return {v.rule for v in error.violations} != {"value"}
    return True


def both_ways(f, array):
    """The verdicts of a NumPy array and a JAX array, first and again."""
    arrays = [array, jnp.asarray(array), array, jnp.asarray(array)]
    (verdict,) = {accepts(f, a) for a in arrays}
    return verdict


def warm(text, **rules):
    return safe_jit(anything, contract={"x": spec(text, **rules)}, limits=MANY)


FLOATS = ["f32", "bf16", "f16", "f8_e4m3fn", "f8_e5m2"]
LONG = {
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "f8_e4m3fn": "float8_e4m3fn",
    "f8_e5m2": "float8_e5m2",
}


@pytest.mark.parametrize("short", FLOATS)
def test_finite_refuses_nan_and_infinities_of_every_width(short):
    dtype = jnp.dtype(LONG[short])
    f = warm(f"{short}[3]", finite=True)

    assert both_ways(f, np.array([0, 1, -1]).astype(dtype))
    for bad in [NAN, INF, -INF]:
        with np.errstate(all="ignore"):
            array = np.array([0, 1, bad], f32).astype(dtype)
        assert not both_ways(f, array)


@pytest.mark.parametrize("short", FLOATS)
def test_bounds_are_inclusive_and_no_nan_is_within_them(short):
    dtype = jnp.dtype(LONG[short])
    f = warm(f"{short}[2]", minimum=-1, maximum=0.1)

    assert both_ways(f, np.array([-1, 0.1]).astype(dtype))
    assert not both_ways(f, np.array([-1, 0.25]).astype(dtype))
    assert not both_ways(f, np.array([-1.5, 0]).astype(dtype))
    assert not both_ways(f, np.array([0, NAN]).astype(dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int4", "uint2", "bool"])
def test_rules_hold_for_integers_of_every_width(dtype):
    f = safe_jit(
        anything, contract={"x": spec("[2]", finite=True, minimum=0, maximum=1000)}
    )
    g = safe_jit(anything, contract={"x": spec("[2]", minimum=0.5)})
    h = safe_jit(anything, contract={"x": spec("[2]", minimum=1000)})
    i = safe_jit(anything, contract={"x": spec("[2]", one_of=(1, 2.5, 1e30, "a"))})

    array = np.array([0, 1]).astype(jnp.dtype(dtype))
    ones = np.array([1, 1]).astype(jnp.dtype(dtype))

    assert both_ways(f, array)
    assert not both_ways(g, array)
    assert both_ways(g, ones)
    assert not both_ways(h, ones)
    assert not both_ways(i, array)
    assert both_ways(i, ones)


def test_an_integer_beside_a_bound_that_float32_cannot_tell_apart_is_refused():
    f = warm("i32[1]", maximum=16_777_216.0)

    assert both_ways(f, np.array([16_777_216], np.int32))
    assert not both_ways(f, np.array([16_777_217], np.int32))


@pytest.mark.parametrize("short", FLOATS)
def test_one_of_compares_in_the_dtype_of_the_array(short):
    dtype = jnp.dtype(LONG[short])
    f = warm(f"{short}[2]", one_of=(0, 0.1))

    assert both_ways(f, np.array([0.1, 0]).astype(dtype))
    assert not both_ways(f, np.array([0.25, 0]).astype(dtype))
    assert not both_ways(f, np.array([NAN, 0]).astype(dtype))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(["float32", "bfloat16", "float16", "int32", "int8", "uint8"]),
    st.lists(
        st.sampled_from([0, 1, -1, 3, 100, 127, 0.1, 0.5, 2.5, NAN, INF, -INF]),
        max_size=4,
    ),
    st.sampled_from([None, 0, 0.1, -1, 2.5]),
    st.sampled_from([None, 3, 2.5, 100, 1e30, INF]),
    st.booleans(),
)
def test_host_and_device_agree_with_a_loop_over_the_elements(
    dtype, elements, minimum, maximum, finite
):
    dtype = jnp.dtype(dtype)
    integers = not jnp.issubdtype(dtype, np.floating)
    if integers:
        elements = [abs(int(e)) for e in elements if np.isfinite(e)]
    with np.errstate(all="ignore"):
        array = np.array(elements, np.float64).astype(dtype)
        low, high = (
            b
            if b is None or integers
            else float(np.asarray(b, np.float64).astype(dtype))
            for b in (minimum, maximum)
        )
    f = safe_jit(
        anything,
        contract={"x": spec("[n]", minimum=minimum, maximum=maximum, finite=finite)},
        limits=MANY,
    )
    ruled = minimum is not None or maximum is not None or finite

    wanted = True
    for element in array.astype(np.float64).tolist() if ruled else []:
        wanted &= low is None or element >= low
        wanted &= high is None or element <= high
        wanted &= not finite or bool(np.isfinite(element))

    assert both_ways(f, array) == wanted


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::2, ::-1],
        lambda a: a.T,
        np.asfortranarray,
        lambda a: np.broadcast_to(a[:1, :1], (300, 300)),
        lambda a: a[:, :0],
    ],
    ids=["strided", "transposed", "fortran", "broadcast", "empty"],
)
def test_every_element_of_a_view_counts_and_none_outside(view):
    f = warm("f32[_, _]", finite=True)
    outside, inside = np.zeros((400, 400), f32), np.zeros((400, 400), f32)
    mask = np.zeros(inside.shape, bool)
    view(mask.view())
    assert accepts(f, view(outside))

    shown = view(inside)
    if shown.size:
        inside[0, 0] = inside[-2, -1] = NAN
        assert not accepts(f, view(inside))


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_000])
def test_a_single_bad_element_is_found_wherever_it_is(size):
    f = warm("f32[n]", finite=True, maximum=1)
    array = np.zeros(size, f32)
    assert accepts(f, array)

    for position in (0, size // 2, size - 1):
        array[position] = NAN
        assert not accepts(f, array)
        array[position] = 2
        assert not accepts(f, array)
        array[position] = 0


def test_the_error_counts_the_elements_and_names_the_rules():
    f = warm("f32[63]", finite=True, minimum=0)
    array = np.zeros(63, f32)
    array[:2] = NAN, -1

    with pytest.raises(ContractError) as caught:
        f(array)

    (violation,) = caught.value.violations
    assert violation.expected == "finite and >= 0"
    assert violation.got == "2 of 63 that are not"
    assert "found 2 of 63 that are not" in str(caught.value)


def test_scalars_and_zero_dimensional_arrays_are_checked():
    f = warm("f32[]", finite=True, maximum=1)

    for _ in range(2):
        for good in (1.0, f32(1), np.array(1, f32), jnp.float32(1), jnp.asarray(1.0)):
            assert accepts(f, good)
        for bad in (NAN, f32(NAN), np.array(2, f32), jnp.float32(INF), 2.0):
            assert not accepts(f, bad)


def test_a_number_that_is_finite_only_before_jax_narrows_it_is_refused():
    scalar = warm("f32[]", finite=True)
    free = safe_jit(anything, contract={"x": spec("[1]", finite=True)})
    cast = safe_jit(
        anything, contract={"x": spec("f32[1]", finite=True)}, on_dtype="cast"
    )

    for _ in range(2):
        assert accepts(scalar, 1e30)
        assert not accepts(scalar, 1e300)
        for f in (free, cast):
            assert accepts(f, np.array([1e30]))
            assert not accepts(f, np.array([1e300]))


def test_an_integer_that_jax_would_wrap_into_the_bounds_is_refused():
    f = safe_jit(anything, contract={"x": spec("[1]", minimum=0, maximum=10)})

    for _ in range(2):
        assert accepts(f, np.array([5]))
        assert not accepts(f, np.array([2**32 + 5]))
        assert not accepts(f, np.array([-(2**32) + 5]))


def test_values_of_a_tree_are_checked_at_every_leaf():
    f = safe_jit(
        lambda p: 0, contract={"p": {"a": spec("f32[...]", finite=True), "b": None}}
    )
    bad = np.array([NAN], f32)

    for wrap in (np.asarray, jnp.asarray):
        for _ in range(2):
            f({"a": [wrap(np.zeros(1, f32)), f32(0)], "b": wrap(bad)})
            with pytest.raises(ContractError) as caught:
                f({"a": [wrap(bad), f32(NAN)], "b": wrap(bad)})
            paths = [v.path for v in caught.value.violations]
            assert paths == ["p['a'][0]", "p['a'][1]"]


def test_complex_numbers_are_finite_in_both_parts():
    f = warm("c64[1]", finite=True)

    assert both_ways(f, np.array([1 + 1j], np.complex64))
    assert not both_ways(f, np.array([complex(0, NAN)], np.complex64))
    assert not both_ways(f, np.array([complex(INF, 0)], np.complex64))


def test_keys_and_strings_have_no_values_to_check():
    f = safe_jit(lambda k: 0, contract={"k": spec(finite=True)})

    f(jax.random.key(0))
    f(jax.random.key(1))
    with pytest.raises(TypeError):
        f(np.array(["a"]))


def test_a_change_in_place_is_seen_by_the_next_call():
    f = warm("f32[2]", finite=True)
    array = np.zeros(2, f32)

    assert accepts(f, array)
    array[1] = NAN
    assert not accepts(f, array)
    array[1] = 0
    assert accepts(f, array)


def test_constants_are_checked_inside_an_outer_trace_and_tracers_are_not():
    f = safe_jit(lambda x: x.sum(), contract={"x": spec("f32[2]", finite=True)})
    good, bad = jnp.ones(2), jnp.array([1, NAN])

    for _ in range(2):
        assert jax.jit(lambda: f(good))() == 2
        with pytest.raises(ContractError):
            jax.jit(lambda: f(bad))()
        assert f(good) == 2
        assert np.isnan(jax.jit(f)(bad))
        assert np.isnan(jax.vmap(f)(bad[None])).all()
        assert jax.grad(f)(bad).shape == (2,)
        with pytest.raises(ContractError):
            jax.grad(lambda w: w * f(bad))(1.0)
        with pytest.raises(ContractError):
            f(bad)


def test_checking_values_does_not_count_as_a_program_of_the_function():
    f = safe_jit(
        lambda x: x, contract={"x": spec("f32[n]", finite=True)}, limits=Limits()
    )

    for size in (1, 2):
        for _ in range(3):
            f(jnp.ones(size))

    assert f.stats().live == 2


def test_checking_values_raises_no_warning_of_numpy():
    f = warm("bf16[2]", finite=True, minimum=0, maximum=1)

    with np.errstate(all="raise"):
        assert not accepts(f, np.array([NAN, 0]).astype(jnp.bfloat16))
        assert not accepts(warm("f32[]", finite=True), 1e300)


# --- clip -------------------------------------------------------------------------


def clipping(text, **rules):
    return safe_jit(
        lambda x: x, contract={"x": spec(text, on_violation="clip", **rules)}
    )


def test_clip_moves_what_is_outside_to_the_nearest_bound():
    f = clipping("f32[5]", minimum=-1.0, maximum=1.0)
    x = np.array([-7, -1, 0.5, INF, -INF], f32)

    for array in (x, jnp.asarray(x)):
        assert f(array).tolist() == [-1, -1, 0.5, 1, -1]


def test_clip_turns_nan_into_the_lower_bound_or_zero():
    assert clipping("f32[1]", minimum=-1.0)(np.array([NAN], f32)) == -1
    assert clipping("f32[1]", maximum=1.0)(np.array([NAN], f32)) == 0
    assert clipping("f32[1]", maximum=-1.0)(np.array([NAN], f32)) == -1
    assert clipping("f32[1]", finite=True)(np.array([NAN], f32)) == 0


@pytest.mark.parametrize("text", ["f32[3]", "bf16[3]", "f16[3]", "c64[3]"])
def test_clip_to_finite_leaves_no_nan_and_no_infinity(text):
    dtype = {"f32": f32, "bf16": jnp.bfloat16, "f16": np.float16, "c64": np.complex64}
    x = np.array([NAN, INF, -INF]).astype(dtype[text[:-3]])

    assert bool(jnp.isfinite(clipping(text, finite=True)(x)).all())


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8])
def test_clip_bounds_integers(dtype):
    f = clipping("[3]", minimum=1.5, maximum=1000)

    assert f(np.array([0, 2, 127], dtype)).tolist() == [2, 2, 127]


def test_clip_is_part_of_the_program_and_waits_for_nothing():
    f = clipping("f32[2]", maximum=1.0)
    f(jnp.zeros(2))

    with jax.transfer_guard_device_to_host("disallow"):
        f(jnp.ones(2) * 5)
    text = f.lower(jnp.zeros(2)).as_text()
    assert "minimum" in text or "clamp" in text


def test_clip_holds_ahead_of_time_under_jit_and_under_vmap():
    f = clipping("f32[2]", maximum=1.0)
    x = jnp.ones(2) * 5

    assert f.lower(x).compile()(x).tolist() == [1, 1]
    assert jax.jit(f)(x).tolist() == [1, 1]
    assert jax.vmap(f)(x[None]).tolist() == [[1, 1]]


def test_clip_in_a_tree_touches_only_its_own_leaves():
    f = safe_jit(
        lambda p, y: (p, y),
        contract={
            "p": {"a": spec("f32[1]", maximum=1.0, on_violation="clip"), "b": None}
        },
    )
    five = np.array([5], f32)

    p, y = f({"a": five, "b": five}, five)

    assert (p["a"].item(), p["b"].item(), y.item()) == (1, 5, 5)


def test_shape_and_dtype_are_still_required_where_values_are_clipped():
    f = clipping("f32[2]", maximum=1.0)

    for wrong in (np.ones(3, f32), np.ones(2)):
        with pytest.raises(ContractError):
            f(wrong)


def settler(tree):
    """The short check as a function of one array."""
    settled = _values.settled_by(tree)
    if settled is None:
        return None
    known = {f"known_{k}": v for k, v in settled._asdict().items()}
    text = f"lambda leaf: {_gate.short_check('leaf', 'known_')}"
    return eval(text, {"_sj_ndarray": np.ndarray, **known})


BAD = [np.nan, np.inf, -np.inf, -0.001, 1.001]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("finite", [True, False])
def test_what_settles_a_call_alone_agrees_with_the_whole_check(bad, finite):
    bounded = spec("f32[...]", minimum=0.0, maximum=1.0, finite=finite)
    settles = settler(bounded)
    for shape in ((), (1,), (3, 5), (70_000,)):
        x = np.full(shape, 0.5, np.float32)
        assert _values.hold([(bounded, x)], on_host=True)
        assert settles(x) == (x.size <= 65_536)
        x[(-1,) * x.ndim] = bad
        assert not settles(x)
        assert not _values.hold([(bounded, x)], on_host=True)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", range(6))
def test_views_in_any_order_are_settled_by_the_elements_they_show(bad, at):
    settles = settler(spec("f32[...]", minimum=0.0, maximum=1.0))
    base = np.full((4, 6), 7.0, np.float32)
    for view in (base[::2, ::2], base[::-2, 1::2].T, np.asfortranarray(base)[:2, :3]):
        view[...] = 0.5
        assert settles(view)
        view.flat[at] = bad
        assert not settles(view)


@pytest.mark.parametrize(
    "leaf",
    [
        0.5,
        np.float32(0.5),
        jnp.full(3, 0.5),
        np.full(3, 0.5),
        np.full(3, 0.5, ">f4"),
        np.zeros(0, np.float32),
        [0.5],
        None,
    ],
    ids=range(8),
)
def test_what_is_no_small_array_of_the_dtype_is_left_to_the_whole_check(leaf):
    assert not settler(spec("f32[...]", minimum=0.0, maximum=1.0))(leaf)


@pytest.mark.parametrize(
    "rules",
    [
        spec("f32[3]", minimum=0.0),
        spec("f32[3]", finite=True),
        spec("f32[3]", one_of=(0.0, 1.0)),
        spec("bf16[3]", minimum=0.0, maximum=1.0),
        spec("*[3]", minimum=0.0, maximum=1.0),
        spec("f32[3]", minimum=0.0, maximum=float("inf")),
        {"a": spec("f32[3]", minimum=0.0, maximum=1.0)},
    ],
    ids=range(7),
)
def test_other_rules_than_two_bounds_have_no_short_check(rules):
    assert settler(rules) is None


def test_integers_are_settled_at_their_bounds():
    settles = settler(spec("i32[...]", minimum=0, maximum=9))

    assert settles(np.array([0, 9], np.int32))
    assert not settles(np.array([0, 10], np.int32))
    assert not settles(np.array([-1], np.int32))
