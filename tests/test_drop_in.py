"""safe_jit without arguments of its own is jax.jit: forms, arguments, caches, lives.

Every snippet runs with both and must show the same (``differential.py`` says what that
covers). The other ``test_drop_in_*`` files hold the snippets on errors, on
transformations and on ahead-of-time compilation.
"""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import typing
import weakref

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differential import Misses, Snippets, assert_same, counting
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import safejax

snippets = Snippets()

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("snippet", snippets)
def test_shows_what_jax_jit_shows(snippet):
    observed = assert_same(snippet)

    assert observed.error is None


def test_every_option_of_jax_jit_is_accepted_under_its_name():
    ours = inspect.signature(safejax.safe_jit).parameters
    options = [
        name
        for name, parameter in inspect.signature(jax.jit).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]

    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in ours.values())
    assert takes_any or set(options) <= set(ours)


def test_the_comparison_notices_another_result():
    def snippet(jit):
        return jit(lambda x: x + 1)(1.0) if jit is jax.jit else 2.0

    with pytest.raises(AssertionError, match="result differs"):
        assert_same(snippet)


def test_the_comparison_notices_an_extra_trace():
    def snippet(jit):
        with counting() as misses:
            f = jit(lambda x: x + 1)
            f(X)
            if jit is not jax.jit:
                jax.clear_caches()
            f(X)
        return list(misses)

    with pytest.raises(AssertionError, match="result differs"):
        assert_same(snippet)


def test_plain_pickle_reads_back_a_function_of_a_module():
    # jax.jit's own object can only be pickled by cloudpickle.
    again = pickle.loads(pickle.dumps(safejax.safe_jit(_documented)))

    assert again(2.0, 3.0) == 5.0


# --- forms of decoration ----------------------------------------------------------


@snippets
def bare_decorator(jit):
    @jit
    def f(x):
        return x * 2

    return f(X)


@snippets
def decorator_with_options_and_no_function(jit):
    @jit(static_argnames=("n",))
    def f(x, n):
        return x * n

    return f(X, n=3)


@snippets
def decorator_with_empty_parentheses(jit):
    @jit()
    def f(x):
        return x * 2

    return f(X)


@snippets
def partial_of_jit_as_decorator(jit):
    @functools.partial(jit, static_argnums=(1,))
    def f(x, n):
        return x * n

    return f(X, 3)


@snippets
def lambda_function(jit):
    f = jit(lambda x: x - 1)
    return f(X), f.__name__, repr(f)


@snippets
def partial_object(jit):
    def f(scale, x, *, shift):
        return x * scale + shift

    g = jit(functools.partial(f, 2.0, shift=1.0))
    return g(X), repr(g), str(inspect.signature(g))


@snippets
def callable_object(jit):
    class Scale:
        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            return x * self.by

    f = jit(Scale(3.0))
    return f(X), str(inspect.signature(f))


@snippets
def method_with_static_self(jit):
    class Model:
        def __init__(self, by):
            self.by = by

        @functools.partial(jit, static_argnums=0)
        def apply(self, x):
            return x * self.by

    return Model(2.0).apply(X), Model(3.0).apply(X)


@snippets
def method_of_a_registered_pytree(jit):
    @jax.tree_util.register_pytree_node_class
    class Model:
        def __init__(self, by):
            self.by = by

        def tree_flatten(self):
            return (self.by,), None

        @classmethod
        def tree_unflatten(cls, aux, children):
            return cls(*children)

        @jit
        def apply(self, x):
            return x * self.by

    model = Model(2.0)
    with counting() as misses:
        out = model.apply(X), Model(5.0).apply(X), Model.apply(model, X)
    return out, list(misses), repr(Model.apply)


@snippets
def bound_method_is_jitted(jit):
    class Model:
        by = 4.0

        def apply(self, x):
            return x * self.by

    f = jit(Model().apply)
    return f(X), f.__name__, f.__qualname__, str(inspect.signature(f))


@snippets
def classmethod_outside_and_inside(jit):
    class Model:
        by = 3.0

        @classmethod
        @functools.partial(jit, static_argnums=0)
        def apply(cls, x):
            return x * cls.by

    class Other(Model):
        by = 7.0

    return Model.apply(X), Other.apply(X), Other().apply(X)


