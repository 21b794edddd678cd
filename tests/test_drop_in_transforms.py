"""safe_jit under, over and beside JAX's transformations shows what jax.jit shows."""

# ruff: noqa: PLW0108  a lambda is a function of its own to jit

from __future__ import annotations

import contextlib
import functools
import logging
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differential import Snippets, assert_same, counting
from jax.experimental import io_callback
from jax.sharding import Mesh, NamedSharding, PartitionSpec

snippets = Snippets()

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("snippet", snippets)
def test_shows_what_jax_jit_shows(snippet):
    observed = assert_same(snippet)

    assert observed.error is None


def _loss(x):
    return (jnp.sin(x) * x).sum()


def _mesh():
    return Mesh(np.array(jax.devices()[:2]), ("d",))


# --- differentiation --------------------------------------------------------------


@snippets
def gradient_outside_and_inside(jit):
    with counting() as misses:
        out = (
            jax.grad(jit(_loss))(X),
            jit(jax.grad(_loss))(X),
            jit(jax.grad(jit(_loss)))(X),
        )
    return out, list(misses)


@snippets
def value_and_gradient_with_auxiliary_output(jit):
    f = jit(lambda p, x: ((p["w"] * x).sum(), {"x": x}))
    return jax.value_and_grad(f, has_aux=True)({"w": X}, X)


@snippets
def forward_and_reverse_products(jit):
    f = jit(jnp.sin)
    out, pull = jax.vjp(f, X)
    return jax.jvp(f, (X,), (X,)), out, pull(X)


@snippets
def linearize_and_transpose(jit):
    f = jit(lambda x: 3.0 * x)
    out, push = jax.linearize(jit(jnp.sin), X)
    return out, push(X), jax.linear_transpose(f, X)(X)


@snippets
def jacobians_and_hessian(jit):
    x = X[0]
    return (
        jax.jacfwd(jit(jnp.sin))(x),
        jax.jacrev(jit(jnp.sin))(x),
        jax.hessian(jit(_loss))(x),
    )


@snippets
def higher_derivatives_of_nested_functions(jit):
    f = jit(lambda x: jit(jnp.sin)(x) ** 3)
    for _ in range(3):
        f = jit(jax.grad(f))
    return f(0.5)


@snippets
def gradient_with_static_and_integer_arguments(jit):
    f = jit(lambda x, n, i: (x**n).sum() + i, static_argnums=1)
    return jax.grad(f)(X, 3, 2)


@snippets
def gradient_by_donating_function(jit):
    x = jnp.asarray(X)
    return jit(jax.grad(_loss), donate_argnums=0)(x), x.is_deleted()


@snippets
def custom_jvp_inside_and_outside(jit):
    @jax.custom_jvp
    def f(x):
        return x**2

    f.defjvp(lambda primals, tangents: (f(*primals), 10.0 * tangents[0]))
    g = jit(lambda x: f(x).sum())
    return jax.grad(g)(X), jit(jax.grad(g))(X)


@snippets
def custom_vjp_with_a_jitted_rule(jit):
    @jax.custom_vjp
    def f(x):
        return x.sum()

    f.defvjp(jit(lambda x: (f(x), x)), jit(lambda x, g: (7.0 * g * x,)))
    return jax.grad(f)(X), jit(jax.grad(jit(f)))(X)


@snippets
def custom_vjp_over_a_jitted_function(jit):
    f = jax.custom_vjp(jit(lambda n, x: x * n), nondiff_argnums=(0,))
    f.defvjp(lambda n, x: (x * n, None), lambda n, _, g: (g * n * 2,))
    return jax.grad(lambda x: f(3.0, x).sum())(X)


@snippets
def checkpoint_with_policies(jit):
    policy = jax.checkpoint_policies.dots_saveable
    f = jax.checkpoint(jit(lambda x: jnp.sin(x @ x.T).sum()), policy=policy)
    return jax.grad(f)(X), jit(jax.grad(jax.checkpoint(jit(_loss))))(X)


@snippets
def checkpoint_with_static_arguments(jit):
    f = jax.checkpoint(
        jit(lambda x, n: (x**n).sum(), static_argnums=1), static_argnums=1
    )
    return jax.grad(f)(X, 2)


