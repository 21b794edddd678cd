"""What is saved comes back, bit for bit, and nothing else does."""

from __future__ import annotations

import collections
import dataclasses
import errno
import os
import threading
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.core
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import safejax
from safejax.checkpoint._dtypes import DTYPES

RING = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
CAN_HOLD = [
    name
    for name, dtype in DTYPES.items()
    if jax.dtypes.canonicalize_dtype(dtype) == dtype
    and not (name.startswith("float6") and jax.__version_info__ < (0, 11))
    and name not in ("int1", "uint1")
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.ckpt"


def round_trip(path: Path, tree: Any, like: Any = None) -> Any:
    safejax.signed_save(path, tree, key=RING)
    return safejax.signed_load(path, key=RING, like=like)


def raw(leaf: Any) -> bytes:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(leaf)).encode() + raw(jax.random.key_data(leaf))
    return np.asarray(leaf).tobytes()


def assert_same(got: Any, wanted: Any) -> None:
    leaves, structure = jax.tree.flatten(wanted)
    assert jax.tree.structure(got) == structure
    for mine, leaf in zip(jax.tree.leaves(got), leaves, strict=True):
        assert isinstance(mine, jax.Array) == isinstance(leaf, jax.Array)
        if hasattr(leaf, "dtype"):
            assert mine.dtype == leaf.dtype
            assert mine.shape == leaf.shape
        else:
            assert type(mine) is type(leaf)
        assert raw(mine) == raw(leaf)


