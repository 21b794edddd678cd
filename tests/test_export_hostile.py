"""Programs that a key holder signed and that attack whoever loads them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import flatbuffers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exporting import (
    F32,
    RING,
    TERMS,
    X,
    artifact,
    bytecode,
    exported,
    forged,
    hostile,
    load,
    main_of,
    mutated,
    tree,
    tree_bomb,
    with_module,
)
from jax import export
from jax._src.export import serialization_generated as generated

import safejax
from safejax.compile import _inquiry
from safejax.export import _flat, _load
from safejax.export._flat import read_program

LIMITS = safejax.Limits.serving(compile_memory_bytes=1 << 30)


def refused(path: Path, **options: Any) -> Any:
    with pytest.raises(safejax.SafeJaxError) as caught:
        load(path, **{"limits": LIMITS, **options})
    return caught.value


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch):
    """JAX's reader must not see the bytes."""

    def fail(_: Any) -> Any:
        raise AssertionError("jax.export.deserialize was called")

    monkeypatch.setattr(export, "deserialize", fail)


FOUR = "tensor<4xf32>"
CALL = """
  %y = stablehlo.custom_call @{}(%x) {{api_version = 2 : i32}}
    : (tensor<4xf32>) -> tensor<4xf32>
  return %y : tensor<4xf32>
"""