@snippets
def stop_gradient_and_closure_convert(jit):
    w = jnp.asarray(X)
    f, consts = jax.closure_convert(jit(lambda x: x * w), X)
    return f(X, *consts), jax.grad(jit(lambda x: jax.lax.stop_gradient(x).sum()))(X)


# --- batching ---------------------------------------------------------------------


@snippets
def vmap_outside_and_inside(jit):
    with counting() as misses:
        out = (
            jax.vmap(jit(_loss))(X),
            jit(jax.vmap(_loss))(X),
            jit(jax.vmap(jit(_loss)))(X),
        )
    return out, list(misses)


@snippets
def vmap_twice_with_axes(jit):
    f = jax.vmap(jit(lambda a, b: a @ b), in_axes=(None, 1), out_axes=1)
    return f(X, X.T), jax.vmap(jax.vmap(jit(lambda x: x + 1)))(X)


@snippets
def vmap_with_keywords_and_trees(jit):
    f = jit(lambda t, *, s: jax.tree.map(lambda v: v * s, t))
    return jax.vmap(f)({"a": X, "b": (X[:, 0],)}, s=X[:, 1])


@snippets
def vmap_with_an_axis_name(jit):
    return jax.vmap(jit(lambda x: x - jax.lax.pmean(x, "b")), axis_name="b")(X)


@snippets
def vmap_of_grad_of_jit(jit):
    return jax.vmap(jax.grad(jit(_loss)))(X), jax.grad(
        lambda x: jax.vmap(jit(_loss))(x).sum()
    )(X)


@snippets
def custom_vmap_rule(jit):
    @jax.custom_batching.custom_vmap
    def f(x):
        return x + 1

    @f.def_vmap
    def rule(size, batched, x):
        return x * 10, batched[0]

    return jit(jax.vmap(f))(X), jax.vmap(jit(f))(X), jit(f)(X)


@snippets
def vectorize_and_apply_along_axis(jit):
    f = jnp.vectorize(jit(lambda a, b: a @ b), signature="(n),(n)->()")
    return f(X, X), jnp.apply_along_axis(jit(jnp.sum), 1, X)


@snippets
def random_keys_under_vmap(jit):
    keys = jax.random.split(jax.random.key(0), 3)
    return jax.vmap(jit(lambda key: jax.random.uniform(key)))(keys)


# --- control flow -----------------------------------------------------------------


@snippets
def scan_over_a_jitted_body(jit):
    body = jit(lambda carry, x: (carry + x.sum(), carry * x))
    return jax.lax.scan(body, 0.0, X), jit(functools.partial(jax.lax.scan, body))(
        0.0, X
    )


@snippets
def cond_and_switch_with_jitted_branches(jit):
    up, down = jit(lambda x: x + 1), jit(lambda x: x - 1)
    f = jit(lambda p, x: jax.lax.cond(p, up, down, x))
    g = jit(lambda i, x: jax.lax.switch(i, [up, down, jit(jnp.sin)], x))
    return f(True, X), f(False, X), [g(i, X) for i in range(3)]


@snippets
def while_and_fori_loops(jit):
    below, double = jit(lambda x: x < 100), jit(lambda x: x * 2)
    loop = jit(lambda x: jax.lax.while_loop(below, double, x))
    add = jit(lambda i, x: x + i)
    return (
        loop(3),
        jax.lax.fori_loop(0, 4, add, X),
        jit(jax.lax.fori_loop, static_argnums=2)(0, 4, add, X),
    )


@snippets
def map_and_associative_scan(jit):
    f = jit(operator.add)
    return (
        jax.lax.map(jit(jnp.sum), X),
        jax.lax.associative_scan(f, X),
        jax.lax.reduce(X, 0.0, jit(jax.lax.add), (0, 1)),
    )


@snippets
def gradient_through_scan_of_jitted_body(jit):
    body = jit(lambda c, x: (jnp.tanh(c + x), c))
    return jax.grad(jit(lambda x: jax.lax.scan(body, x[0], x)[0].sum()))(X)


@snippets
def custom_linear_solve_with_jitted_parts(jit):
    multiply = jit(lambda x: 3.0 * x)

    def solve(_, y):
        return jit(lambda y: y / 3.0)(y)

    f = jit(lambda b: jax.lax.custom_linear_solve(multiply, b, solve, solve))
    return f(6.0), jax.grad(f)(6.0)


