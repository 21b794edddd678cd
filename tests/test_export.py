"""Exported programs come back as they were exported, under the same contract."""

from __future__ import annotations

import collections
import inspect
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exporting import F32, RING, exported, load
from jax import export

import safejax
from safejax import spec

X = np.arange(6, dtype=np.float32).reshape(2, 3)
W = {"w": np.ones((3, 4), np.float32)}
W_SPEC = {"w": jax.ShapeDtypeStruct((3, 4), F32)}


def save(path: Path, fun: Any, *specs: Any, **options: Any) -> Path:
    safejax.signed_export(path, fun, *specs, key=RING, **options)
    return path


def refusal(f: Any, *args: Any, **kwargs: Any) -> Any:
    with pytest.raises(safejax.ContractError) as caught:
        f(*args, **kwargs)
    return caught.value


def affine(params: Any, x: Any) -> Any:
    return {"y": jnp.sin(x) @ params["w"], "n": (x.shape[0], [x.sum()])}


def test_a_program_with_an_open_batch_answers_for_every_size(tmp_path: Path):
    path = save(tmp_path / "f", affine, W_SPEC, spec("f32[b<=64, 3]"))
    f = load(path)

    for rows in (1, 2, 64):
        x = np.ones((rows, 3), np.float32)
        wanted, got = jax.jit(affine)(W, x), f(W, x)
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-5)
    assert f.stats().live == 3
    violation = refusal(f, W, np.ones((65, 3), np.float32)).violations[0]
    assert violation.expected == "b<=64"


def test_its_types_are_its_contract(tmp_path: Path):
    f = load(save(tmp_path / "f", affine, W_SPEC, spec("f32[b, 3]")))
    f(W, X)

    refused = refusal(f, {"w": np.ones((3, 5), np.float32)}, X.astype(np.float64))

    assert [(v.path, v.rule) for v in refused.violations] == [
        ("params['w']", "shape"),
        ("x", "dtype"),
    ]
    assert f.stats().live == 1


def test_the_contract_of_the_function_goes_with_it(tmp_path: Path):
    @safejax.safe_jit(
        contract={"x": spec("f32[b, 3]", minimum=0.0, maximum=9.0, finite=True)},
        dims={"b": (1, 8)},
    )
    def scores(params: Any, x: Any) -> Any:
        return jax.nn.softmax(x @ params["w"])

    f = load(save(tmp_path / "f", scores, W_SPEC, spec("f32[n, 3]")))

    assert f.__name__ == "scores"
    assert str(inspect.signature(f)) == "(params, x)"
    np.testing.assert_allclose(f(x=X, params=W), scores(W, X), rtol=1e-5)
    assert refusal(f, W, -X).violations[0].rule == "value"
    assert refusal(f, W, np.ones((9, 3), np.float32)).violations[0].path == "x"


def test_every_rule_of_a_contract_comes_back(tmp_path: Path):
    contract = {
        "a": {"k": [spec("i32[n]", one_of=(1, 2, 3)), spec("f32|bf16[n]")]},
        "b": (spec("f32[2*n]", weak_type=False), None),
    }
    fun = safejax.safe_jit(
        lambda a, b: b[0][0] + a["k"][0][0], contract=contract, on_dtype="cast"
    )
    specs = (
        {"k": [spec("i32[n]"), spec("f32[n]")]},
        (spec("f32[2*n]"), spec("f32[]")),
    )
    f = load(save(tmp_path / "f", fun, *specs))
    a = {"k": [np.ones(2, np.int32), np.ones(2, np.float32)]}

    assert f(a, (np.ones(4, np.float32), np.float32(1))) == 2.0
    a["k"][0] = a["k"][0] * 9
    assert refusal(f, a, (np.ones(4, np.float32), np.float32(1))).violations[0].rule
    assert refusal(f, a, (np.ones(5, np.float32), np.float32(1)))