def patterns(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Values with as many different bits as the dtype has."""
    if dtype == np.bool_:
        return np.array([False, True] * 8)
    if dtype.name in ("int4", "uint4", "int2", "uint2"):
        least, most = ml_dtypes.iinfo(dtype).min, ml_dtypes.iinfo(dtype).max
        return np.arange(least, most + 1).astype(dtype)
    if dtype.name.startswith(("float4", "float6")):
        return np.arange(1 << int(dtype.name[5])).astype(np.uint8).view(dtype)
    if dtype.itemsize <= 2:
        unsigned = np.dtype(f"u{dtype.itemsize}")
        return np.arange(1 << (8 * dtype.itemsize)).astype(unsigned).view(dtype)
    size = 4096
    found = np.random.default_rng(0).integers(0, 256, size * dtype.itemsize, np.uint8)
    return found.view(dtype)


# --- leaves -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_numpy_leaves_of_every_dtype_and_every_bit_pattern(path: Path, name: str):
    values = patterns(DTYPES[name])
    tree = {
        "all": values,
        "matrix": values[:6].reshape(2, -1) if values.size >= 6 else values,
        "scalar": values[0].reshape(()),
        "empty": values[:0],
        "empty2": values[:0].reshape(0, 3),
        "odd": values[:3],
    }

    assert_same(round_trip(path, tree), tree)


@pytest.mark.parametrize("name", sorted(CAN_HOLD))
def test_jax_leaves_of_every_dtype_and_every_bit_pattern(path: Path, name: str):
    values = patterns(DTYPES[name])
    tree = {
        "all": jax.device_put(values),
        "many": [jax.device_put(values[i % 4]) for i in range(130)],
        "empty": jax.device_put(values[:0]),
    }

    assert_same(round_trip(path, tree), tree)
    assert_same(round_trip(path, tree, like=tree), tree)


def test_scalars_keep_their_type_and_all_their_bits(path: Path):
    tree = [True, 0, -(2**63), 2**63 - 1, -0.0, 5e-324, float("inf"), 1e300 - 1j, None]

    assert_same(round_trip(path, tree), tree)
    assert_same(round_trip(path, tree, like=tree), tree)
    assert str(round_trip(path, float("nan"))) == "nan"


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_random_keys(path: Path, impl: str):
    tree = {
        "one": jax.random.key(7, impl=impl),
        "many": jax.random.split(jax.random.key(8, impl=impl), (2, 3)),
    }
    like = jax.tree.map(lambda k: jax.ShapeDtypeStruct(k.shape, k.dtype), tree)

    assert_same(round_trip(path, tree), tree)
    assert_same(round_trip(path, tree, like=like), tree)
    other = "rbg" if impl != "rbg" else "threefry2x32"
    wrong = jax.tree.map(lambda k: jax.random.key(0, impl=other), tree)
    with pytest.raises(safejax.FormatError, match="random keys"):
        round_trip(path, tree, like=wrong)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(20)[::-2],
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.broadcast_to(np.float32(3), (4, 5)),
        np.arange(5, dtype=">f8"),
        np.arange(5, dtype=">i2")[::-1],
        np.float32(1.5),
    ],
)
def test_numpy_arrays_in_any_order(path: Path, array: Any):
    got = round_trip(path, {"a": array})["a"]

    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "leaf",
    [
        "text", b"bytes", object(), len, np.array(["a"]), np.array([object()]),
        np.zeros(2, "M8[s]"), np.zeros(2, [("a", "i4")]), np.zeros(1, np.longdouble),
        2**63, type("Int", (int,), {})(3), {1, 2}, jnp.ones,
        np.ma.array([1.0, 2.0], mask=[0, 1]), jax.ShapeDtypeStruct((2,), jnp.float32),
    ],
)  # fmt: skip
def test_leaf_that_is_no_array_is_refused_by_its_path(path: Path, leaf: Any):
    with pytest.raises(safejax.FormatError) as caught:
        safejax.signed_save(path, {"a": [jnp.ones(1), leaf]}, key=RING)

    assert caught.value.code == "SJ507"
    assert "a/1" in caught.value.message
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "tree", [{1.5: 0}, {(1, 2): 0}, {None: 0}, {"a": 0, "\ud800": 1}, {True: 0, 2: 1}]
)
def test_key_that_has_no_place_in_a_path_is_refused(path: Path, tree: Any):
    with pytest.raises(safejax.FormatError) as caught:
        safejax.signed_save(path, tree, key=RING)

    assert caught.value.code == "SJ507"


# --- trees ------------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "left right")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    w: Any
    b: Any


@pytest.mark.parametrize(
    "tree",
    [
        {}, [], (), None, [[], {}, (), None], {"": 1, ".": 2, "/": 3, "~": 4, "~1": 5},
        {"a": {"b": 1}, "a/b": 2}, {"__metadata__": 1.0}, {3: 1, 10: 2, -1: 3},
        {"dict": 0, "list": [0]}, 5, {"é\n\"\\": 1, "\x00": 2},
    ],
)  # fmt: skip
def test_structures_come_back(path: Path, tree: Any):
    assert round_trip(path, tree) == tree
    assert round_trip(path, tree, like=tree) == tree or tree is None


def arrays() -> dict[str, jax.Array]:
    return {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}


def library_trees() -> dict[str, Any]:
    params = arrays()
    key = jax.random.key(0)
    adam = optax.chain(optax.clip(1.0), optax.adamw(optax.linear_schedule(1, 0, 5)))
    model = eqx.nn.MLP(2, 2, 3, 2, key=key)
    return {
        "named tuple": Pair(params, [Pair(jnp.ones(1), 2)]),
        "dataclass": Layer(jnp.ones(2), {"x": jnp.zeros(1)}),
        "frozen dict": flax.core.freeze({"params": params}),
        "ordered dict": collections.OrderedDict(z=jnp.ones(1), a=jnp.zeros(2)),
        "default dict": collections.defaultdict(list, {"b": jnp.ones(1), "a": 1}),
        "nnx state": nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
        "equinox": eqx.filter(model, eqx.is_array),
        "optax": adam.init(params),
        "multi": optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2).init(params),
    }


@pytest.mark.parametrize("name", sorted(library_trees()))
def test_classes_of_libraries_come_back_with_like(path: Path, name: str):
    tree = library_trees()[name]
    structs = jax.tree.map(
        lambda x: x if isinstance(x, int) else jax.ShapeDtypeStruct(x.shape, x.dtype),
        tree,
    )

    assert_same(round_trip(path, tree, like=tree), tree)
    assert_same(round_trip(path, tree, like=structs), tree)


def test_scalars_of_numpy_come_back_as_such_with_like(path: Path):
    tree = {"lr": np.float32(0.5), "on": np.bool_(True), "x": np.arange(2)}
    got = round_trip(path, tree, tree)

    assert [type(leaf) for leaf in got.values()] == [np.float32, np.bool_, np.ndarray]
    assert got["lr"] == np.float32(0.5)


def test_without_like_classes_become_plain_containers(path: Path):
    tree = Pair(Layer(1, 2), flax.core.freeze({"a": (3, [4])}))

    assert round_trip(path, tree) == {
        "left": {"w": 1, "b": 2},
        "right": {"a": (3, [4])},
    }


LEAVES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.builds(
        lambda dtype, shape: (
            np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
        ),
        st.sampled_from(["f4", "i8", "u1", "f8", "c16", "?", "f2"]),
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
    ),
)
TREES = st.recursive(
    LEAVES | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text("a/~.é_", max_size=3), inner, max_size=4)
        | st.dictionaries(st.integers(-5, 99), inner, max_size=4)
    ),
    max_leaves=25,
)


@given(TREES)
@settings(max_examples=150, deadline=None)
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: Any):
    path = tmp_path_factory.mktemp("any") / "x"

    assert_same(round_trip(path, tree), tree)
    if tree is not None:
        assert_same(round_trip(path, tree, like=tree), tree)


# --- in memory and in the file ----------------------------------------------------


def large() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "a": jnp.asarray(rng.random((1024, 1024), np.float32)),
        "b": jnp.asarray(rng.random((700, 1001), np.float32)),
        "c": rng.random(400_000),
        "d": [jnp.asarray(rng.random(n, np.float32)) for n in (5, 2000, 50_001, 1024)],
        "e": jnp.asarray(rng.random((1 << 20) + 1, np.float32).astype(jnp.bfloat16)),
    }


def test_large_arrays_lie_in_the_verified_memory_itself(path: Path):
    tree = round_trip(path, large())

    for leaf in (tree["a"], tree["b"], tree["e"], tree["d"][1]):
        view = np.asarray(leaf)
        assert view.ctypes.data % 64 == 0
        assert not view.flags.writeable
    assert_same(tree, large())


def test_numpy_leaves_may_be_written_to_and_share_nothing(path: Path):
    tree = {f"n{i}": np.full(100, i) for i in range(4)} | {"big": np.zeros(1 << 19)}
    got = round_trip(path, tree)
    for leaf in got.values():
        leaf[:] = -1
        assert leaf.base is None or leaf.nbytes > 1 << 21

    assert_same(safejax.signed_load(path, key=RING), tree)


def test_leaves_come_to_the_default_device_where_no_transfer_is_admitted(path: Path):
    tree = {"large": jnp.ones((256, 256)), "small": [jnp.float32(i) for i in range(9)]}
    safejax.signed_save(path, tree, key=RING)
    device = jax.devices()[-1]

    with jax.transfer_guard("disallow"), jax.default_device(device):
        found = jax.tree.leaves(safejax.signed_load(path, key=RING))

    assert len(found) == 10
    assert all(leaf.devices() == {device} for leaf in found)
    assert not any(leaf.committed for leaf in found)


def test_loaded_arrays_can_be_donated(path: Path):
    tree = round_trip(path, {"a": jnp.ones(1 << 20)})
    step = jax.jit(lambda x: x + 1, donate_argnums=0)

    assert float(step(tree["a"]).sum()) == 2 << 20


def test_plain_safetensors_reads_the_file(path: Path):
    safetensors = pytest.importorskip("safetensors.numpy")
    tree = large()
    safejax.signed_save(path, tree, key=RING, step=3)
    got = safetensors.load_file(path)

    np.testing.assert_array_equal(got["a"], tree["a"])
    np.testing.assert_array_equal(got["d/2"], tree["d"][2])
    np.testing.assert_array_equal(got["e"], tree["e"])


def test_wide_dtypes_are_never_narrowed(path: Path):
    with jax.enable_x64(True):
        safejax.signed_save(path, {"a": jnp.arange(3, dtype=jnp.int64)}, key=RING)
    with pytest.raises(safejax.FormatError, match="narrow to int32") as caught:
        safejax.signed_load(path, key=RING)

    assert caught.value.code == "SJ506"
    like = {"a": np.zeros(3, np.int64)}
    assert safejax.signed_load(path, key=RING, like=like)["a"].tolist() == [0, 1, 2]
    with jax.enable_x64(True):
        assert safejax.signed_load(path, key=RING)["a"].dtype == jnp.int64


def test_blake3(path: Path):
    pytest.importorskip("blake3")
    fast = safejax.KeyRing(RING.primary, digest="blake3")
    safejax.signed_save(path, large(), key=fast)

    assert_same(safejax.signed_load(path, key=fast), large())
    with pytest.raises(safejax.FormatError, match="the ring admits sha256"):
        safejax.signed_load(path, key=RING)


def test_shardings_of_like_are_those_of_the_result(path: Path):
    mesh = jax.make_mesh((2,), ("x",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    tree = {"a": jnp.arange(8.0), "b": jnp.ones(3)}
    last = jax.device_put(jnp.ones(3), jax.devices()[1])
    like = {"a": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=spread), "b": last}
    got = round_trip(path, tree, like=like)

    assert got["a"].sharding == spread
    assert got["b"].devices() == {jax.devices()[1]}
    assert got["b"].committed
    assert not round_trip(path, tree, like=tree)["b"].committed
    assert_same(round_trip(path, got), tree)


# --- like and select --------------------------------------------------------------


def test_every_difference_to_like_is_listed(path: Path):
    like = {
        "w": jax.ShapeDtypeStruct((3, 2), jnp.float32),
        "b": jax.ShapeDtypeStruct((3,), jnp.float16),
        "more": jnp.ones(1),
    }
    with pytest.raises(safejax.FormatError) as caught:
        round_trip(path, {**arrays(), "x": {"y": 1}}, like=like)

    assert caught.value.code == "SJ506"
    assert caught.value.details["differences"] == [
        {"path": "b", "what": "dtype: like has float16[3], the file bfloat16[3]"},
        {"path": "more", "what": "missing in the file"},
        {"path": "w", "what": "shape: like has float32[3, 2], the file float32[2, 3]"},
        {"path": "x/y", "what": "in the file, but not in like"},
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("enc/**", {"enc/0/w", "enc/1/w", "enc/x"}),
        ("enc/*", {"enc/x"}),
        ("enc/*/w", {"enc/0/w", "enc/1/w"}),
        ("**/w", {"enc/0/w", "enc/1/w", "w"}),
        (["w", "dec"], {"w", "dec"}),
        ("e?c/x", {"enc/x"}),
        ("d.c|dec", None),
        ([], None),
    ],
)
def test_selected_leaves_only(path: Path, pattern: Any, names: set[str] | None):
    tree = {
        "enc": {0: {"w": jnp.ones(3)}, 1: {"w": jnp.ones(4)}},
        "dec": jnp.ones(2),
        "w": jnp.ones(1),
    }
    flat = {"enc/0/w": 3, "enc/1/w": 4, "dec": 2, "w": 1}
    if names is not None and "enc/x" in names:
        tree["enc"] = {"0": tree["enc"][0], "1": tree["enc"][1], "x": jnp.ones(9)}
        flat["enc/x"] = 9
    safejax.signed_save(path, tree, key=RING)
    if names is None:
        with pytest.raises(safejax.FormatError, match="nothing in the file"):
            safejax.signed_load(path, key=RING, select=pattern)
        return
    got = safejax.signed_load(path, key=RING, select=pattern)

    assert sorted(x.size for x in jax.tree.leaves(got)) == sorted(
        flat[name] for name in names
    )
    filled = safejax.signed_load(path, key=RING, select=pattern, like=tree)
    assert jax.tree.structure(filled) == jax.tree.structure(tree)


def test_a_part_is_loaded_without_reading_the_rest(path: Path):
    safejax.signed_save(path, large(), key=RING)
    whole = path.read_bytes()
    read: list[tuple[int, int]] = []
    one = safejax.signed_load(
        path, key=RING, select="b", progress=lambda *counts: read.append(counts)
    )
    data = bytearray(whole)
    data[-1] ^= 1
    path.write_bytes(data)

    assert read[-1][0] == read[-1][1] < len(whole) / 2
    assert raw(one["b"]) == raw(large()["b"])
    safejax.signed_load(path, key=RING, select="b")
    with pytest.raises(safejax.SignatureError):
        safejax.signed_load(path, key=RING)


# --- freshness --------------------------------------------------------------------


def test_only_the_checkpoint_that_is_asked_for(path: Path):
    safejax.signed_save(path, 1, key=RING, step=900, context="prod/digits", run_id="r1")
    load = {"key": RING, "context": "prod/digits"}
    safejax.signed_load(path, **load, min_step=900, max_age_s=60, expect_run_id="r1")
    for wrong, field in (
        ({"min_step": 901}, "step"),
        ({"max_age_s": 0}, "age"),
        ({"expect_run_id": "r2"}, "run_id"),
        ({"context": "prod/other"}, "context"),
        ({"context": ""}, "context"),
    ):
        with pytest.raises(safejax.RollbackError) as caught:
            safejax.signed_load(path, **{**load, **wrong})
        assert caught.value.details["field"] == field


def test_checkpoint_without_a_step_is_not_new_enough(path: Path):
    safejax.signed_save(path, 1, key=RING)

    with pytest.raises(safejax.RollbackError, match="at least 0"):
        safejax.signed_load(path, key=RING, min_step=0)


@pytest.mark.parametrize("step", [-1, 2**63, True, 1.5, "3"])
def test_step_is_an_integer(path: Path, step: Any):
    with pytest.raises((ValueError, TypeError)):
        safejax.signed_save(path, 1, key=RING, step=step)


def test_metadata_is_plain_data(path: Path):
    with pytest.raises(safejax.FormatError, match=r"metadata.*plain data") as caught:
        safejax.signed_save(path, 1, key=RING, metadata={"x": {1, 2}})
    assert caught.value.code == "SJ507"
    with pytest.raises(ValueError, match="context"):
        safejax.signed_save(path, 1, key=RING, context="\ud800")
    safejax.signed_save(path, 1, key=RING, metadata={"lr": 1e-3, "tags": ["a", None]})
    assert list(path.parent.iterdir()) == [path]


# --- limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        ({"max_header_bytes": 300}, "max_header_bytes"),
        ({"max_data_bytes": 100}, "max_data_bytes"),
        ({"max_leaves": 1}, "max_leaves"),
        ({"max_depth": 1}, "max_depth"),
    ],
)
def test_limits_on_what_is_loaded(path: Path, limits: dict[str, int], word: str):
    tree = {"a": [jnp.ones(30), [jnp.ones(2)]], "b": 1}
    safejax.signed_save(path, tree, key=RING)

    with pytest.raises(safejax.FormatError, match=word):
        safejax.signed_load(path, key=RING, limits=safejax.LoadLimits(**limits))


# --- storage ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "link", "nowhere", "below a file"])
def test_place_that_can_not_be_written_to(tmp_path: Path, kind: str):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "real")
    elif kind == "nowhere":
        path = tmp_path / "none" / "x"
    else:
        path.write_bytes(b"")
        path = path / "y"

    with pytest.raises(safejax.StorageError) as caught:
        safejax.signed_save(path, 1, key=RING)
    assert caught.value.errno in (
        errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENOTDIR
    )  # fmt: skip


@pytest.mark.parametrize("call", ["pwritev", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_failing_disk_leaves_the_old_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
):
    safejax.signed_save(path, large(), key=RING, step=1)
    real, calls = getattr(os, call), []

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if call == "pwritev" and len(calls) < 4:
            return real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(safejax.StorageError, match=os.strerror(code)) as caught:
            safejax.signed_save(path, large(), key=RING, step=2)

    assert caught.value.errno == code
    assert isinstance(caught.value, OSError)
    assert list(path.parent.iterdir()) == [path]
    assert_same(safejax.signed_load(path, key=RING, min_step=1), large())


def test_short_writes_and_reads_are_finished(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    write, read = os.pwritev, os.preadv

    def some(call: Any, fd: int, buffers: Any, at: int) -> Any:
        first = memoryview(buffers[0])
        return call(fd, [first[: max(1, first.nbytes // 3)]], at)

    monkeypatch.setattr(os, "pwritev", lambda *a: some(write, *a))
    monkeypatch.setattr(os, "preadv", lambda *a: some(read, *a))

    assert_same(round_trip(path, large()), large())


def test_write_that_goes_nowhere_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "pwritev", lambda *a: 0)

    with pytest.raises(safejax.StorageError):
        safejax.signed_save(path, 1, key=RING)


def test_failing_read_is_a_storage_error(path: Path, monkeypatch: pytest.MonkeyPatch):
    safejax.signed_save(path, large(), key=RING)
    real, calls = os.preadv, []

    def fail(*args: Any) -> int:
        calls.append(args)
        if len(calls) > 5:
            raise OSError(errno.EIO, "")
        return real(*args)

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(safejax.StorageError, match="Input/output"):
        safejax.signed_load(path, key=RING)


def test_missing_file_is_an_os_error(path: Path):
    with pytest.raises(OSError, match="No such file") as caught:
        safejax.signed_load(path, key=RING)

    assert caught.value.errno == errno.ENOENT


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_folder_that_may_not_be_entered_is_a_storage_error(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    path = closed / "x"
    safejax.signed_save(path, 1, key=RING)
    os.seteuid(65534)
    try:
        for act in (
            lambda: safejax.signed_load(path, key=RING),
            lambda: safejax.signed_save(path, 2, key=RING),
        ):
            with pytest.raises(safejax.StorageError) as caught:
                act()
            assert caught.value.errno == errno.EACCES
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("key", [bytes(range(32)), "secret" * 9, RING.primary, None])
def test_key_that_is_no_ring_is_refused_and_not_shown(path: Path, key: Any):
    for act in (
        lambda: safejax.signed_save(path, 1, key=key),
        lambda: safejax.signed_save_async(path, 1, key=key),
        lambda: safejax.signed_load(path, key=key),
        lambda: safejax.latest(path.parent, key=key),
    ):
        with pytest.raises(TypeError, match="must be a KeyRing, got") as caught:
            act()
        assert "secret" not in str(caught.value)


def test_ring_that_can_not_sign_changes_nothing(path: Path):
    ring = safejax.KeyRing(None, verify=[RING.primary])
    with pytest.raises(safejax.SigningKeyError):
        safejax.signed_save(path, 1, key=ring)

    assert list(path.parent.iterdir()) == []


def test_progress_counts_up_to_everything(path: Path):
    saved: list[tuple[int, int]] = []
    loaded: list[tuple[int, int]] = []
    safejax.signed_save(
        path, large(), key=RING, progress=lambda *counts: saved.append(counts)
    )
    safejax.signed_load(path, key=RING, progress=lambda *counts: loaded.append(counts))

    for counts in (saved, loaded):
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1]


def test_threads_may_load_one_file_at_once(path: Path):
    safejax.signed_save(path, large(), key=RING)
    wanted, errors = large(), []

    def load() -> None:
        try:
            assert_same(safejax.signed_load(path, key=RING), wanted)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