@snippets
def ordered_loop_of_jitted_steps(jit):
    step = jit(lambda s, x: jax.tree.map(lambda v: 0.9 * v + x, s), donate_argnums=0)
    state = {"m": jnp.zeros(3), "v": jnp.ones(3)}
    with counting() as misses:
        for i in range(4):
            state = step(state, X[0] * i)
    return state, list(misses)


# --- what a transformed function is -----------------------------------------------


@snippets
def stages_of_a_transformed_function_are_its_own(jit):
    f = jit(_loss)
    wrapped = [jax.grad(f), jax.vmap(f), jax.checkpoint(f), jax.value_and_grad(f)]
    texts = [jit(g).lower(X).as_text() for g in wrapped]
    return texts, [str(jit(g).trace(X).jaxpr) for g in wrapped]


@snippets
def wrappers_have_no_stages_of_what_they_wrap(jit):
    f = jit(_loss)

    @functools.wraps(f)
    def g(x):
        return 2 * f(x)

    names = ["lower", "trace", "clear_cache", "eval_shape", "stats"]
    wrapped = [g, jax.grad(f), jax.vmap(f), jax.jvp, functools.partial(f)]
    return [[name for name in names if hasattr(w, name)] for w in wrapped], jit(g)(X)


@snippets
def jitting_a_jitted_function_again_has_its_own_cache(jit):
    f = jit(lambda x: x + 1)
    g = jit(f)
    g(X), g(X[0])
    sizes = f._cache_size(), g._cache_size()
    g.clear_cache()
    return sizes, f._cache_size(), g._cache_size(), str(g.trace(X).jaxpr)


# --- nesting and jaxprs -----------------------------------------------------------


@snippets
def nested_function_appears_by_name_in_the_jaxpr(jit):
    @jit
    def inner(x):
        return x * 2

    @functools.partial(jit, donate_argnums=0, keep_unused=True)
    def other(x, y):
        return x + 1

    return str(jax.make_jaxpr(lambda x: other(inner(x), x))(X)), str(
        jit(inner).trace(X).jaxpr
    )


@snippets
def jaxpr_of_a_sharded_nested_function(jit):
    rows = NamedSharding(_mesh(), PartitionSpec("d"))
    f = jit(lambda x: x + 1, in_shardings=rows, out_shardings=rows, inline=True)
    return str(jax.make_jaxpr(f)(X)), jit(f)(X)


@snippets
def jaxpr_of_derivatives(jit):
    @jit
    def f(x):
        return jnp.sin(x)

    return str(jax.make_jaxpr(jax.grad(lambda x: f(x).sum()))(X)), str(
        jax.make_jaxpr(jax.vmap(f))(X)
    )


@snippets
def evaluated_shapes(jit):
    f = jit(lambda x, n: {"y": x.sum(axis=n)}, static_argnums=1)
    inner = jax.eval_shape(lambda x: f(x, 0), X)
    return (
        f.eval_shape(X, 1),
        inner,
        f.eval_shape(jax.ShapeDtypeStruct((4, 5), jnp.int8), 0),
    )


@snippets
def nested_calls_share_one_trace(jit):
    traces = []

    @jit
    def inner(x):
        traces.append(1)
        return x + 1

    with counting() as misses:
        out = jit(lambda x: inner(inner(x)) + inner(x))(X), inner(X)
    return out, len(traces), list(misses)


@snippets
def outer_function_inlines_its_programs(jit):
    inner = jit(lambda x: x + 1)
    outer = jit(lambda x: inner(x) * 2)
    with counting() as misses:
        out = outer(X), outer(X), inner(X), outer(X[0])
    return out, list(misses), inner._cache_size(), outer._cache_size()


@snippets
def constants_are_hoisted_alike(jit):
    w = np.arange(100, dtype=np.float32)
    f = jit(lambda i: jnp.asarray(w)[i])
    return f(3), jit(lambda i: f(i) + f(i + 1))(2), str(jax.make_jaxpr(f)(1))