@pytest.mark.usefixtures("untouched")
class TestModules:
    def test_custom_call_of_an_unknown_target(self, tmp_path: Path):
        error = refused(forged(tmp_path / "f", hostile(main_of(CALL.format("evil")))))

        assert (error.code, error.details["targets"]) == ("SJ402", ["evil"])

    def test_call_back_into_python(self, tmp_path: Path):
        fun = lambda x: jax.pure_callback(lambda a: a, x, x)
        traced = jax.jit(fun).trace(X)
        module = str(traced.lower().compiler_ir("stablehlo"))
        text = "\n".join(line for line in module.splitlines() if "#loc" not in line)
        error = refused(forged(tmp_path / "f", hostile(text)))

        assert error.details["targets"] == ["xla_ffi_python_cpu_callback"]

    def test_custom_call_in_a_function_that_nobody_calls(self, tmp_path: Path):
        text = main_of("return %x : tensor<4xf32>").replace(
            "module @m {",
            "module @m { func.func private @g(%x: tensor<4xf32>) -> tensor<4xf32> {"
            + CALL.format("hidden")
            + "}",
        )
        error = refused(forged(tmp_path / "f", hostile(text)))

        assert error.details["targets"] == ["hidden"]

    def test_more_targets_than_are_listed(self, tmp_path: Path):
        lines = [
            f"%y{i + 1} = stablehlo.custom_call @t{i}(%y{i}) : "
            "(tensor<4xf32>) -> tensor<4xf32>"
            for i in range(300)
        ]
        text = main_of("\n".join([*lines, "return %y300 : tensor<4xf32>"]))
        text = text.replace("%y0", "%x")
        admitted = frozenset(f"t{i}" for i in range(299))
        policy = safejax.Policy.strict().replace(allow_custom_calls=admitted)
        error = refused(forged(tmp_path / "f", hostile(text)), policy=policy)

        assert error.code == "SJ402"

    @pytest.mark.parametrize("name", ["infeed", "outfeed"])
    def test_transfers(self, tmp_path: Path, name: str):
        body = {
            "infeed": "%t = stablehlo.create_token : !stablehlo.token\n"
            '%y:2 = "stablehlo.infeed"(%t) : (!stablehlo.token) -> '
            "(tensor<4xf32>, !stablehlo.token)\nreturn %y#0 : tensor<4xf32>",
            "outfeed": "%t = stablehlo.create_token : !stablehlo.token\n"
            '%y = "stablehlo.outfeed"(%x, %t) : '
            "(tensor<4xf32>, !stablehlo.token) -> !stablehlo.token\n"
            "return %x : tensor<4xf32>",
        }[name]
        error = refused(forged(tmp_path / "f", hostile(main_of(body))))

        assert error.details["targets"] == [f"stablehlo.{name}"]

    def test_operations_of_another_dialect(self, tmp_path: Path):
        body = (
            "%c = arith.constant dense<1.0> : tensor<4xf32>\n"
            "%y = arith.addf %x, %c : tensor<4xf32>\nreturn %y : tensor<4xf32>"
        )
        module = bytecode(main_of(body))
        error = refused(forged(tmp_path / "f", with_module(exported(), module)))

        # Where MLIR imports a module for each dialect, a worker can't read them.
        assert error.code in ("SJ401", "SJ503")

    def test_a_billion_constants_in_a_splat(self, tmp_path: Path):
        body = (
            "%c = stablehlo.constant dense<1.0> : tensor<1000000000xf32>\n"
            f"%y = stablehlo.slice %c [0:4] : (tensor<1000000000xf32>) -> {FOUR}\n"
            f"return %y : {FOUR}"
        )
        path = forged(tmp_path / "f", hostile(main_of(body)))
        error = refused(path)

        assert path.stat().st_size < 10_000
        assert (error.code, error.details["got"]) == ("SJ405", 4_000_000_000)

    def test_a_value_of_terabytes(self, tmp_path: Path):
        body = (
            "%c = stablehlo.iota dim = 0 : tensor<1000000000000xf32>\n"
            f"%y = stablehlo.slice %c [0:4] : (tensor<1000000000000xf32>) -> {FOUR}\n"
            f"return %y : {FOUR}"
        )
        error = refused(forged(tmp_path / "f", hostile(main_of(body))))

        assert (error.code, error.details["got"]) == ("SJ407", 4 * 10**12)

    def test_sizes_that_wrap_around(self, tmp_path: Path):
        body = (
            "%c = stablehlo.iota dim = 0 : tensor<4611686018427387905x4xf32>\n"
            "%s = stablehlo.slice %c [0:1, 0:4] : "
            "(tensor<4611686018427387905x4xf32>) -> tensor<1x4xf32>\n"
            f"%y = stablehlo.reshape %s : (tensor<1x4xf32>) -> {FOUR}\n"
            f"return %y : {FOUR}"
        )
        error = refused(forged(tmp_path / "f", hostile(main_of(body))))

        assert error.code in ("SJ407", "SJ503")

    def test_calls_that_double_fifty_times(self, tmp_path: Path):
        lines = [
            f"func.func private @f{i}(%x: tensor<4xf32>) -> tensor<4xf32> {{\n"
            f"%a = call @f{i - 1}(%x) : (tensor<4xf32>) -> tensor<4xf32>\n"
            f"%b = call @f{i - 1}(%a) : (tensor<4xf32>) -> tensor<4xf32>\n"
            "return %b : tensor<4xf32> }"
            for i in range(1, 51)
        ]
        start = (
            "func.func private @f0(%x: tensor<4xf32>) -> tensor<4xf32> "
            "{ return %x : tensor<4xf32> }"
        )
        text = main_of(
            "%y = call @f50(%x) : (tensor<4xf32>) -> tensor<4xf32>\n"
            "return %y : tensor<4xf32>"
        ).replace("module @m {", "\n".join(["module @m {", start, *lines]))
        error = refused(forged(tmp_path / "f", hostile(text)))

        assert error.code == "SJ403"
        assert error.details["got"] > 2**50

    def test_a_function_that_calls_itself(self, tmp_path: Path):
        text = main_of(
            "%y = call @f(%x) : (tensor<4xf32>) -> tensor<4xf32>\n"
            "return %y : tensor<4xf32>"
        ).replace(
            "module @m {",
            "module @m { func.func private @f(%x: tensor<4xf32>) -> tensor<4xf32> {"
            "%y = call @f(%x) : (tensor<4xf32>) -> tensor<4xf32>\n"
            "return %y : tensor<4xf32> }",
        )
        error = refused(forged(tmp_path / "f", hostile(text)))

        assert "calls itself" in error.message

    def test_more_operations_than_admitted(self, tmp_path: Path):
        lines = ["%v0 = stablehlo.add %x, %x : tensor<4xf32>"]
        lines += [
            f"%v{i} = stablehlo.add %v{i - 1}, %x : tensor<4xf32>"
            for i in range(1, 1000)
        ]
        text = main_of("\n".join([*lines, "return %v999 : tensor<4xf32>"]))
        path = forged(tmp_path / "f", hostile(text))
        for most in (500, 1001):
            tight = safejax.Limits.serving(max_equations=most)
            assert refused(path, limits=tight).code == "SJ403"

    def test_loops_inside_loops(self, tmp_path: Path):
        fun = jnp.sin
        for _ in range(5):
            inner = fun
            fun = lambda x, inner=inner: jax.lax.fori_loop(
                0, 2, lambda _, y: inner(y), x
            )
        payload = bytes(exported(fun).serialize())

        assert refused(forged(tmp_path / "f", payload)).code == "SJ409"

    def test_regions_nested_a_thousand_deep(self, tmp_path: Path):
        body = "stablehlo.return %x : tensor<4xf32>"
        for i in range(1000):
            body = (
                f'%r{i} = "stablehlo.case"(%i) ({{ {body} }}) : '
                f"(tensor<i32>) -> tensor<4xf32>\n"
                f"stablehlo.return %r{i} : tensor<4xf32>"
            )
        head = "%i = stablehlo.constant dense<0> : tensor<i32>\n"
        text = main_of(head + body).replace("stablehlo.return %r999", "return %r999")
        error = refused(forged(tmp_path / "f", hostile(text)))

        assert error.code == "SJ503"

    def test_a_module_without_a_function_to_call(self, tmp_path: Path):
        text = main_of("return %x : tensor<4xf32>").replace("@main", "@other")
        error = refused(forged(tmp_path / "f", hostile(text)))

        assert "no main function" in error.message

    @pytest.mark.parametrize("kind", ["tensor<5xf32>", "tensor<4xi32>", "tensor<f32>"])
    def test_a_module_with_other_types_than_the_program(
        self, tmp_path: Path, kind: str
    ):
        text = main_of(f"return %x : {kind}", kind)
        error = refused(forged(tmp_path / "f", hostile(text)))

        assert "something else" in error.message

    def test_text_in_the_place_of_bytecode(self, tmp_path: Path):
        text = main_of("return %x : tensor<4xf32>").encode()
        error = refused(forged(tmp_path / "f", with_module(exported(), text)))

        assert error.code == "SJ503"

    def test_the_module_of_a_derivative(self, tmp_path: Path):
        one = exported()
        evil = artifact(
            main_of(CALL.format("evil")).replace(
                "(%x: tensor<4xf32>)", "(%x: tensor<4xf32>, %ct: tensor<4xf32>)"
            )
        )
        bad = dataclasses.replace(one.vjp(), mlir_module_serialized=evil)
        payload = bytes(
            dataclasses.replace(one, _get_vjp=lambda _: bad).serialize(vjp_order=1)
        )
        error = refused(forged(tmp_path / "f", payload))

        assert (error.code, error.details["targets"]) == ("SJ402", ["evil"])