@snippets
def staticmethod_of_a_class(jit):
    class Model:
        @staticmethod
        @jit
        def apply(x):
            return x + 1

    return Model.apply(X), Model().apply(X)


@snippets
def property_that_is_jitted(jit):
    class Model(typing.NamedTuple):
        w: typing.Any

        @property
        @jit
        def norm(self):
            return (self.w**2).sum()

    return Model(X).norm


@snippets
def jitted_function_as_class_attribute_binds(jit):
    class Model(typing.NamedTuple):
        w: typing.Any
        apply = jit(lambda self, x: self.w @ x)

    bound = Model(X).apply
    return bound(X.T), type(bound), bound.__self__ is not None


@snippets
def jit_of_a_jitted_function(jit):
    f = jit(jit(lambda x: x * 2))
    with counting() as misses:
        f(X)
    return f(X), list(misses), repr(f)


@snippets
def jit_of_jax_functions(jit):
    return jit(jnp.sin)(X), jit(jax.nn.relu)(X), jit(jnp.dot)(X, X.T), jit(jnp.sum)(X)


@snippets
def jit_of_a_builtin(jit):
    return jit(sum)([X, X]), repr(jit(sum))


@snippets
def jit_of_a_class_that_is_a_pytree(jit):
    class Pair(typing.NamedTuple):
        a: typing.Any
        b: typing.Any

    return jit(Pair)(X, 1), jit(Pair)(b=X, a=2)


@snippets
def closure_over_an_array_and_a_scalar(jit):
    w, n = jnp.asarray(X), 3
    return jit(lambda x: (x @ w.T) * n)(X)


@snippets
def recursion_through_the_jitted_name(jit):
    @functools.partial(jit, static_argnums=1)
    def power(x, n):
        return x if n == 0 else x * power(x, n - 1)

    with counting() as misses:
        power(X, 4)
    return power(X, 4), list(misses)


# --- what the object is -----------------------------------------------------------


def _documented(x: jax.Array, /, y: float = 2.0, *rest: int, flag: bool = True) -> int:
    """Adds things."""
    return x + y


_documented.custom = "kept"  # type: ignore[attr-defined]


@snippets
def names_docs_and_annotations(jit):
    f = jit(_documented)
    return [
        f.__name__,
        f.__qualname__,
        f.__module__,
        f.__doc__,
        f.__annotations__,
        f.custom,
        f.__wrapped__ is _documented,
        inspect.unwrap(f) is _documented,
        str(inspect.signature(f)),
        inspect.getsource(f),
        inspect.getdoc(f),
        typing.get_type_hints(f),
    ]


@snippets
def type_repr_and_predicates(jit):
    f = jit(_documented)
    return [
        type(f),
        repr(f),
        str(f),
        callable(f),
        bool(f),
        inspect.isfunction(f),
        inspect.isroutine(f),
        inspect.ismethod(f),
        inspect.ismethoddescriptor(f),
        isinstance(f, typing.Callable),
        isinstance(f, type(jax.jit(len))),
    ]


@snippets
def every_attribute_of_jax_jit_is_there(jit):
    theirs = dir(jax.jit(_documented))
    return [name for name in theirs if not hasattr(jit(_documented), name)]


@snippets
def names_of_partials_of_partials_and_of_objects(jit):
    class Named:
        __name__ = "chosen"

        def __call__(self, x):
            return x

    inner = functools.partial(_documented, y=1.0)
    fs = [jit(functools.partial(inner, flag=False)), jit(Named()), jit(print)]
    return [(getattr(f, "__name__", None), repr(f)) for f in fs]


@snippets
def equality_and_hash_are_by_identity(jit):
    f, g = jit(_documented), jit(_documented)
    return f == g, f != g, hash(f) == hash(g), len({f, g, f})


@snippets
def attributes_can_be_set_and_deleted(jit):
    f = jit(lambda x: x)
    f.tag = "mine"
    f.__name__ = "renamed"
    before = f.tag, f.__name__, repr(f)
    del f.tag
    return before, hasattr(f, "tag")