@snippets
def named_call_and_named_scope(jit):
    @jax.named_scope("outer_scope")
    def f(x):
        with jax.named_scope("inner_scope"):
            return jax.named_call(jit(jnp.sin), name="called")(x)

    return jit(f).lower(X).as_text(debug_info=True)


@snippets
def compile_time_evaluation_inside(jit):
    def f(x):
        with jax.ensure_compile_time_eval():
            n = int(jit(jnp.sum)(np.arange(3)))
        return x * n

    return jit(f)(X)


@snippets
def jitted_function_called_while_another_is_traced(jit):
    helper = jit(lambda x: x * 2)

    def f(x):
        table = helper(X)
        return x + table

    with counting() as misses:
        out = jit(f)(X)
    return out, list(misses)


@snippets
def exported_and_called_back(jit):
    exported = jax.export.export(jit(lambda x: jnp.sin(x) + 1))(X)
    again = jax.export.deserialize(exported.serialize())
    return (
        again.call(X),
        str(exported.mlir_module()),
        exported.fun_name,
        jit(again.call)(X),
    )


@snippets
def exported_with_symbolic_dimensions(jit):
    (b,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((b, 3), jnp.float32)
    exported = jax.export.export(jit(lambda x: x.sum(axis=1)))(shape)
    return exported.call(X), str(exported.out_avals)


# --- many devices -----------------------------------------------------------------


@snippets
def shard_map_outside_and_inside(jit):
    rows = PartitionSpec("d")

    def f(x):
        return x * 2 + jax.lax.psum(x, "d")

    mapped = jax.shard_map(f, mesh=_mesh(), in_specs=rows, out_specs=rows)
    inside = jax.shard_map(jit(f), mesh=_mesh(), in_specs=rows, out_specs=rows)
    with counting() as misses:
        out = (
            jit(mapped)(X),
            jit(inside)(X),
            jit(jax.grad(lambda x: mapped(x).sum()))(X),
        )
    return out, list(misses)


@snippets
def shard_map_under_a_mesh_context(jit):
    rows = PartitionSpec("d")
    with jax.set_mesh(jax.make_mesh((2,), ("d",))):
        f = jit(jax.shard_map(lambda x: x + jax.lax.axis_index("d"), out_specs=rows))
        x = jax.device_put(X, rows)
        return f(x), f(x)


@snippets
def explicit_sharding_types(jit):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("d")))
        seen = []
        jit(lambda x: seen.append(str(jax.typeof(x * 2))))(x)
        return seen, jit(lambda x: x.T)(x)


@snippets
def specs_as_shardings_under_a_mesh(jit):
    with jax.set_mesh(
        jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    ):
        rows = PartitionSpec("d")
        return jit(lambda x: x + 1, in_shardings=rows, out_shardings=rows)(X)


@snippets
def pmap_over_a_jitted_function(jit):
    with contextlib.suppress(AttributeError):
        return jax.pmap(jit(lambda x: x + jax.lax.psum(x, "i")), axis_name="i")(X)


@snippets
def device_put_inside(jit):
    second = jax.devices()[1]
    return jit(lambda x: jax.device_put(x * 2, jax.devices()[0]))(X), jax.device_put(
        jit(jnp.sin)(X), second
    )


# --- effects ----------------------------------------------------------------------


@snippets
def debug_print_inside(jit):
    def f(x):
        jax.debug.print("sum is {s}, first is {x}", s=x.sum(), x=x[0, 0])
        return x

    out = (
        jit(f)(X),
        jit(lambda x: jit(f)(x) + 1)(X),
        jax.vmap(jit(lambda v: f(v[None])))(X),
    )
    jax.effects_barrier()
    return out


@snippets
def ordered_debug_print(jit):
    def f(x):
        for i in range(3):
            jax.debug.print("{i}", i=x[i], ordered=True)
        return x

    out = jit(f)(X[0]), jit(f)(X[1])
    jax.effects_barrier()
    return out


@snippets
def pure_and_ordered_callbacks(jit):
    seen = []
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)

    def f(x):
        y = jax.pure_callback(
            lambda v: np.asarray(v) * 2, shape, x, vmap_method="sequential"
        )
        io_callback(lambda v: seen.append(v.shape), None, y, ordered=True)
        return y

    out = jit(f)(X), jit(f)(X)
    jax.effects_barrier()
    return out, seen


