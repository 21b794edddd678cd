"""Ahead-of-time stages of safe_jit show what those of jax.jit show."""

# ruff: noqa: PLW0108  a lambda is a function of its own to jit

from __future__ import annotations

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differential import Snippets, assert_same, counting
from jax.experimental import serialize_executable
from jax.sharding import Mesh, NamedSharding, PartitionSpec

snippets = Snippets()
errors = Snippets()

X = np.arange(6, dtype=np.float32).reshape(2, 3)
SPEC = jax.ShapeDtypeStruct((2, 3), jnp.float32)


@pytest.mark.parametrize("snippet", snippets)
def test_shows_what_jax_jit_shows(snippet):
    observed = assert_same(snippet)

    assert observed.error is None


@pytest.mark.parametrize("snippet", errors)
def test_raises_what_jax_jit_raises(snippet):
    observed = assert_same(snippet)

    assert observed.error is not None


def _public(stage):
    return [name for name in dir(stage) if not name.startswith("_")]


def double(x):
    return jnp.sin(x) * 2


# --- what each stage is and says --------------------------------------------------


@snippets
def types_and_public_names_of_the_stages(jit):
    traced = jit(double).trace(X)
    lowered = traced.lower()
    stages = traced, lowered, lowered.compile()
    return [(type(stage).__name__, _public(stage)) for stage in stages]


@snippets
def stages_are_instances_of_jax_stages(jit):
    traced = jit(double).trace(X)
    return (
        isinstance(traced, jax.stages.Traced),
        isinstance(traced.lower(), jax.stages.Lowered),
        isinstance(traced.lower().compile(), jax.stages.Compiled),
        isinstance(jit(double), jax.stages.Wrapped),
    )


@snippets
def traced_says_the_same(jit):
    traced = jit(lambda x, *, y: {"z": x + y}, donate_argnames="y").trace(X, y=X)
    return [
        str(traced.jaxpr),
        traced.fun_name,
        str(traced.out_info),
        str(traced.args_info),
        str(traced.in_tree),
        str(traced.out_tree),
        traced.donate_argnums,
        str(traced.in_avals),
    ]


@snippets
def lowered_says_the_same(jit):
    lowered = jit(lambda x, y: (x + y, x.sum()), donate_argnums=0).lower(X, 1.0)
    return [
        lowered.as_text(),
        lowered.as_text(dialect="hlo"),
        str(lowered.compiler_ir("stablehlo")),
        lowered.cost_analysis(),
        str(lowered.args_info),
        str(lowered.out_info),
        str(lowered.in_tree),
        str(lowered.out_tree),
        lowered.donate_argnums,
    ]


@snippets
def compiled_says_the_same(jit):
    compiled = jit(double).lower(X).compile()
    return [
        compiled.as_text(),
        compiled.cost_analysis(),
        compiled.memory_analysis(),
        str(compiled.input_shardings),
        str(compiled.output_shardings),
        str(compiled.input_formats),
        str(compiled.args_info),
        str(compiled.out_info),
        type(compiled.runtime_executable()),
    ]


@snippets
def source_locations_are_the_users(jit):
    @jit
    def inner(x):
        return jnp.tanh(x)

    def outer(x):
        return inner(x) + inner(x * 2)

    return jit(outer).lower(X).as_text(debug_info=True)


@snippets
def source_locations_of_a_called_function(jit):
    def f(x):
        return jnp.tanh(x)

    jitted = jit(f)
    jitted(X)
    return jitted.lower(X).as_text(debug_info=True)


@snippets
def source_locations_in_the_compiled_text(jit):
    def f(x):
        return jax.lax.fori_loop(0, 3, lambda i, v: jnp.tanh(v), x)

    return jit(f).lower(X).compile().as_text()


@snippets
def module_names_of_every_kind_of_callable(jit):
    class Model:
        def __call__(self, x):
            return x

        def method(self, x):
            return x

    callables = [
        double,
        lambda x: x,
        functools.partial(double),
        Model(),
        Model().method,
        jax.grad(lambda x: x.sum()),
        jax.vmap(double),
        jit(double),
    ]
    texts = [jit(f).lower(X).as_text() for f in callables]
    return [text.partition("attributes")[0] for text in texts]


@snippets
def module_name_follows_a_renamed_function(jit):
    def f(x):
        return x

    f.__name__ = "renamed"
    return jit(f).lower(X).as_text(), jit(f).trace(X).fun_name


# --- arguments of the stages ------------------------------------------------------


@snippets
def lowering_from_specs_and_values(jit):
    f = jit(double)
    return [f.lower(x).as_text() for x in (SPEC, X, jnp.asarray(X), jax.typeof(X))]


@snippets
def lowering_scalars_trees_and_keywords(jit):
    f = jit(lambda a, *rest, k=1, **more: (a, rest, k, more))
    lowered = f.lower(1.0, X, 2, k={"x": X}, other=None)
    return lowered.as_text(), lowered.compile()(1.0, X, 2, k={"x": X}, other=None)


@snippets
def lowering_with_static_arguments(jit):
    f = jit(lambda x, n, how="a": x * n, static_argnums=1, static_argnames="how")
    compiled = f.lower(X, 3, how="b").compile()
    return compiled(X), f.trace(X, 2).lower().compile()(X)


@snippets
def lowering_keys_and_weak_types(jit):
    f = jit(lambda key, x: jax.random.uniform(key) + x)
    lowered = f.lower(jax.random.key(0), 1.0)
    return lowered.as_text(), lowered.compile()(jax.random.key(0), 1.0)


