"""Primitives by allow-list: what leaves the program is found wherever it stands."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import io_callback, sparse
from jax.experimental import pallas as pl
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import mlir
from reviewing import STRICT, judge, refusal

import safejax
from safejax.review import _judge, _report

X = np.ones((4,), np.float32)
MESH = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
ROW = jax.P("i")


def call_back(x: Any) -> Any:
    return jax.pure_callback(lambda a: a, x, x, vmap_method="sequential")


@jax.custom_vjp
def with_rules(x: Any) -> Any:
    return x * 2


with_rules.defvjp(lambda x: (call_back(x), x), lambda _, g: (call_back(g),))


@jax.custom_batching.custom_vmap
def batched(x: Any) -> Any:
    return x + 1


batched.def_vmap(lambda _size, mapped, x: (call_back(x), mapped[0]))


@jax.custom_batching.custom_vmap
def unbatched(x: Any) -> Any:
    return call_back(x)


unbatched.def_vmap(lambda _size, mapped, x: (x, mapped[0]))


def in_jits(depth: int) -> Callable[[Any], Any]:
    fun: Callable[[Any], Any] = call_back
    for _ in range(depth):
        fun = jax.jit(functools.partial(lambda f, x: f(x) + 1, fun))
    return fun


HIDDEN: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "at the top": (call_back, X),
    "in 5 nested jits": (in_jits(5), X),
    "in the rules of a custom_vjp": (jax.grad(lambda x: with_rules(x).sum()), X),
    "in the condition of a while": (
        lambda x: jax.lax.while_loop(
            lambda c: call_back(c).sum() < 3, lambda c: c + 1, x
        ),
        X,
    ),
    "in the body of a while": (
        lambda x: jax.lax.while_loop(lambda c: c.sum() < 3, call_back, x),
        X,
    ),
    "in a fori_loop": (
        lambda x: jax.lax.fori_loop(0, 3, lambda _, c: call_back(c), x),
        X,
    ),
    "in the last branch of a switch": (
        lambda x: jax.lax.switch(
            x.sum().astype(int), [lambda a: a, lambda a: -a, call_back], x
        ),
        X,
    ),
    "in a cond in a scan": (
        lambda x: jax.lax.scan(
            lambda c, _: (jax.lax.cond(c.sum() > 0, call_back, lambda a: a, c), None),
            x,
            length=3,
        ),
        X,
    ),
    "in an associative scan": (
        lambda x: jax.lax.associative_scan(lambda a, b: call_back(a) + b, x),
        X,
    ),
    "in a checkpoint": (jax.checkpoint(call_back), X),
    "in a vmap": (jax.vmap(call_back), np.ones((3, 4), np.float32)),
    "in a shard_map": (
        jax.shard_map(call_back, mesh=MESH, in_specs=ROW, out_specs=ROW),
        X,
    ),
    "in a custom_vmap": (unbatched, X),
    "in the rule of a custom_vmap": (jax.vmap(batched), np.ones((3, 4), np.float32)),
    "in a linear solve": (
        lambda x: jax.lax.custom_linear_solve(
            lambda v: v * 2, x, lambda _, b: call_back(b)
        ),
        X,
    ),
    "in the computation of a reduce": (
        lambda x: jax.lax.reduce(x, 0.0, lambda a, b: call_back(a) + b, (0,)),
        X,
    ),
}


@pytest.mark.parametrize("where", HIDDEN)
def test_callback_is_found(where: str):
    fun, x = HIDDEN[where]
    error = refusal(fun, x, policies=STRICT)

    assert error.code == "SJ401"
    assert {item["primitive"] for item in error.details["items"]} == {"pure_callback"}
    assert "test_review_primitives.py:" in str(error)
    assert "allow_primitives={'pure_callback'}" in error.hint


def test_callback_at_depth_5_has_no_entry_in_the_effects_and_is_found():
    traced = jax.jit(in_jits(5)).trace(X)
    error = refusal(traced, policies=STRICT)

    assert not traced.jaxpr.effects
    assert error.details["items"][0]["depth"] == 5
    assert "jit > jit > jit > jit > jit > pure_callback" in str(error)


def test_rule_that_is_not_used_is_not_part_of_the_program():
    judge(with_rules, X, policies=STRICT)
    judge(batched, X, policies=STRICT)


def pallas(x: Any) -> Any:
    def kernel(source: Any, result: Any) -> None:
        result[...] = source[...] * 2

    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=out, interpret=True)(x)


OTHERS: dict[str, Callable[[Any], Any]] = {
    "io_callback": lambda x: io_callback(lambda a: a, x, x),
    "debug_print": lambda x: jax.debug.print("{}", x),
    "debug_callback": lambda x: jax.debug.callback(lambda _: None, x),
    "inspect_sharding": lambda x: jax.debug.inspect_array_sharding(x, callback=print),
    "ffi_call": lambda x: jax.ffi.ffi_call("any", jax.ShapeDtypeStruct((4,), x.dtype))(
        x
    ),
    "call_exported": export.export(jax.jit(jnp.sin))(X).call,
    "pallas_call": pallas,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_jax_has_not_traced_is_refused(name: str):
    error = refusal(OTHERS[name], X, policies=STRICT)

    assert [item["primitive"] for item in error.details["items"]] == [name]


def lookalike(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda x, **_: x)
    lower = mlir.lower_fun(call_back, multiple_results=False)
    mlir.register_lowering(primitive, lower)
    return primitive


def test_primitive_with_the_name_of_one_of_jax_is_refused():
    fake = lookalike("sin")
    error = refusal(fake.bind, X, policies=STRICT)

    assert "sin (not JAX's own)" in str(error)


def test_unknown_primitive_is_refused_until_a_policy_names_it():
    mine = lookalike("mine")
    named = safejax.Policy.strict().replace(allow_primitives={"mine"})

    assert "mine" in str(refusal(mine.bind, X, policies=STRICT))
    judge(mine.bind, X, policies=(named,))


def test_every_policy_of_a_stack_must_admit():
    named = safejax.Policy.strict().replace(allow_primitives={"pure_callback"})

    judge(call_back, X, policies=(named, named))
    refusal(call_back, X, policies=(named, *STRICT))
    refusal(call_back, X, policies=(*STRICT, named))


def test_without_a_policy_primitives_are_not_judged():
    judge(call_back, X)


def test_policy_that_logs_admits_and_tells(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "safejax.guard"):
        judge(call_back, X, policies=(safejax.Policy.permissive(),))

    assert "pure_callback" in caplog.text


def foreign_keys() -> Any:
    def bits(_key: Any, _width: int, shape: tuple[int, ...]) -> Any:
        out = jax.ShapeDtypeStruct(shape, jnp.uint32)
        return jax.pure_callback(lambda: np.zeros(shape, np.uint32), out)

    return jax.extend.random.define_prng_impl(
        key_shape=(2,),
        seed=lambda _: jnp.zeros((2,), jnp.uint32),
        split=lambda _, shape: jnp.zeros((*shape, 2), jnp.uint32),
        random_bits=bits,
        fold_in=lambda key, _: key,
    )


def test_key_type_whose_functions_are_traced_later_is_refused():
    impl = foreign_keys()
    key = jax.random.wrap_key_data(jnp.zeros((2,), jnp.uint32), impl=impl)
    programs = (
        (lambda x: jax.random.bits(jax.random.key(0, impl=impl), x.shape), X),
        (lambda k: jax.random.bits(k, (4,)), key),
        (lambda x: jax.random.bits(key, x.shape), X),
    )
    for fun, argument in programs:
        error = refusal(fun, argument, policies=STRICT)

        assert "random key type" in str(error)


def noted(x: Any) -> Any:
    with set_xla_metadata(note="the launch code is 4711"):
        return x + 1


BOX = jax.new_ref(jnp.zeros(()))


def written(x: Any) -> Any:
    BOX[...] = x.sum()
    return x


class Pair:
    """Put together by code of its own, when the program is lowered."""


jax.tree_util.register_pytree_node(
    Pair, lambda _: ((), "text"), lambda _, __: {"secret": np.arange(100)}
)
composite = jax.lax.composite(lambda x, **_: x + 1, "mine.sum")

BESIDE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "xla_metadata": (noted, "add with xla_metadata (test_review_primitives.py:"),
    "captured reference": (written, "captured reference"),
    "composite attribute": (
        lambda x: composite(x, pair=Pair()),
        "composite with composite attribute (test_review_primitives.py:",
    ),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_way_beside_the_equations_is_refused_until_a_policy_names_it(
    name: str, wrap: Any
):
    fun, shown = BESIDE[name]
    error = refusal(wrap(fun), X, policies=STRICT)
    named = safejax.Policy.strict().replace(allow_primitives={name})

    assert error.code == "SJ401"
    assert [item["primitive"] for item in error.details["items"]] == [name]
    assert shown in str(error)
    assert "4711" not in str(error)
    judge(wrap(fun), X, policies=(named,))


def test_metadata_in_a_loop_is_found():
    def loop(x: Any) -> Any:
        return jax.lax.scan(lambda c, _: (noted(c), None), x, length=3)[0]

    assert "scan > add with xla_metadata" in str(refusal(loop, X, policies=STRICT))


def test_reference_that_is_passed_or_made_inside_is_admitted():
    def fills(ref: Any, x: Any) -> Any:
        ref[...] = x
        return state(x)

    judge(fills, jax.new_ref(jnp.zeros(4)), X, policies=STRICT)


def test_attributes_in_containers_of_python_are_admitted():
    def fun(x: Any) -> Any:
        return composite(x, axes=(0, [1]), more={"scale": 2.0, "none": None})

    judge(fun, X, policies=STRICT)


def all_of_linalg(x: Any) -> Any:
    parts = (jnp.linalg.svd, jnp.linalg.eigh, jnp.linalg.qr, jnp.linalg.eig)
    return [part(x) for part in parts] + [
        jnp.linalg.inv(x),
        jnp.linalg.cholesky(x),
        jax.scipy.linalg.schur(x),
        jax.scipy.linalg.expm(x),
        jnp.linalg.det(x),
    ]


def all_of_random(x: Any) -> Any:
    key = jax.random.key(0)
    return (
        jax.random.gamma(key, 1.0, (3,)),
        jax.random.permutation(key, x),
        jax.random.poisson(key, 2.0, (3,)),
        [
            jax.random.normal(jax.random.key(0, impl=impl))
            for impl in ("threefry2x32", "rbg", "unsafe_rbg")
        ],
    )


def state(x: Any) -> Any:
    ref = jax.new_ref(x)
    ref[0] = 3.0
    return ref[...]


def root(x: Any) -> Any:
    return jax.lax.custom_root(
        lambda v: v * v - x, x, lambda f, x0: f(x0), lambda g, y: y / g(1.0)
    )


OWN: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "linear algebra": (all_of_linalg, np.eye(4, dtype=np.float32)),
    "random numbers": (all_of_random, X),
    "sparse": (lambda x: sparse.BCOO.fromdense(x, nse=4) @ x, np.eye(4)),
    "state": (state, X),
    "custom_root": (root, np.float32(2)),
    "selection": (
        lambda x: (
            jax.lax.top_k(x, 2),
            jax.lax.approx_max_k(x, 2),
            jnp.median(x),
            jnp.unique(x, size=2),
            jnp.convolve(x, x),
        ),
        X,
    ),
    "FFT": (lambda x: jnp.fft.irfft(jnp.fft.rfft(x)), X),
    "attention": (
        lambda x: jax.nn.dot_product_attention(x, x, x),
        np.ones((1, 4, 2, 8), np.float32),
    ),
    "collectives": (
        jax.shard_map(
            lambda x: jax.lax.psum(x, "i"), mesh=MESH, in_specs=ROW, out_specs=jax.P()
        ),
        X,
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_what_jax_defines_is_admitted(name: str):
    fun, x = OWN[name]
    judge(fun, x, policies=STRICT)


def chain_of(depth: int, innermost: Any) -> Any:
    """A program nested that deep; JAX itself can't trace one in 0.12."""
    outer = jax.jit(jax.jit(jnp.sin)).trace(X).jaxpr
    inner = innermost
    (equation,) = outer.jaxpr.eqns
    for _ in range(depth):
        called = equation.replace(params={**equation.params, "jaxpr": inner})
        inner = outer.replace(jaxpr=outer.jaxpr.replace(eqns=[called]))
    return inner


def test_program_nested_deeper_than_the_stack_of_python_is_judged():
    program = chain_of(5000, jax.jit(call_back).trace(X).jaxpr)
    report = _report.report_of(program, function="f")
    with pytest.raises(safejax.ProgramRejectedError) as caught:
        _judge.judge(
            program, function="f", limits=safejax.Limits.serving(), policies=STRICT
        )

    assert (report.depth, report.equations) == (5001, 5001)
    assert "jit > jit > jit > (4994 more) > jit > jit > jit > pure_callback" in str(
        caught.value
    )


TAKEN = """
    broadcast_in_dim cholesky cond conv_general_dilated dot_general fft jit reduce_sum
    reshape scan sort while
"""


@pytest.mark.parametrize("name", TAKEN.split())
def test_lookalike_with_parameters_of_its_own_breaks_nothing(name: str):
    fake = lookalike(name)
    limits = safejax.Limits.serving()
    traced = jax.jit(lambda x: fake.bind(x, jaxpr=jax.make_jaxpr(jnp.sin)(x))).trace(X)
    report = _report.report_of(traced, function="f")

    assert [item.name for item in report.refused] == [name]
    assert refusal(traced, limits=limits, policies=STRICT).code == "SJ401"