@snippets
def callback_that_calls_a_jitted_function(jit):
    helper = jit(lambda x: x + 1)
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    f = jit(
        lambda x: jax.pure_callback(
            lambda v: np.asarray(helper(np.asarray(v))), shape, x
        )
    )
    helper(X)
    return f(X)


@snippets
def mutable_arrays(jit):
    ref = jax.new_ref(jnp.asarray(X))

    @jit
    def f(ref, x):
        ref[...] += x
        return ref[...].sum()

    return f(ref, X), f(ref, X), ref[...]


# --- contexts ---------------------------------------------------------------------


@snippets
def jit_disabled_by_context(jit):
    calls = []

    @jit
    def f(x):
        calls.append(type(x).__name__)
        return x + 1 if x.sum() > 0 else x

    with jax.disable_jit():
        out = f(X), f(jnp.asarray(X))
    return out, calls


@snippets
def jit_disabled_when_decorated_and_lowered(jit):
    with jax.disable_jit():
        f = jit(lambda x, n: x * n, static_argnums=1)
        first = f(X, 2)
        text = f.lower(X, 2).as_text()
    return first, text, f(X, 2)


@snippets
def x64_context_inside_and_outside(jit):
    f = jit(lambda x: x * 2)
    with counting() as misses:
        out = [f(np.float64(1))]
        with jax.enable_x64(True):
            out += [f(np.float64(1)), f(1), f(np.int64(2**40))]
        out += [f(np.float64(1))]
    return out, list(misses)


@snippets
def debug_nans_with_good_values(jit):
    with jax.debug_nans(True):
        f = jit(lambda x: jnp.log(x + 1))
        return f(X), jax.grad(lambda x: f(x).sum())(X)


@snippets
def checking_leaks_traces_alike(jit):
    traces = []
    with jax.checking_leaks(), counting() as misses:
        f = jit(lambda x: (traces.append(1), x + 1)[1])
        out = f(X), f(X), jit(lambda x: f(x))(X)
    return out, len(traces), list(misses)


@snippets
def log_compiles_logs_the_same(jit):
    def named(x):
        return x + 1

    with jax.log_compiles():
        f = jit(named)
        return f(X), f(X[0]), jit(jax.vmap(f))(X), f.lower(X).compile()(X)


@snippets
def explained_cache_misses(jit):
    logger = logging.getLogger("jax")
    before = logger.level
    with _config("jax_explain_cache_misses", value=True):
        try:
            f = jit(lambda x, n=1: x * n, static_argnames="n")
            return f(X), f(X[0]), f(X, n=2), f(X.astype(np.int32)), f([X][0])
        finally:
            logger.setLevel(before)


@contextlib.contextmanager
def _config(name, *, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


@snippets
def transfer_guard_with_arrays_on_the_device(jit):
    f, x = jit(lambda x: x + 1), jnp.asarray(X)
    with jax.transfer_guard("disallow"):
        return f(x), f(x)


@snippets
def most_recent_compiler_passes_are_not_repeated(jit):
    f = jit(lambda x: x + 1)
    with counting() as misses:
        f.lower(X).compile()
        f(X)
        f.trace(X)
        f.eval_shape(X)
    return list(misses)


@snippets
def asynchronous_result_can_be_awaited(jit):
    out = jit(lambda x: x @ x.T)(X)
    return (
        out.block_until_ready() is out,
        jax.block_until_ready({"a": out}),
        out.is_ready(),
    )


@snippets
def random_numbers_are_the_same_bits(jit):
    def f(key):
        a, b = jax.random.split(key)
        return (
            jax.random.normal(a, (4,)),
            jax.random.permutation(b, 5),
            jax.random.bits(a),
        )

    return jit(f)(jax.random.key(7))


@snippets
def training_loop_gives_the_same_bits(jit):
    def loss(params, x, y):
        hidden = jnp.tanh(x @ params["w"] + params["b"])
        return ((hidden.sum(-1) - y) ** 2).mean()

    @functools.partial(jit, donate_argnums=0)
    def step(params, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    params = {"w": jnp.ones((3, 4)) * 0.1, "b": jnp.zeros(4)}
    values = []
    for _ in range(5):
        params, value = step(params, X, X[:, 0])
        values.append(value)
    return params, values