def test_a_policy_admits_a_target_by_name(tmp_path: Path):
    path = forged(tmp_path / "f", hostile(main_of(CALL.format("mine"))))
    policy = safejax.Policy.strict().replace(allow_custom_calls={"mine"})

    assert callable(load(path, policy=policy))


# --- the bytes around the module --------------------------------------------------


@pytest.mark.usefixtures("untouched")
def test_a_tree_of_a_billion_leaves_is_refused(tmp_path: Path):
    payload = tree_bomb(30)
    error = refused(forged(tmp_path / "f", payload))

    assert len(payload) < 10_000
    assert "stands for more" in error.message


def test_small_shared_trees_are_read(tmp_path: Path):
    assert read_program(tree_bomb(2))["name"] == "f"


def test_a_tree_that_is_deeper_than_the_stack_is_refused():
    builder = flatbuffers.Builder(1024)
    node = tree(builder, [], 0)
    for _ in range(200):
        node = tree(builder, [node], 2)
    generated.ExportedStart(builder)
    generated.ExportedAddInTree(builder, node)
    builder.Finish(generated.ExportedEnd(builder))

    with pytest.raises(safejax.FormatError, match="nested"):
        read_program(bytes(builder.Output()))


@pytest.mark.parametrize("data", [b"", b"\0", bytes(100), b"\xff" * 100])
def test_what_is_no_flatbuffer_is_refused(data: bytes):
    with pytest.raises(safejax.FormatError):
        _load.facts_of(read_program(data))