def test_values_that_are_clipped_are_clipped_in_the_program(tmp_path: Path):
    fun = safejax.safe_jit(
        lambda x: x, contract={"x": spec("f32[3]", maximum=1.0, on_violation="clip")}
    )
    f = load(save(tmp_path / "f", fun, spec("f32[3]")))

    assert f(np.full(3, 7, np.float32)).tolist() == [1.0, 1.0, 1.0]


def test_constraints_of_symbolic_dimensions_come_back(tmp_path: Path):
    (n,) = export.symbolic_shape("n", constraints=["n <= 4"])
    f = load(save(tmp_path / "f", jnp.sin, jax.ShapeDtypeStruct((n,), F32)))
    f(np.ones(4, np.float32))

    assert refusal(f, np.ones(5, np.float32)).violations[0].expected == "n<=4"


def test_names_of_dimensions_may_stand_in_structs(tmp_path: Path):
    rows = jax.ShapeDtypeStruct(("b", 3), F32)
    f = load(save(tmp_path / "f", lambda x, y: x + y, rows, rows))
    f(X, X)

    assert refusal(f, X, X[:1]).violations[0].path == "y"


def test_strict_comparisons_become_those_that_jax_knows(tmp_path: Path):
    f = load(save(tmp_path / "f", jnp.sin, spec("f32[2<n]")))
    f(np.ones(3, np.float32))

    assert refusal(f, np.ones(2, np.float32)).violations


def test_arguments_by_name_and_static_ones(tmp_path: Path):
    fun = jax.jit(
        lambda x, mode, *, k: x + k if mode == "add" else x, static_argnames="mode"
    )
    k = jax.ShapeDtypeStruct((), F32)
    f = load(save(tmp_path / "f", fun, spec("f32[3]"), "add", named={"k": k}))

    assert f(np.ones(3, np.float32), k=np.float32(2)).tolist() == [3.0, 3.0, 3.0]
    assert "k" in str(inspect.signature(f))


def test_random_keys_and_low_precision(tmp_path: Path):
    draw = lambda key, x: jax.random.normal(key, (3,)) + x
    x = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    f = load(save(tmp_path / "f", draw, jax.random.key(0), x))
    key = jax.random.key(7)
    one = jnp.ones(3, jnp.bfloat16)

    np.testing.assert_allclose(f(key, one), draw(key, one), rtol=1e-2)


def test_gradients_come_back_where_they_were_asked_for(tmp_path: Path):
    loss = lambda params, x: (jnp.sin(x) @ params["w"]).sum()
    rows = spec("f32[b, 3]")
    with_gradient = load(save(tmp_path / "f", loss, W_SPEC, rows, vjp_order=1))
    without = load(save(tmp_path / "g", loss, W_SPEC, rows))

    for gradient in (jax.grad(with_gradient), jax.jit(jax.grad(with_gradient))):
        np.testing.assert_allclose(
            gradient(W, X)["w"], jax.grad(loss)(W, X)["w"], rtol=1e-5
        )
    with pytest.raises(ValueError, match="VJP"):
        jax.grad(without)(W, X)


def test_several_platforms(tmp_path: Path):
    path = save(
        tmp_path / "f", jnp.sin, spec("f32[n]"), platforms=["tpu", "cpu", "cuda"]
    )

    assert load(path)(np.zeros(2, np.float32)).tolist() == [0.0, 0.0]


def test_what_is_exported_already_can_be_signed(tmp_path: Path):
    f = load(save(tmp_path / "f", exported(lambda x: x * 2)))

    assert f(np.ones(4, np.float32)).tolist() == [2.0] * 4
    with pytest.raises(ValueError, match="no specs"):
        save(tmp_path / "g", exported(), spec("f32[4]"))


class Pair(collections.namedtuple("Pair", "a b")):
    __slots__ = ()