@snippets
def functools_wraps_copies_the_metadata(jit):
    f = jit(_documented)

    @functools.wraps(f)
    def g(*args, **kwargs):
        return f(*args, **kwargs)

    return g.__name__, g.__doc__, g.__wrapped__ is f, g(1.0), str(inspect.signature(g))


@snippets
def shallow_copy_and_deep_copy(jit):
    f = jit(_documented)
    outcomes = []
    for copier in (copy.copy, copy.deepcopy):
        try:
            outcomes.append(copier(f)(X))
        except Exception as error:  # noqa: BLE001
            outcomes.append((type(error), str(error)))
    return outcomes


@snippets
def works_as_key_in_lru_cache_and_weak_dictionary(jit):
    f = jit(lambda x: x)
    table = weakref.WeakKeyDictionary({f: 1})
    cached = functools.lru_cache(lambda g: g(1.0))
    return table[f], cached(f), cached(f), cached.cache_info()


@snippets
def singledispatch_registers_it(jit):
    @functools.singledispatch
    def f(x):
        return None

    f.register(np.ndarray, jit(lambda x: x + 1))
    return f(X), f("other")


@snippets
def cache_size_counts_dispatch_entries(jit):
    f = jit(lambda x: x + 1)
    sizes = [f._cache_size()]
    for x in (X, X, X[0], X.astype(np.int32)):
        f(x)
        sizes.append(f._cache_size())
    f.clear_cache()
    return [*sizes, f._cache_size()]


@snippets
def pickled_and_read_back(jit):
    f = cloudpickle.loads(cloudpickle.dumps(jit(lambda x, n: x * n, static_argnums=1)))
    return f(X, 3), type(f), repr(f)


@snippets
def pickled_inside_a_closure_with_its_options(jit):
    f = jit(
        lambda x, scale: {"y": x * scale}, static_argnames="scale", keep_unused=True
    )
    g = cloudpickle.loads(cloudpickle.dumps(lambda x: f(x, scale=2)["y"]))
    return g(X)


# --- arguments --------------------------------------------------------------------


@snippets
def positional_only_keyword_only_and_defaults(jit):
    @jit
    def f(a, /, b=2.0, *, c, d=4.0):
        return a + 10 * b + 100 * c + 1000 * d

    return f(1.0, c=3.0), f(1.0, 5.0, c=3.0), f(1.0, b=5.0, d=1.0, c=0.0)


@snippets
def varargs_and_keywords(jit):
    @jit
    def f(*args, **kwargs):
        return sum(args), dict(sorted(kwargs.items()))

    return f(), f(1, X), f(1, b=2, a=X), f(**{"x y": 1})


@snippets
def keyword_order_does_not_matter(jit):
    f = jit(lambda a, b, c: a + b - c)
    with counting() as misses:
        out = f(a=X, b=X, c=X), f(c=X, b=X, a=X), f(X, c=X, b=X)
    return out, list(misses)


@snippets
def python_scalars_are_weakly_typed(jit):
    f = jit(lambda x: x)
    return f(1), f(1.0), f(True), f(1j), f(np.float32(1)), f(np.int8(1)), f(-(2**31))


@snippets
def numpy_scalars_and_arrays_are_narrowed(jit):
    f = jit(lambda x: x)
    wide = [np.float64(1), np.int64(1), np.arange(3), np.zeros(2), np.uint64(3)]
    return [f(x) for x in [*wide, np.complex128(1j), np.bool_(1), np.array(2.0)]]


@snippets
def narrow_and_exotic_dtypes(jit):
    f = jit(lambda x: x)
    names = ["bfloat16", "float16", "int4", "float8_e4m3fn", "uint8", "bool"]
    return [f(jnp.ones(4, dtype=name)) for name in names]


@snippets
def empty_arrays_none_and_empty_trees(jit):
    f = jit(lambda t: t)
    trees = [None, (), [], {}, np.zeros((0, 3), np.float32), {"a": None, "b": [()]}]
    return [f(tree) for tree in trees]


@snippets
def nested_trees_and_named_tuples(jit):
    class Point(typing.NamedTuple):
        x: typing.Any
        y: typing.Any

    tree = {"p": Point(X, [X, (1, None)]), "q": {"r": 2.0}}
    return jit(lambda t: jax.tree.map(lambda v: v + 1, t))(tree)