def test_a_field_of_a_newer_jax_is_refused():
    data = bytearray(exported().serialize())
    known = read_program(bytes(data))
    assert known["name"] == "<lambda>"
    short = {**_flat.TABLES, "Program": _flat.TABLES["Program"][:20]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_flat, "TABLES", short)
        with pytest.raises(safejax.FormatError, match="does not know"):
            read_program(bytes(data))


@pytest.mark.parametrize(
    "axis",
    ["9^9^9", "2147483648", "-1", "b if b else c", "x" * 201, "__import__('os')", ""],
)
def test_a_dimension_that_is_none_is_refused(tmp_path: Path, axis: str):
    one = exported()
    good = bytes(one.serialize())
    program = read_program(good)
    program["arrays"][0]["shape"] = [axis]

    with pytest.raises(safejax.FormatError):
        _load.facts_of(program)


# --- the description around the bytes ---------------------------------------------


GOOD = bytes(exported(lambda x: x * 2).serialize())


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "changes",
    [
        {"function": "other"},
        {"platforms": ["cpu", "tpu"]},
        {"vjp_order": 1},
        {"inputs": []},
        {"devices": 2},
        {"calling_convention": 9},
    ],
)
def test_a_description_of_another_program_is_refused(
    tmp_path: Path, changes: dict[str, Any]
):
    error = refused(forged(tmp_path / "f", GOOD, **changes))

    assert error.code == "SJ503"


@pytest.mark.parametrize(
    "names",
    [
        ["x): import os; os._exit(1)\ndef f(x"],
        ["_sj_call"],
        ["_sj_0"],
        ["class"],
        ["None"],
        ["x", "y"],
        [],
        [1],
        "x",
        ["\u2119"],
        ["x" * 101],
    ],
)
def test_a_parameter_whose_name_is_code_is_refused(tmp_path: Path, names: Any):
    error = refused(forged(tmp_path / "f", GOOD, parameters=names))

    assert error.code == "SJ503"
    assert "parameters" in error.message


@pytest.mark.parametrize(
    "terms",
    [
        None,
        {},
        {**TERMS, "trees": {"other": None}},
        {**TERMS, "trees": {"arg0": {"spec": {"text": "f32["}}}},
        {**TERMS, "trees": {"arg0": {"spec": {"text": "f32[4]", "sharding": 1}}}},
        {**TERMS, "trees": {"arg0": {"set": []}}},
        {**TERMS, "trees": {"arg0": 5}},
        {**TERMS, "constraints": ["9^9^9^9 <= b"]},
        {**TERMS, "constraints": ["b <= 3"]},
        {**TERMS, "constraints": "b<=3"},
        {**TERMS, "on_dtype": "anything"},
    ],
)
def test_a_malformed_contract_is_refused(tmp_path: Path, terms: Any):
    assert refused(forged(tmp_path / "f", GOOD, contract=terms)).code == "SJ503"


def test_a_contract_nested_for_ever_is_refused(tmp_path: Path):
    tree: Any = {"spec": {"text": "f32[4]"}}
    for _ in range(60):
        tree = {"list": [tree]}

    terms = {**TERMS, "trees": {"arg0": tree}}
    assert refused(forged(tmp_path / "f", GOOD, contract=terms)).code == "SJ503"


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("version", [1, 8, 99, 65535])
def test_a_calling_convention_out_of_the_window_is_refused(
    tmp_path: Path, version: int
):
    one = dataclasses.replace(exported(), calling_convention_version=version)
    error = refused(forged(tmp_path / "f", bytes(one.serialize()), jax="0.4.1"))

    assert error.code == "SJ511"
    assert "0.4.1" in error.message
    assert error.details["got"] == version


