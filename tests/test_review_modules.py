"""The lowered program: custom calls by allow-list, whatever the primitive was."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir
from reviewing import STRICT

import safejax
from safejax.review import _modules

X = np.ones((4, 4), np.float32)


def lowered(fun: Any, *args: Any) -> Any:
    return jax.jit(fun).lower(*args).compiler_ir("stablehlo")


def judge(fun: Any, *args: Any, policies: Any = STRICT) -> None:
    _modules.judge_module(lowered(fun, *args), "f", policies)


def refusal(fun: Any, *args: Any, policies: Any = STRICT) -> Any:
    with pytest.raises(safejax.ProgramRejectedError) as caught:
        judge(fun, *args, policies=policies)
    return caught.value


def call_back(x: Any) -> Any:
    return jax.pure_callback(lambda a: a, x, x)


def test_custom_call_into_python_is_refused_with_its_target():
    error = refusal(call_back, X)

    assert error.code == "SJ402"
    assert error.details["targets"] == ["xla_ffi_python_cpu_callback"]
    assert "allow_custom_calls" in error.hint


def test_custom_call_in_a_nested_region_is_found():
    def nested(x: Any) -> Any:
        body = lambda c, _: (jax.lax.cond(c.sum() > 0, call_back, lambda a: a, c), None)
        return jax.lax.scan(body, x, length=3)[0]

    assert refusal(nested, X).code == "SJ402"


def test_foreign_function_is_refused():
    def fun(x: Any) -> Any:
        return jax.ffi.ffi_call("any_target", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)

    assert refusal(fun, X).details["targets"] == ["any_target"]


def test_lowering_that_somebody_registered_is_caught_here():
    """The primitive is admitted by name; what it is lowered to is not."""
    primitive = Primitive("harmless")
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, mlir.lower_fun(call_back, multiple_results=False))
    named = safejax.Policy.strict().replace(allow_primitives={"harmless"})

    assert refusal(primitive.bind, X, policies=(named,)).code == "SJ402"


def test_policy_admits_a_target_by_name():
    target = "xla_ffi_python_cpu_callback"
    named = safejax.Policy.strict().replace(allow_custom_calls={target})

    judge(call_back, X, policies=(named,))
    refusal(call_back, X, policies=(named, *STRICT))
    judge(call_back, X, policies=())
    judge(call_back, X, policies=(safejax.Policy.permissive(),))


def kernels(x: Any) -> Any:
    symmetric = x + x.T
    return (
        jnp.linalg.svd(x),
        jnp.linalg.eigh(symmetric),
        jnp.linalg.qr(x),
        jnp.linalg.eig(x),
        jnp.linalg.inv(x),
        jnp.linalg.cholesky(symmetric),
        jax.scipy.linalg.schur(x),
        jax.lax.linalg.hessenberg(x),
        jax.lax.linalg.tridiagonal(symmetric),
        jax.scipy.linalg.qr(x, pivoting=True),
        jax.lax.top_k(x, 2),
        jax.lax.approx_max_k(x, 2),
        jax.random.normal(jax.random.key(0), (3,)),
        jnp.fft.fft(x),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_kernels_of_jax_are_admitted(dtype: Any):
    matrix = X.astype(dtype) + 5 * np.eye(4, dtype=dtype)
    fun = kernels if dtype is np.float32 else lambda x: kernels(x)[:7]
    if dtype is np.complex64:
        fun = lambda x: (
            jnp.linalg.svd(x),
            jnp.linalg.eigh(x),
            jnp.linalg.qr(x),
            jnp.linalg.eig(x),
            jnp.linalg.inv(x),
            jnp.linalg.cholesky(x),
        )

    judge(fun, matrix)


def test_sharding_annotations_are_admitted():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("i"))

    def fun(x: Any) -> Any:
        local = jax.shard_map(
            lambda a: a * 2, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i")
        )
        return jax.lax.with_sharding_constraint(local(x), rows)

    judge(fun, X)


def test_function_with_a_policy_refuses_before_it_compiles():
    lenient = safejax.Policy.strict().replace(
        callbacks="allow", allow_primitives={"pure_callback"}
    )
    fun = safejax.safe_jit(call_back, policy=lenient)
    with pytest.raises(safejax.ProgramRejectedError) as caught:
        fun(X)

    assert caught.value.code == "SJ402"
    assert fun.stats().live == 0