@snippets
def dictionary_order_is_sorted_as_in_jax(jit):
    return list(jit(lambda t: t)({"b": 1, "a": 2})), jit(lambda: {"z": 1, "a": 2})()


@snippets
def custom_nodes_with_auxiliary_data(jit):
    @functools.partial(
        jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=["name"]
    )
    class Layer:
        def __init__(self, w, name):
            self.w, self.name = w, name

    f = jit(lambda layer: layer.w * (2 if layer.name == "two" else 3))
    with counting() as misses:
        out = f(Layer(X, "two")), f(Layer(X, "three")), f(Layer(X + 1, "two"))
    return out, list(misses)


@snippets
def prng_keys_old_and_new(jit):
    f = jit(lambda key: jax.random.normal(key, (3,)))
    return (
        f(jax.random.key(0)),
        f(jax.random.PRNGKey(0)),
        jit(jax.random.split)(jax.random.key(1)),
    )


@snippets
def objects_with_the_jax_array_protocol(jit):
    class Wrapper:
        def __jax_array__(self):
            return jnp.asarray(X)

    try:
        return jit(lambda x: x + 1)(Wrapper())
    except (TypeError, ValueError) as error:
        return type(error), str(error)


@snippets
def tree_util_partial_as_argument(jit):
    f = jit(lambda g, x: g(x))
    double = jax.tree_util.Partial(lambda s, x: s * x, 2.0)
    with counting() as misses:
        out = f(double, X), f(jax.tree_util.Partial(double.func, 3.0), X)
    return out, list(misses)


@snippets
def jitted_function_as_static_argument(jit):
    g = jit(lambda x: x + 1)
    return jit(lambda h, x: h(x), static_argnums=0)(g, X)


@snippets
def unused_and_passed_through_arguments(jit):
    x = jnp.asarray(X)
    out = jit(lambda a, b: (a, 1.0))(x, X)
    return out, out[0] is x


@snippets
def constant_outputs_without_arguments(jit):
    return jit(lambda: (1, 2.0, X, None, np.float32(3)))()


# --- options ----------------------------------------------------------------------


@snippets
def static_by_number_name_and_both(jit):
    def f(n, x, *, mode="a"):
        return x * n if mode == "a" else x - n

    return (
        jit(f, static_argnums=0, static_argnames="mode")(2, X, mode="b"),
        jit(f, static_argnames=["n", "mode"])(n=3, x=X),
        jit(f, static_argnames="n")(2, X),
    )


@snippets
def static_by_negative_number(jit):
    return jit(lambda x, n: x * n, static_argnums=-1)(X, 3)


@snippets
def static_values_are_compared_by_equality(jit):
    class Config:
        def __init__(self, n):
            self.n = n

        def __hash__(self):
            return hash(self.n)

        def __eq__(self, other):
            return self.n == other.n

    f = jit(lambda c, x: x * c.n, static_argnums=0)
    with counting() as misses:
        out = f(Config(2), X), f(Config(2), X), f(Config(3), X)
    return out, list(misses)


@snippets
def static_one_true_and_one_point_zero_are_apart(jit):
    f = jit(lambda n, x: (x * 1, repr(n))[0], static_argnums=0)
    with counting() as misses:
        out = f(1, X), f(True, X), f(1.0, X)
    return out, list(misses)


@snippets
def static_defaults_and_keywords(jit):
    f = jit(lambda x, n=2: x * n, static_argnames="n")
    with counting() as misses:
        out = f(X), f(X, 2), f(X, n=2), f(X, n=3)
    return out, list(misses)


@snippets
def static_varargs(jit):
    def f(x, *dims):
        return jnp.broadcast_to(x, dims)

    return jit(f, static_argnums=(1, 2))(1.0, 2, 3)


@snippets
def static_names_in_keywords_of_any_name(jit):
    return jit(lambda x, **kw: x * kw["n"], static_argnames=("n",))(X, n=2)


@snippets
def static_enum_string_tuple_and_function(jit):
    f = jit(lambda x, how, g: g(x) if how == ("a", 1) else x, static_argnums=(1, 2))
    return f(X, ("a", 1), jnp.sin), f(X, "b", jnp.sin)


