"""A contract refuses what breaks it, on the first call and on every later one.

A call that was admitted once is admitted again by a token (the fast path). The property
tests hold both paths against an oracle that is written here and knows no tokens.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from safejax import ContractError, Limits, safe_jit, spec

f32 = np.float32


def rules(error: ContractError) -> list[tuple[str, str]]:
    return [(v.path, v.rule) for v in error.violations]


def refused(f, *args, **kwargs) -> list[tuple[str, str]]:
    with pytest.raises(ContractError) as caught:
        f(*args, **kwargs)
    assert caught.value.code == "SJ101"
    return rules(caught.value)


# --- an oracle that is obviously right --------------------------------------------


class Leaf:
    """What the oracle knows of one leaf of a contract."""

    def __init__(self, dtype, axes, weak, finite, maximum):
        self.dtype, self.axes, self.weak = dtype, axes, weak
        self.finite, self.maximum = finite, maximum

    def spec(self):
        text = f"{self.dtype}[{', '.join(map(str, self.axes))}]"
        return spec(text, weak_type=self.weak, finite=self.finite, maximum=self.maximum)

    def __repr__(self):
        return repr(self.spec())


DTYPES = {"f32": np.float32, "i32": np.int32, "f16": np.float16}
leaf_specs = st.builds(
    Leaf,
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.sampled_from(["a", "b", 1, 2]), max_size=2),
    st.sampled_from([None, None, None, True, False]),
    st.sampled_from([False, False, True]),
    st.sampled_from([None, None, 1]),
)
trees = st.recursive(
    leaf_specs | st.none(),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["u", "v", "w"]), inner, min_size=1),
        st.lists(inner, min_size=1, max_size=2),
        st.lists(inner, min_size=1, max_size=2).map(tuple),
    ),
    max_leaves=4,
)


def to_contract(tree):
    if isinstance(tree, Leaf):
        return tree.spec()
    if isinstance(tree, dict):
        return {key: to_contract(child) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(to_contract, tree))
    return None


def oracle(tree, value, sizes, *, values_count):
    if tree is None:
        return True
    if isinstance(value, dict):
        children = value
    elif isinstance(value, (list, tuple)):
        children = dict(enumerate(value))
    else:
        children = None
    if isinstance(tree, Leaf):
        if value is None:
            return False
        if children is not None:
            return all(
                oracle(tree, child, sizes, values_count=values_count)
                for child in children.values()
            )
        return leaf_oracle(tree, value, sizes, values_count=values_count)
    wanted = tree if isinstance(tree, dict) else dict(enumerate(tree))
    if type(tree) is not type(value) or set(wanted) != set(children):
        return False
    return all(
        oracle(wanted[key], children[key], sizes, values_count=values_count)
        for key in wanted
    )


def leaf_oracle(leaf, value, sizes, *, values_count):
    weak = type(value) in (int, float) or getattr(value, "weak_type", False)
    dtype = {int: np.int32, float: np.float32}.get(type(value))
    dtype = np.dtype(dtype or value.dtype)
    shape = np.shape(value)
    if dtype != DTYPES[leaf.dtype] or len(shape) != len(leaf.axes):
        return False
    if leaf.weak is not None and weak != leaf.weak:
        return False
    for axis, size in zip(leaf.axes, shape, strict=True):
        if isinstance(axis, str):
            sizes.setdefault(axis, set()).add(size)
        elif axis != size:
            return False
    if not values_count:
        return True
    host = np.asarray(value, np.float64)
    within = leaf.maximum is None or bool((host <= leaf.maximum).all())
    return within and (not leaf.finite or bool(np.isfinite(host).all()))


def oracle_accepts(contract, arguments, *, values_count=True):
    sizes: dict[str, set[int]] = {}
    ok = all(
        oracle(contract[name], arguments[name], sizes, values_count=values_count)
        for name in contract
    )
    return ok and all(len(found) == 1 for found in sizes.values())


# --- calls that mostly fit --------------------------------------------------------

CARRIERS = ["numpy", "jax", "jax", "scalar", "generic", "weak"]


@st.composite
def leaves(draw, leaf, sizes):
    dtype = DTYPES[leaf.dtype]
    shape = [sizes.get(axis, axis) for axis in leaf.axes]
    if draw(st.integers(0, 9)) == 0:
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=2))
    if draw(st.integers(0, 9)) == 0:
        dtype = draw(st.sampled_from([*DTYPES.values(), np.float64, np.int64]))
    array = np.ones(shape, dtype)
    if array.size and draw(st.integers(0, 5)) == 0:
        bad = [2] if array.dtype.kind == "i" else [2, np.nan, np.inf]
        array.flat[-1] = draw(st.sampled_from(bad))
    carrier = draw(st.sampled_from(CARRIERS))
    if carrier == "scalar" and not shape and dtype in (np.float32, np.int32):
        return array.item()
    if carrier == "weak" and not shape and dtype in (np.float32, np.int32):
        return jnp.asarray(array.item())
    if carrier == "generic" and not shape:
        return array[()]
    if carrier == "jax" and dtype not in (np.float64, np.int64):
        return jnp.asarray(array)
    return array


@st.composite
def fitting(draw, tree, sizes):  # noqa: PLR0911  one case after another
    if draw(st.integers(0, 19)) == 0:
        return draw(
            st.sampled_from([None, [], {}, [np.ones(1, f32)], {"u": np.ones(1, f32)}])
        )
    if tree is None:
        return draw(st.sampled_from([np.ones(1, f32), [np.ones(3, np.float64)], 1.0]))
    if isinstance(tree, Leaf):
        if draw(st.integers(0, 7)) == 0:
            return [draw(leaves(tree, sizes)), {"k": draw(leaves(tree, sizes))}]
        return draw(leaves(tree, sizes))
    if isinstance(tree, dict):
        value = {key: draw(fitting(child, sizes)) for key, child in tree.items()}
        change = draw(st.integers(0, 14))
        if change == 0:
            value["zz"] = value.pop(next(iter(value)))
        elif change == 1:
            value["zz"] = np.ones(1, f32)
        return value
    value = type(tree)([draw(fitting(child, sizes)) for child in tree])
    change = draw(st.integers(0, 14))
    if change == 0:
        return list(value) if isinstance(value, tuple) else tuple(value)
    return value + type(value)([np.ones(1, f32)]) if change == 1 else value


@st.composite
def scenarios(draw):
    contract = {"x": draw(trees)}
    if draw(st.booleans()):
        contract["y"] = draw(trees)
    calls = []
    for _ in range(draw(st.integers(1, 4))):
        sizes = {name: draw(st.sampled_from([1, 2])) for name in "ab"}
        calls.append(
            {
                "x": draw(fitting(contract["x"], sizes)),
                "y": draw(fitting(contract.get("y"), sizes)),
            }
        )
    order = draw(st.lists(st.sampled_from(range(len(calls))), min_size=3, max_size=8))
    return contract, calls, order


def anything(x, y):
    # One function for all examples: JAX traces each signature once.
    return 0


MANY = Limits(max_compiles=100_000, warn_compiles=100_000)


def accepts(f, arguments):
    try:
        f(**arguments)
    except ContractError:
        return False
    return True


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(scenarios())
def test_verdicts_are_those_of_the_oracle_in_any_order_and_again(scenario):
    contract, calls, order = scenario
    f = safe_jit(
        anything,
        contract={name: to_contract(tree) for name, tree in contract.items()},
        limits=MANY,
    )
    wanted = [oracle_accepts(contract, call) for call in calls]
    for index in [*order, *order]:
        assert accepts(f, calls[index]) == wanted[index]


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(scenarios())
def test_tracers_are_held_against_shape_and_dtype_and_concrete_calls_against_all(
    scenario,
):
    contract, calls, order = scenario
    f = safe_jit(
        anything,
        contract={name: to_contract(tree) for name, tree in contract.items()},
        limits=MANY,
    )

    def traced(call):
        try:
            jax.eval_shape(f, call["x"], call["y"])
        except ContractError:
            return False
        return True

    # JAX narrows what it traces: 64-bit inputs are no longer to be told apart.
    kept = [
        call
        for call in calls
        if not any(
            getattr(leaf, "dtype", None) in (np.float64, np.int64)
            for leaf in jax.tree.leaves(call)
        )
    ]
    shapes = [oracle_accepts(contract, call, values_count=False) for call in kept]
    wanted = [oracle_accepts(contract, call) for call in kept]
    for index in order:
        if index < len(kept):
            assert traced(kept[index]) == shapes[index]
            assert accepts(f, kept[index]) == wanted[index]


# --- names ------------------------------------------------------------------------


def test_a_name_means_one_size_over_the_whole_call():
    f = safe_jit(
        lambda x, y: x.sum() + y["z"][0].sum(),
        contract={"x": spec("f32[b, 3]"), "y": {"z": [spec("f32[b]")]}},
    )

    f(np.ones((2, 3), f32), {"z": [np.ones(2, f32)]})

    assert refused(f, np.ones((2, 3), f32), {"z": [np.ones(3, f32)]}) == [
        ("y['z'][0]", "shape")
    ]


def test_every_conflict_names_the_leaf_that_bound_the_name():
    f = safe_jit(
        lambda x, y, z: x.sum() + y.sum() + z.sum(),
        contract={name: spec("f32[b]") for name in "xyz"},
    )

    with pytest.raises(ContractError) as caught:
        f(np.ones(2, f32), np.ones(3, f32), np.ones(4, f32))

    assert [(v.path, v.got) for v in caught.value.violations] == [
        ("y", "(3,)"),
        ("z", "(4,)"),
    ]
    assert {v.note for v in caught.value.violations} == {"b=2 comes from x, axis 0"}


def test_all_violations_come_at_once_in_the_order_of_the_parameters():
    f = safe_jit(
        lambda a, b, c, mode: a,
        static_argnames="mode",
        contract={
            "mode": spec(one_of=("x", "y")),
            "c": spec("f32[n<=4]"),
            "b": {"w": spec("f32[n]"), "v": None},
            "a": spec("f32[n]", finite=True),
        },
    )

    found = refused(
        f,
        np.array([1, np.nan], f32),
        {"w": np.ones(3, np.int32)},
        np.ones((1, 1), np.float64),
        mode="z",
    )

    assert found == [
        ("a", "value"),
        ("b", "structure"),
        ("b['w']", "dtype"),
        ("b['w']", "shape"),
        ("c", "dtype"),
        ("c", "shape"),
        ("mode", "static"),
    ]


def test_a_refused_call_is_counted_and_leaves_no_program():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[3]")})

    for size in (1, 2, 4):
        refused(f, np.ones(size, f32))

    assert (f.stats().violations, f.stats().live, f.stats().compiles) == (3, 0, 0)


def test_expressions_follow_the_names_they_mention_in_any_order_of_parameters():
    f = safe_jit(
        lambda pairs, x: x,
        contract={"pairs": spec("f32[2*b, max(b, 3)]"), "x": spec("f32[b]")},
    )

    f(np.ones((4, 3), f32), np.ones(2, f32))
    f(np.ones((8, 4), f32), np.ones(4, f32))

    assert refused(f, np.ones((8, 5), f32), np.ones(4, f32)) == [("pairs", "shape")]
    assert refused(f, np.ones((5, 3), f32), np.ones(2, f32)) == [("pairs", "shape")]


def test_an_odd_size_cannot_be_twice_an_integer():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[2*b]")})

    f(np.ones(6, f32))

    assert refused(f, np.ones(7, f32)) == [("x", "shape")]


@pytest.mark.parametrize("low_high", [(1, 4), (0, 4), (4, 4)])
def test_dims_bounds_are_inclusive_at_both_ends(low_high):
    low, high = low_high
    f = safe_jit(lambda x: 0, contract={"x": spec("f32[b]")}, dims={"b": low_high})

    for size in range(7):
        if low <= size <= high:
            f(np.ones(size, f32))
        else:
            assert refused(f, np.ones(size, f32)) == [("x", "dimension")]


def test_bounds_in_the_text_hold_wherever_the_name_is_used():
    f = safe_jit(lambda x, y: 0, contract={"x": spec("f32[b<=2]"), "y": spec("f32[b]")})

    f(np.ones(2, f32), np.ones(2, f32))

    assert refused(f, np.ones(3, f32), np.ones(3, f32)) == [("x", "dimension")]


def test_symbolic_dimensions_keep_their_constraints():
    b, t = export.symbolic_shape("b, t", constraints=("b <= 8", "t >= b"))
    struct = jax.ShapeDtypeStruct((b, t, 2 * b), jnp.float32)
    f = safe_jit(lambda x: 0, contract={"x": struct})

    f(np.ones((2, 3, 4), f32))

    with pytest.raises(ContractError) as caught:
        f(np.ones((9, 3, 18), f32))
    assert [(v.expected, v.got) for v in caught.value.violations] == [
        ("b<=8", "b=9"),
        ("t>=b", "b=9, t=3"),
    ]
    assert refused(f, np.ones((2, 3, 5), f32)) == [("x", "shape")]


def test_an_exported_program_with_symbolic_sizes_passes_within_the_bounds():
    f = safe_jit(lambda x: x + 1, contract={"x": spec("f32[b<=64, 3]")})
    (b,) = export.symbolic_shape("b", constraints=("b <= 64",))
    struct = jax.ShapeDtypeStruct((b, 3), jnp.float32)

    exported = export.export(jax.jit(f))(struct)

    assert exported.in_avals[0].shape[1] == 3


def test_variadic_groups_agree_over_the_call():
    f = safe_jit(
        lambda x, y: 0, contract={"x": spec("f32[*g, 2]"), "y": spec("f32[*g]")}
    )

    f(np.ones((3, 4, 2), f32), np.ones((3, 4), f32))
    f(np.ones(2, f32), f32(1))

    assert refused(f, np.ones((3, 4, 2), f32), np.ones((4, 3), f32)) == [("y", "shape")]


def test_zero_sizes_are_sizes():
    f = safe_jit(lambda x, y: 0, contract={"x": spec("f32[b, 0]"), "y": spec("f32[b]")})

    f(np.ones((0, 0), f32), np.ones(0, f32))

    assert refused(f, np.ones((0, 0), f32), np.ones(1, f32)) == [("y", "shape")]


# --- where a contract stands ------------------------------------------------------


def test_a_tuple_stands_in_positional_order():
    f = safe_jit(lambda a, b: b, contract=(None, spec("f32[2]")))

    f(1.0, np.ones(2, f32))

    assert refused(f, 1.0, np.ones(3, f32)) == [("b", "shape")]


def test_keyword_and_positional_spellings_get_the_same_verdict():
    f = safe_jit(lambda a, b: b, contract={"b": spec("f32[2]")})
    good, bad = np.ones(2, f32), np.ones(3, f32)

    for call in (lambda v: f(1.0, v), lambda v: f(1.0, b=v), lambda v: f(b=v, a=1.0)):
        for _ in range(3):
            call(good)
            assert refused(call, bad) == [("b", "shape")]


def test_a_default_is_not_checked_and_a_given_argument_is():
    f = safe_jit(
        lambda x, y=None, *, z=None: x,
        contract={"y": spec("f32[2]"), "z": spec("f32[2]")},
    )
    good, bad = np.ones(2, f32), np.ones(3, f32)

    for _ in range(3):
        f(1.0)
        f(1.0, good)
        f(1.0, z=good)
        f(1.0, good, z=good)
        assert refused(f, 1.0, bad) == [("y", "shape")]
        assert refused(f, 1.0, z=bad) == [("z", "shape")]
        assert refused(f, 1.0, None) == [("y", "type")]


def test_variadic_parameters_are_trees():
    f = safe_jit(
        lambda *args, **kwargs: 0,
        contract={"args": spec("f32[b]"), "kwargs": {"k": spec("f32[b]"), "u": None}},
    )
    good, bad = np.ones(2, f32), np.ones(3, f32)

    for _ in range(3):
        f(good, good, k=good, u=1)
        assert refused(f, good, bad, k=good, u=1) == [("args[1]", "shape")]
        assert refused(f, good, k=good) == [("kwargs", "structure")]
        assert refused(f, good, k=good, u=1, v=1) == [("kwargs", "structure")]


def test_a_method_is_checked_like_a_function():
    class Model:
        @safe_jit(static_argnums=0, contract={"x": spec("f32[b, 2]")})
        def apply(self, x):
            return x.sum()

    model = Model()

    assert model.apply(np.ones((1, 2), f32)) == 2
    assert refused(model.apply, np.ones((1, 3), f32)) == [("x", "shape")]


# --- dtypes, weak types, shardings ------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones(2),
        np.ones(2, np.float16),
        np.ones(2, ">f4"),
        np.ones(2, np.int32),
        np.ones(2, bool),
        np.ones(2, object),
        np.array(["a", "b"]),
        np.array([0, 0], "datetime64[s]"),
    ],
    ids=lambda a: a.dtype.str,
)
def test_another_dtype_is_refused_first_and_after_a_good_call(wrong):
    f = safe_jit(lambda x: x, contract={"x": spec("f32[2]")})

    assert refused(f, wrong) == [("x", "dtype")]
    f(np.ones(2, f32))
    f(jnp.ones(2))
    assert refused(f, wrong) == [("x", "dtype")]


def test_several_dtypes_are_admitted_one_by_one():
    f = safe_jit(lambda x: x, contract={"x": spec("f32|bf16[2]")})

    assert f(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
    assert f(np.ones(2, f32)).dtype == f32
    assert refused(f, np.ones(2, np.float16)) == [("x", "dtype")]


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2", "uint2", "float8_e5m2"])
def test_narrow_dtypes_are_told_apart(dtype):
    short = {"float8_e5m2": "f8_e5m2"}.get(dtype, dtype.replace("int", "i", 1))
    f = safe_jit(lambda x: x, contract={"x": spec(f"{short.replace('ui', 'u')}[2]")})

    for _ in range(2):
        f(jnp.ones(2, dtype))
        f(np.ones(2, jnp.dtype(dtype)))
        assert refused(f, jnp.ones(2, jnp.int8)) == [("x", "dtype")]


def test_random_keys_are_arrays_of_their_own_dtype():
    f = safe_jit(jax.random.uniform, contract={"key": spec("key[]")})

    for _ in range(2):
        f(jax.random.key(0))
        assert refused(f, jax.random.PRNGKey(0)) == [
            ("key", "dtype"),
            ("key", "shape"),
        ]
        assert refused(f, jax.random.split(jax.random.key(0))) == [("key", "shape")]


def test_cast_converts_the_callers_dtype_on_every_call():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[2]")}, on_dtype="cast")

    for _ in range(3):
        assert f(np.ones(2)).dtype == f32
        assert f(np.ones(2, np.int64)).dtype == f32
        assert f(jnp.ones(2, jnp.bfloat16)).dtype == f32
        assert refused(f, np.ones(2, complex)) == [("x", "dtype")]
    assert f.stats().live == 1


def test_cast_of_one_leaf_leaves_the_others_strict():
    f = safe_jit(
        lambda x, y: x,
        contract={"x": spec("f32[2]", on_dtype="cast"), "y": [spec("f32[2]")]},
    )

    f(np.ones(2), [np.ones(2, f32)])

    assert refused(f, np.ones(2), [np.ones(2)]) == [("y[0]", "dtype")]


@pytest.mark.parametrize(
    "wrong", [np.array([300]), np.array([-129]), np.array([2**40])]
)
def test_cast_refuses_an_integer_that_would_wrap_around(wrong):
    f = safe_jit(lambda x: x, contract={"x": spec("i8[1]")}, on_dtype="cast")

    assert int(f(np.array([-128]))[0]) == -128
    assert refused(f, wrong) == [("x", "dtype")]


def test_cast_of_a_float_to_an_integer_is_refused():
    f = safe_jit(lambda x: x, contract={"x": spec("i32[1]")}, on_dtype="cast")

    assert refused(f, np.ones(1)) == [("x", "dtype")]


def test_cast_refuses_what_it_cannot_see_under_a_transformation():
    f = safe_jit(lambda x: x, contract={"x": spec("i8[]")}, on_dtype="cast")

    assert refused(jax.jit(f), np.int16(3)) == [("x", "dtype")]


def test_cast_of_an_enormous_python_integer_is_refused():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[]")}, on_dtype="cast")

    assert float(f(3)) == 3.0
    assert refused(f, 10**400) == [("x", "dtype")]


@pytest.mark.parametrize("wrong", [2**31, -(2**31) - 1, 2**63, 10**30])
def test_a_python_integer_beyond_the_dtype_is_refused(wrong):
    f = safe_jit(lambda x: x, contract={"x": spec("i32[]")})

    for _ in range(2):
        f(5)
        assert refused(f, wrong) == [("x", "value")]


def test_python_scalars_are_told_apart_by_their_kind():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[]")})

    for _ in range(2):
        f(1.0)
        f(f32(1))
        for wrong in (1, True, 1j, np.float64(1), np.int32(1), np.bool_(True)):
            assert refused(f, wrong) == [("x", "dtype")]


class Level(enum.IntEnum):
    HIGH = 3


def test_an_enum_of_integers_is_an_integer_as_in_jax():
    f = safe_jit(lambda x: x + 1, contract={"x": spec("i32[]")})

    assert f(Level.HIGH) == jax.jit(lambda x: x + 1)(Level.HIGH) == 4


@pytest.mark.parametrize("wanted", [True, False])
def test_weak_types_are_told_apart(wanted):
    f = safe_jit(lambda x: x, contract={"x": spec("f32[]", weak_type=wanted)})
    weak, strong = [1.0, jnp.asarray(1.0)], [f32(1), np.array(1, f32), jnp.float32(1)]
    good, bad = (weak, strong) if wanted else (strong, weak)

    for _ in range(2):
        for value in good:
            f(value)
        for value in bad:
            assert refused(f, value) == [("x", "weak_type")]


def test_x64_toggled_in_between_does_not_carry_a_verdict_over():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[]")})

    f(1.0)
    with jax.enable_x64(True):
        assert refused(f, 1.0) == [("x", "dtype")]
    f(1.0)


def test_a_sharding_in_the_struct_is_required():
    mesh = Mesh(np.array(jax.devices()[:2]), ("i",))
    split = NamedSharding(mesh, PartitionSpec("i"))
    whole = NamedSharding(mesh, PartitionSpec())
    struct = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=split)
    f = safe_jit(lambda x: x, contract={"x": struct})
    x = jnp.ones(4)

    for _ in range(2):
        f(jax.device_put(x, split))
        for wrong in (x, jax.device_put(x, whole), np.ones(4, f32)):
            assert refused(f, wrong) == [("x", "sharding")]


def test_a_sharding_inside_a_tree_is_required():
    first, second = (SingleDeviceSharding(d) for d in jax.devices()[:2])
    struct = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=first)
    f = safe_jit(lambda p: p["w"], contract={"p": {"w": struct, "b": None}})
    x = jnp.ones(4)

    for _ in range(2):
        f({"w": jax.device_put(x, first), "b": x})
        wrong = {"w": jax.device_put(x, second), "b": x}
        assert refused(f, wrong) == [("p['w']", "sharding")]


# --- things that are no arrays, or say they are -----------------------------------


class Liar:
    """Claims to be an array of float32[2] in every way Python offers."""

    shape, dtype, ndim, size, weak_type = (2,), np.dtype("float32"), 1, 2, False

    def __init__(self, aval):
        self.aval = aval

    @property
    def __class__(self):
        return type(jnp.ones(1))


class Duck:
    shape, dtype, ndim, size = (2,), np.dtype("float32"), 1, 2

    def __array__(self, dtype=None, copy=None):
        return np.ones(2, f32)


def test_objects_that_only_look_like_arrays_never_reach_the_function():
    reached = []
    f = safe_jit(reached.append, contract={"object": spec("f32[2]")})
    liars = [Liar(jnp.ones(2).aval), Duck(), "x", b"x", object(), f32, None]

    for _ in range(2):
        for wrong in liars:
            with pytest.raises(TypeError):
                f(wrong)
    assert reached == []

    f(jnp.ones(2))
    f(np.ones(2, f32))
    reached.clear()
    for wrong in liars:
        with pytest.raises(TypeError):
            f(wrong)
    assert reached == []


def test_specs_and_structs_are_no_arguments():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[2]")})
    f(jnp.ones(2))

    for wrong in (spec("f32[2]"), jax.ShapeDtypeStruct((2,), jnp.float32)):
        with pytest.raises(TypeError):
            f(wrong)
    assert f.stats().live == 1


@jax.tree_util.register_pytree_node_class
class Quantized:
    """A pytree node that also says what array it stands for."""

    def __init__(self, parts, aval):
        self.parts, self.aval = parts, aval

    shape = property(lambda self: self.aval.shape)
    dtype = property(lambda self: self.aval.dtype)

    def tree_flatten(self):
        return self.parts, self.aval

    @classmethod
    def tree_unflatten(cls, aval, parts):
        return cls(tuple(parts), aval)


def test_a_node_is_what_its_leaves_are_whatever_it_says_of_itself():
    aval = jnp.ones(2).aval
    f = safe_jit(lambda x: 0, contract={"x": spec("f32[2]")})
    g = safe_jit(lambda t: 0, contract={"t": {"x": spec("f32[2]")}})
    sound = Quantized((np.ones(2, f32), np.ones(2, f32)), aval)
    wrong = Quantized((np.ones(2, np.int8), np.ones(9, f32)), aval)

    for _ in range(2):
        f(jnp.ones(2))
        f(sound)
        g({"x": jnp.ones(2)})
        g({"x": sound})
        assert [rule for _, rule in refused(f, wrong)] == ["dtype", "shape"]
        assert [rule for _, rule in refused(g, {"x": wrong})] == ["dtype", "shape"]


class Mine(np.ndarray):
    pass


def test_subclasses_of_numpy_arrays_get_the_verdict_of_their_shape_and_dtype():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[1, 2]")})
    masked = np.ma.array(np.ones((1, 2), f32), mask=[[True, False]])

    for _ in range(2):
        f(np.ones((1, 2), f32).view(Mine))
        assert refused(f, np.ones((2, 1), f32).view(Mine)) == [("x", "shape")]
        assert refused(f, masked) == [("x", "type")]


def test_a_deleted_array_is_refused_by_jax_as_ever():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[2]", finite=True)})
    x = jnp.ones(2) + 1
    f(x)
    x.delete()

    with pytest.raises(RuntimeError, match="deleted"):
        f(x)


def test_a_reference_is_held_against_shape_and_dtype():
    f = safe_jit(lambda r: r[...], contract={"r": spec("f32[2]", finite=True)})

    for _ in range(2):
        f(jax.new_ref(jnp.ones(2)))
        assert refused(f, jax.new_ref(jnp.ones(3))) == [("r", "shape")]


# --- under transformations --------------------------------------------------------


def test_shapes_are_checked_under_every_transformation():
    f = safe_jit(lambda x: (x * x).sum(), contract={"x": spec("f32[3]")})
    good, bad = jnp.ones(3), jnp.ones(2)

    for call in (
        jax.jit(f),
        jax.grad(f),
        jax.jit(jax.grad(f)),
        lambda x: jax.vmap(f)(jnp.stack([x, x])),
        lambda x: jax.jvp(f, (x,), (x,)),
        lambda x: jax.lax.scan(lambda c, v: (c, f(v)), 0, x[None]),
        lambda x: jax.lax.cond(True, f, f, x),
        jax.checkpoint(f),
        jax.make_jaxpr(f),
        f.lower,
        f.trace,
        f.eval_shape,
    ):
        for _ in range(2):
            call(good)
            assert refused(call, bad) == [("x", "shape")]


def test_batched_tracers_are_checked_by_the_shape_of_one_example():
    f = safe_jit(lambda x: x.sum(), contract={"x": spec("f32[3]")})

    assert jax.vmap(f)(jnp.ones((5, 3))).shape == (5,)
    assert refused(jax.vmap(f), jnp.ones((3, 5))) == [("x", "shape")]


# --- malformed contracts ----------------------------------------------------------


@pytest.mark.parametrize(
    ("contract", "word"),
    [
        ({"q": spec("f32[3]")}, "'q'"),
        ({"x": 3.0}, "x"),
        ({"x": {"w": "f32[3]"}}, "x['w']"),
        ({"x": jax.ShapeDtypeStruct(("a b",), jnp.float32)}, "x"),
        ({"x": spec("f32[2*a+b]")}, "'"),
        ((None, None, None), "3 entries"),
        (["x"], "list"),
        ("hints", "str"),
    ],
)
def test_a_malformed_contract_fails_at_decoration_and_says_where(contract, word):
    with pytest.raises(ContractError) as caught:
        safe_jit(lambda x, y: x, contract=contract)

    assert caught.value.code == "SJ102"
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "dims", [{"c": (1, 2)}, {"b": (2, 1)}, {"b": 3}, {"b": (-1, 2)}]
)
def test_malformed_dims_fail_at_decoration(dims):
    with pytest.raises(ContractError) as caught:
        safe_jit(lambda x: x, contract={"x": spec("f32[b]")}, dims=dims)

    assert caught.value.code == "SJ102"


def test_dims_without_a_contract_fail_at_decoration():
    with pytest.raises(ContractError):
        safe_jit(lambda x: x, dims={"b": (1, 2)})


def test_an_unknown_word_for_on_dtype_fails_at_decoration():
    with pytest.raises(ContractError):
        safe_jit(lambda x: x, contract={"x": spec("f32[b]")}, on_dtype="convert")