def test_registered_classes_come_back(tmp_path: Path):
    export.register_namedtuple_serialization(Pair, serialized_name="tests.Pair")
    four = jax.ShapeDtypeStruct((4,), F32)
    swap = lambda pair: Pair(pair.b, pair.a)
    f = load(save(tmp_path / "f", swap, Pair(four, four)))
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)

    got = f(Pair(zeros, ones))

    assert type(got) is Pair
    assert got.a.tolist() == [1.0] * 4


def test_it_is_compiled_where_it_can_be_killed(tmp_path: Path):
    f = load(save(tmp_path / "f", lambda x: jnp.cos(x) * 3, spec("f32[5]")))
    before = safejax.compile_status()["outcomes"]["ok"]
    f(np.ones(5, np.float32))

    assert safejax.compile_status()["outcomes"]["ok"] == before + 1


def test_its_programs_are_counted_and_capped(tmp_path: Path):
    path = save(tmp_path / "f", jnp.tan, spec("f32[n]"))
    f = load(path, limits=safejax.Limits(max_compiles=2))
    f(np.ones(1, np.float32))
    f(np.ones(2, np.float32))

    with pytest.raises(safejax.CompileLimitError):
        f(np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("saved", "wanted", "field"),
    [
        ({"context": "a"}, {"context": "b"}, "context"),
        ({"step": 3}, {"min_step": 4}, "step"),
        ({"run_id": "a"}, {"expect_run_id": "b"}, "run_id"),
    ],
)
def test_another_program_than_the_one_asked_for_is_refused(
    tmp_path: Path, saved: Any, wanted: Any, field: str
):
    path = save(tmp_path / "f", exported(), **saved)

    with pytest.raises(safejax.RollbackError, match="the program") as caught:
        load(path, **wanted)
    assert caught.value.details["field"] == field


def test_an_expired_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path / "f", exported(), expires_in_s=60.0)
    late = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: late)

    with pytest.raises(safejax.RollbackError, match="expired"):
        load(path)


@pytest.mark.parametrize(
    "open_spec", ["f32[_]", "f32[...]", "f32|bf16[3]", "[3]", "f32"]
)
def test_a_spec_that_leaves_the_type_open_is_refused(tmp_path: Path, open_spec: str):
    with pytest.raises(ValueError, match="one dtype"):
        save(tmp_path / "f", jnp.sin, spec(open_spec))


def test_a_contract_that_can_not_be_written_down_is_refused(tmp_path: Path):
    fun = safejax.safe_jit(lambda *xs: xs[0], contract={"xs": (spec("f32[3]"),)})

    with pytest.raises(safejax.FormatError) as caught:
        save(tmp_path / "f", fun, spec("f32[3]"))
    assert caught.value.code == "SJ507"


def test_a_ring_that_only_verifies_writes_nothing(tmp_path: Path):
    ring = safejax.KeyRing(None, verify=[RING.primary])
    with pytest.raises(safejax.SigningKeyError):
        safejax.signed_export(tmp_path / "f", exported(), key=ring)

    assert not (tmp_path / "f").exists()


def test_an_existing_file_can_be_kept(tmp_path: Path):
    path = save(tmp_path / "f", exported())

    with pytest.raises(safejax.StorageError):
        save(path, exported(), overwrite=False)


def test_without_flatbuffers_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = save(tmp_path / "f", exported())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    for attempt in (lambda: load(path), lambda: save(path, exported())):
        with pytest.raises(safejax.FormatError) as caught:
            attempt()
        assert "flatbuffers" in caught.value.hint


def test_the_description_is_signed_and_plain(tmp_path: Path):
    path = save(tmp_path / "f", affine, W_SPEC, spec("f32[b, 3]"), vjp_order=0)
    found = json.loads(
        safejax.signing.verify_file(path, key=RING, kind="program").fields["program"]
    )

    assert found["function"] == "affine"
    assert found["inputs"] == [
        ["[0][0]['w']", "f32[3, 4]"],
        ["[0][1]", "f32[b, 3]"],
    ]
    assert found["parameters"] == ["params", "x"]
    assert found["jax"] == jax.__version__