@pytest.mark.usefixtures("untouched")
def test_a_program_for_another_platform_is_refused(tmp_path: Path):
    payload = bytes(exported(platforms=["tpu"]).serialize())
    error = refused(forged(tmp_path / "f", payload))

    assert (error.code, error.details["expected"]) == ("SJ511", "cpu")


def test_a_class_that_nobody_registered_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(_: Any) -> Any:
        raise ValueError("unregistered type")

    path = forged(tmp_path / "f", GOOD)
    monkeypatch.setattr(export, "deserialize", fail)

    assert "ValueError" in refused(path).message


# --- the file ---------------------------------------------------------------------


def test_every_changed_byte_is_noticed(tmp_path: Path):
    path = forged(tmp_path / "f", GOOD)
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        error = refused(path)
        assert error.code in ("SJ501", "SJ503")


def test_other_kinds_and_keys_are_refused(tmp_path: Path):
    safejax.signed_dump(tmp_path / "data", [], key=RING)
    other = safejax.KeyRing.generate()

    assert refused(tmp_path / "data").code == "SJ501"
    with pytest.raises(safejax.SignatureError):
        safejax.signed_import(forged(tmp_path / "f", GOOD), key=other)


def test_a_file_larger_than_admitted_is_refused(tmp_path: Path):
    small = safejax.LoadLimits(max_data_bytes=100)
    error = refused(forged(tmp_path / "f", GOOD), load_limits=small)

    assert "max_data_bytes" in error.message


# --- the worker -------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b"[" * 10_000,
        b'{"operations": true}',
    ],
)
def test_a_worker_that_answers_rubbish_is_not_believed(answer: bytes):
    with pytest.raises(safejax.FormatError, match="rubbish"):
        _inquiry._parsed(answer)


def test_without_workers_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_inquiry, "available", lambda: False)

    assert refused(forged(tmp_path / "f", GOOD)).code == "SJ230"


# --- the corpus -------------------------------------------------------------------


def corpus() -> list[Any]:
    (b,) = export.symbolic_shape("b")
    w = {"w": jax.ShapeDtypeStruct((3, 4), F32)}

    def scan(p: Any, x: Any) -> Any:
        body = lambda c, _: (jnp.linalg.qr(c[:2, :2])[0].sum() + c, None)
        return jax.lax.scan(body, jnp.sin(x) @ p["w"], length=3)[0]

    def rows(p: Any, x: Any) -> Any:
        return jnp.sin(x) @ p["w"] + jnp.arange(x.shape[0], dtype=F32)[:, None]

    return [
        exported(scan, w, jax.ShapeDtypeStruct((8, 3), F32)),
        exported(rows, w, jax.ShapeDtypeStruct((b, 3), F32)),
    ]


def attempt(path: Path, programs: list[Any], seed: int) -> str:
    """What becomes of one mutation: the error's code, or that it was called."""
    one = programs[seed % 2]
    if seed % 4 < 2:
        payload = mutated(bytes(one.serialize()), seed)
    else:
        payload = with_module(one, mutated(one.mlir_module_serialized, seed))
    limits = safejax.Limits.serving(compile_timeout_s=3.0, compile_memory_bytes=1 << 30)
    try:
        f = load(forged(path, payload), limits=limits)
        arguments = {"w": np.ones((3, 4), np.float32)}, np.ones((8, 3), np.float32)
        jax.block_until_ready(f(*arguments))
    except safejax.SafeJaxError as error:
        return error.code
    except (ValueError, TypeError, RuntimeError) as error:
        # Of JAX or XLA, once the program was admitted and called.
        return type(error).__name__
    return "called"


def test_mutations_signed_with_the_right_key_harm_nobody(tmp_path: Path):
    programs = corpus()
    found = [attempt(tmp_path / "f", programs, seed) for seed in range(32)]

    assert found.count("SJ503") > 16
    assert "called" in found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_mutations_harm_nobody(tmp_path: Path):
    programs = corpus()
    found = [attempt(tmp_path / "f", programs, seed) for seed in range(60, 2260)]

    assert found.count("SJ503") > 1500
    assert "called" in found