@snippets
def donated_arguments_are_deleted(jit):
    x, y = jnp.asarray(X), jnp.asarray(X)
    out = jit(lambda a, b: a + b, donate_argnums=0)(x, y)
    return out, x.is_deleted(), y.is_deleted()


@snippets
def donated_by_name_and_in_trees(jit):
    tree = {"a": jnp.asarray(X), "b": jnp.asarray(X) + 1}
    f = jit(lambda t, s: jax.tree.map(lambda v: v * s, t), donate_argnames="t")
    out = f(t=tree, s=2.0)
    return out, [leaf.is_deleted() for leaf in tree.values()]


@snippets
def donated_numpy_and_python_inputs_stay(jit):
    x = X.copy()
    out = jit(lambda a, b: a + b, donate_argnums=(0, 1))(x, 1.0)
    return out, x


@snippets
def donation_that_cannot_be_used_warns(jit):
    x = jnp.asarray(X)
    out = jit(lambda a: a.sum(), donate_argnums=0)(x)
    return out, x.is_deleted()


@snippets
def keep_unused_is_kept(jit):
    f = jit(lambda a, b: a, keep_unused=True)
    g = jit(lambda a, b: a)
    return f.lower(X, X).as_text() != g.lower(X, X).as_text(), f(X, X), g(X, X)


@snippets
def inline_leaves_no_call_in_the_jaxpr(jit):
    return [
        str(jax.make_jaxpr(lambda x, f=f: f(x) + 1)(X))
        for f in (jit(jnp.sin, inline=True), jit(lambda x: x * 2, inline=False))
    ]


@snippets
def compiler_options_reach_xla(jit):
    options = {"xla_embed_ir_in_executable": True}
    f = jit(lambda x: x + 1, compiler_options=options)
    return f(X), f(X)


@snippets
def device_and_backend_warn_or_work_as_in_jax(jit):
    outcomes = []
    for option in ({"device": jax.devices()[1]}, {"backend": "cpu"}):
        f = jit(lambda x: x + 1, **option)
        outcomes.append((f(X), f.__name__))
    return outcomes


def _mesh():
    return Mesh(np.array(jax.devices()[:2]), ("d",))


@snippets
def in_and_out_shardings(jit):
    rows, whole = (NamedSharding(_mesh(), PartitionSpec(*s)) for s in (("d",), ()))
    f = jit(lambda x: (x * 2, x.sum()), in_shardings=rows, out_shardings=(rows, whole))
    with counting() as misses:
        out = f(X), f(jax.device_put(X, rows))
    return out, list(misses)


@snippets
def out_shardings_as_a_tree_prefix_with_none(jit):
    rows = NamedSharding(_mesh(), PartitionSpec("d"))
    return jit(
        lambda x: {"a": x, "b": (x, x)},
        out_shardings={"a": None, "b": rows},
    )(X)


@snippets
def sharded_inputs_give_their_own_programs(jit):
    rows = NamedSharding(_mesh(), PartitionSpec("d"))
    columns = NamedSharding(_mesh(), PartitionSpec(None, "d"))
    f = jit(lambda x: x + 1)
    x = np.ones((4, 4), np.float32)
    with counting() as misses:
        out = [f(jax.device_put(x, s)) for s in (rows, columns, rows)]
    return out, list(misses)


@snippets
def committed_and_uncommitted_inputs(jit):
    f = jit(lambda x: x + 1)
    first, second = jax.devices()[:2]
    with counting() as misses:
        out = [f(jnp.asarray(X)), f(X), f(jax.device_put(X, first))]
        out += [f(jax.device_put(X, second)), f(out[-1])]
    return out, list(misses)


@snippets
def sharding_constraint_inside(jit):
    rows = NamedSharding(_mesh(), PartitionSpec("d"))
    return jit(lambda x: jax.lax.with_sharding_constraint(x * 2, rows))(X)


@snippets
def memory_kind_and_single_device_sharding(jit):
    where = SingleDeviceSharding(jax.devices()[1])
    return jit(lambda x: x, out_shardings=where)(X)


def test_misses_are_counted_in_the_order_of_their_fields():
    assert list(Misses(dispatch=1, traces=2, lowerings=3, compiles=4)) == [1, 2, 3, 4]