@snippets
def lowering_with_shardings_in_the_spec(jit):
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    rows = NamedSharding(mesh, PartitionSpec("d"))
    spec = jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=rows)
    compiled = jit(double).lower(spec).compile()
    return compiled(jax.device_put(X, rows)), str(compiled.input_shardings)


@snippets
def lowering_for_another_platform(jit):
    return jit(double).trace(X).lower(lowering_platforms=("tpu",)).as_text()


@snippets
def compiling_with_options(jit):
    options = {"xla_embed_ir_in_executable": True}
    return jit(double).lower(X).compile(compiler_options=options)(X)


@snippets
def automatic_layouts(jit):
    from jax.experimental.layout import Format, Layout

    auto = Format(Layout.AUTO)
    f = jit(lambda x: x.T, in_shardings=auto, out_shardings=auto)
    return str(f.lower(SPEC).compile().output_formats)


@snippets
def shapes_without_compiling(jit):
    with counting() as misses:
        out = jit(double).eval_shape(SPEC), jit(double).trace(SPEC).out_info
    return str(out), list(misses)


# --- compiled functions -----------------------------------------------------------


@snippets
def compiled_function_is_called(jit):
    compiled = jit(lambda x, n=2: {"y": x * n}).lower(X).compile()
    return compiled(X), compiled(jnp.asarray(X)), compiled.out_tree


@snippets
def compiled_function_donates(jit):
    x = jnp.asarray(X)
    compiled = jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    out = compiled(x)
    return out, x.is_deleted(), compiled.donate_argnums


@snippets
def compiled_function_under_transformations(jit):
    compiled = jit(double).lower(X).compile()
    outcomes = []
    for transform in (jax.vmap, jax.grad, jit):
        try:
            transform(compiled)(X)
        except Exception as error:  # noqa: BLE001
            outcomes.append((type(error), str(error)))
    return outcomes


@snippets
def stages_outlive_the_function(jit):
    def stages():
        return jit(lambda x: x + 1).trace(X).lower()

    return stages().compile()(X)


@snippets
def stages_count_traces_and_compilations_alike(jit):
    with counting() as misses:
        f = jit(lambda x: x + 1)
        traced = f.trace(X)
        lowered = traced.lower()
        traced.lower()
        f.lower(X)
        lowered.compile()
        lowered.compile()
        f(X)
        f(X)
    return list(misses), f._cache_size()


@snippets
def one_lowered_module_compiled_twice(jit):
    lowered = jit(lambda x: x + 1).lower(X)
    return lowered.compile()(X), lowered.compile()(X)


@snippets
def compiled_function_is_serialized(jit):
    compiled = jit(double).lower(X).compile()
    payload, in_tree, out_tree = serialize_executable.serialize(compiled)
    again = serialize_executable.deserialize_and_load(
        payload, in_tree, out_tree, execution_devices=jax.devices()[:1]
    )
    return again(X)


@snippets
def stages_cannot_be_pickled(jit):
    refused = []
    for stage in (jit(double).trace(X), jit(double).lower(X)):
        try:
            pickle.dumps(stage)
        except Exception:  # noqa: BLE001  the types differ between JAX releases
            refused.append(True)
    return refused


@snippets
def lowering_a_method(jit):
    class Model:
        @functools.partial(jit, static_argnums=0)
        def apply(self, x):
            return x + 1

    model = Model()
    return model.apply(X), Model.apply.lower(model, X).as_text()


@snippets
def lowering_inside_a_trace(jit):
    inner, texts = jit(double), []

    def f(x):
        texts.append(inner.lower(x).as_text())
        return x

    jit(f)(X)
    return texts


@snippets
def cost_analysis_of_a_callable_bound_early(jit):
    lower = jit(double).lower
    trace = jit(double).trace
    return lower(X).cost_analysis(), str(trace(X).jaxpr)


# --- errors -----------------------------------------------------------------------


@errors
def compiled_for_another_shape(jit):
    jit(double).lower(X).compile()(X.T)


@errors
def compiled_for_another_dtype(jit):
    jit(double).lower(X).compile()(X.astype(np.int32))


@errors
def compiled_for_another_structure(jit):
    jit(lambda t: t).lower({"a": X}).compile()({"b": X})


@errors
def compiled_without_the_keyword(jit):
    jit(lambda x, k: x + k).lower(X, k=1.0).compile()(X)


@errors
def compiled_with_static_arguments_again(jit):
    jit(lambda x, n: x * n, static_argnums=1).lower(X, 2).compile()(X, 2)


@errors
def compiled_under_a_trace(jit):
    compiled = jit(double).lower(X).compile()
    jit(lambda x: compiled(x))(X)


@errors
def compiled_with_an_unknown_option(jit):
    jit(double).lower(X).compile(compiler_options={"xla_no_such_flag": 1})


@errors
def lowered_with_a_string(jit):
    jit(double).lower("text")


@errors
def lowered_without_an_argument(jit):
    jit(double).lower()


@errors
def compiled_called_while_jit_is_disabled(jit):
    with jax.disable_jit():
        jit(double).lower(X).compile()(X)


@errors
def users_error_in_trace(jit):
    def f(x):
        raise ValueError("mine")

    jit(f).trace(X)


@errors
def users_error_in_lower(jit):
    def f(x):
        raise ValueError("mine")

    jit(f).lower(X)


@errors
def users_error_in_eval_shape(jit):
    def f(x):
        raise ValueError("mine")

    jit(f).eval_shape(X)


@errors
def exported_without_jit(jit):
    jax.export.export(jit(double).lower(X))


@errors
def unknown_method(jit):
    jit(double).compile(X)
