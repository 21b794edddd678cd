"""max_compiles counts live XLA programs exactly, whatever made JAX compile them."""

from __future__ import annotations

import contextlib
import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import safejax
from safejax import CompileLimitError, Limits, ProcessLimits, safe_jit, spec

f32 = np.float32
X = np.ones(4, f32)


def make(limit=32, **options):
    def double(x, *args, **kwargs):
        return x * 2

    limits = Limits(max_compiles=limit, warn_compiles=1000)
    return safe_jit(double, limits=limits, **options)


def split(*axes):
    mesh = Mesh(np.array(jax.devices()[:2]), ("i",))
    return jax.device_put(X, NamedSharding(mesh, PartitionSpec(*axes)))


def inside(context, f):
    with context:
        f(jnp.asarray(X))


# Each cause: a call that makes a program, then one that makes exactly one more.
CAUSES = {
    "shape": (lambda f: f(X), lambda f: f(np.ones(5, f32))),
    "rank": (lambda f: f(X), lambda f: f(X[None])),
    "dtype": (lambda f: f(X), lambda f: f(X.astype(np.int32))),
    "weak type": (lambda f: f(f32(1)), lambda f: f(1.0)),
    "committed": (
        lambda f: f(jnp.asarray(X)),
        lambda f: f(jax.device_put(X, jax.devices()[0])),
    ),
    "device": (
        lambda f: f(jax.device_put(X, jax.devices()[0])),
        lambda f: f(jax.device_put(X, jax.devices()[1])),
    ),
    "sharding": (lambda f: f(split()), lambda f: f(split("i"))),
    "structure": (lambda f: f(X, [X, X]), lambda f: f(X, (X, X))),
    "keyword": (lambda f: f(X, X), lambda f: f(X, y=X)),
    "enable_x64": (
        lambda f: f(jnp.asarray(X)),
        lambda f: inside(jax.enable_x64(True), f),
    ),
    "matmul precision": (
        lambda f: f(jnp.asarray(X)),
        lambda f: inside(jax.default_matmul_precision("highest"), f),
    ),
    "vmap": (lambda f: f(X), lambda f: jax.vmap(f)(X)),
    "ahead of time": (lambda f: f(X), lambda f: keep(f.lower(X[:3]).compile())),
}
kept = []


def keep(compiled):
    kept.append(compiled)


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_takes_one_place_and_a_repetition_none(cause):
    first, second = CAUSES[cause]
    f = make()

    counts = []
    for call in (first, second, first, second):
        call(f)
        counts.append(f.stats().live)

    assert counts == [1, 2, 2, 2]
    kept.clear()


@pytest.mark.parametrize("cause", CAUSES)
def test_at_the_limit_each_cause_is_refused_and_the_known_one_served(cause):
    first, second = CAUSES[cause]
    f = make(1)
    first(f)

    for _ in range(2):
        with pytest.raises(CompileLimitError) as caught:
            second(f)
        first(f)

    assert caught.value.code == "SJ201"
    assert (f.stats().live, f.stats().compiles, f.stats().refused) == (1, 1, 2)


def test_a_static_value_takes_a_place():
    f = safe_jit(lambda x, n: x * n, static_argnums=1, limits=Limits(max_compiles=2))

    f(X, 1)
    f(X, 2)
    f(X, 1)

    with pytest.raises(CompileLimitError):
        f(X, 3)
    assert f.stats().live == 2


@pytest.mark.parametrize("contract", [None, {"x": spec("f32[...]")}])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_limit_programs_are_made_and_the_next_is_refused(limit, contract):
    f = make(limit, contract=contract)

    for size in range(limit):
        f(np.ones(size, f32))
    with pytest.raises(CompileLimitError):
        f(np.ones(limit, f32))

    for size in range(limit):
        f(np.ones(size, f32))
    assert f.stats().live == f.stats().compiles == limit


@pytest.mark.parametrize("name", ["größe", "日本", 'a"b', "<lambda>", "_", ""])
def test_limit_holds_for_a_function_of_any_name(name):
    """MLIR's own text escapes what is not ASCII: such functions had no limit."""

    def double(x):
        return x * 2

    double.__name__ = name
    f = safe_jit(double, limits=Limits(max_compiles=2))
    f(np.ones(1, f32))
    f(np.ones(2, f32))
    with pytest.raises(CompileLimitError):
        f(np.ones(3, f32))

    assert f.stats().live == 2


class Renamed:
    """Another name each time it is asked."""

    count = 0

    @property
    def __name__(self):
        type(self).count += 1
        return f"name{self.count}"

    def __call__(self, x):
        return x * 2


def renamed():
    def double(x):
        return x * 2

    f = safe_jit(double, limits=Limits(max_compiles=2))
    double.__name__ = "other"
    return f


@pytest.mark.parametrize(
    "make_it",
    [
        renamed,
        lambda: jax.vmap(renamed()),
        lambda: safe_jit(Renamed(), limits=Limits(max_compiles=2)),
    ],
    ids=["function", "under vmap", "callable"],
)
def test_limit_holds_for_a_function_that_is_renamed_later(make_it):
    """JAX names a program when it traces, and limits went by the first name."""
    f = make_it()
    f(np.ones((1, 1), f32))
    f(np.ones((1, 2), f32))
    with pytest.raises(CompileLimitError):
        f(np.ones((1, 3), f32))


def test_numpy_and_jax_arrays_of_one_type_share_a_place():
    f = make(1)

    f(X)
    f(jnp.asarray(X))
    f(X.copy())

    assert f.stats().live == 1


def test_a_function_that_raises_while_traced_gives_its_place_back():
    def f(x):
        if x.shape[0] > 2:
            raise ValueError("mine")
        return x

    g = safe_jit(f, limits=Limits(max_compiles=2))
    for size in range(3, 20):
        with pytest.raises(ValueError, match="mine"):
            g(np.ones(size, f32))

    g(np.ones(1, f32))
    g(np.ones(2, f32))
    with pytest.raises(CompileLimitError):
        g(np.ones(0, f32))
    assert (g.stats().live, g.stats().compiles) == (2, 2)


def test_a_function_that_fails_after_tracing_gives_its_place_back():
    f = safe_jit(lambda x: lambda: 0, limits=Limits(max_compiles=1))

    for _ in range(3):
        with pytest.raises(TypeError):
            f(X)

    assert f.stats().live == 0
    g = safe_jit(lambda x: x, limits=Limits(max_compiles=1))
    g(X)
    assert g.stats().live == 1


def test_an_interrupt_while_tracing_leaves_no_reservation():
    hits = []

    def f(x):
        hits.append(x)
        if len(hits) < 4:
            raise KeyboardInterrupt
        return x

    before = safejax.process_stats().live
    g = safe_jit(f, limits=Limits(max_compiles=1))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            g(X)

    g(X)
    assert g.stats().live == 1
    assert safejax.process_stats().live == before + 1


def test_a_lowered_program_counts_when_it_is_compiled_and_while_it_lives():
    f = make(2)

    lowered = f.lower(X)
    assert f.stats().live == 0
    compiled = lowered.compile()
    assert f.stats().live == 1
    compiled(X)
    f(np.ones(1, f32))
    with pytest.raises(CompileLimitError):
        f.lower(np.ones(2, f32)).compile()

    assert f.stats().live == 2


def test_under_an_outer_jit_the_outer_function_owns_the_program():
    f = make(1)
    outer = safe_jit(lambda x: f(x) + 1, limits=Limits(max_compiles=2))

    outer(X)
    outer(X[:2])
    jax.jit(f)(X[:3])

    assert f.stats().live == 0
    assert outer.stats().live == 2


def test_grad_and_vmap_outside_of_jit_count_here():
    f = safe_jit(lambda x: (x * x).sum(), limits=Limits(max_compiles=32))

    jax.grad(f)(jnp.ones(3))
    assert f.stats().live >= 1
    before = f.stats().live
    jax.grad(f)(jnp.ones(3))
    assert f.stats().live == before


def test_programs_compiled_by_the_function_while_it_is_traced_are_not_its_own():
    def f(x):
        with jax.ensure_compile_time_eval():
            table = jnp.sin(jnp.arange(17.0)) @ jnp.ones(17)
        return x + table

    g = safe_jit(f, limits=Limits(max_compiles=1))
    g(X)

    assert g.stats().live == 1


def test_clear_cache_frees_every_place():
    f = make(2)
    f(X)
    f(X[:1])

    f.clear_cache()

    assert f.stats().live == 0
    f(X[:2])
    f(X[:3])
    assert (f.stats().live, f.stats().compiles) == (2, 4)


def test_clear_caches_of_jax_frees_every_place():
    f = make(1)
    f(X)

    jax.clear_caches()
    gc.collect()

    assert f.stats().live == 0
    f(X[:2])
    assert f.stats().live == 1


def test_a_function_that_is_dropped_frees_its_places_in_the_process():
    gc.collect()
    before = safejax.process_stats().live
    f = make()
    f(X)
    f(X[:1])
    assert safejax.process_stats().live == before + 2

    del f
    gc.collect()

    assert safejax.process_stats().live == before


def test_wrapping_the_same_function_again_gives_no_new_allowance():
    def f(x):
        return x + 1

    limits = Limits(max_compiles=2)
    safe_jit(f, limits=limits)(X)
    second = safe_jit(f, limits=limits)
    second(X)
    second(X[:1])

    for _ in range(3):
        with pytest.raises(CompileLimitError):
            safe_jit(f, limits=limits)(X[:2])
    assert second.stats().live == 2


@contextlib.contextmanager
def process_limit(room):
    gc.collect()
    live = safejax.process_stats().live
    before = safejax.set_process_limits(ProcessLimits(max_compiles=live + room))
    try:
        yield
    finally:
        safejax.set_process_limits(before)


@pytest.mark.parametrize("contract", [None, {"x": spec("f32[...]")}])
def test_the_budget_of_the_process_holds_over_all_functions(contract):
    fs = [make(contract=contract) for _ in range(4)]

    with process_limit(3):
        for f in fs[:3]:
            f(X)
        with pytest.raises(CompileLimitError) as caught:
            fs[3](X)
        fs[0](X)
        fs[1].clear_cache()
        fs[3](X)

    assert caught.value.code == "SJ202"
    assert caught.value.details["max_compiles"] >= 3


def test_the_budget_of_the_process_never_evicts():
    f = make()
    evicting = safe_jit(lambda x: x, limits=Limits(max_compiles=4, on_limit="evict"))

    with process_limit(2):
        f(X)
        evicting(X)
        with pytest.raises(CompileLimitError):
            evicting(X[:1])
        f(X)

    assert (f.stats().live, evicting.stats().live) == (1, 1)


def test_a_cap_inside_a_contract_counts_casts_once():
    f = make(1, contract={"x": spec("f32[4]")}, on_dtype="cast")

    for dtype in (np.float64, np.float16, np.int8, f32):
        f(X.astype(dtype))

    assert f.stats().live == 1


def test_a_donated_argument_changes_no_count():
    f = make(1, donate_argnums=0)

    for _ in range(3):
        f(jnp.ones(4))

    assert f.stats().live == 1


def test_recursion_through_smaller_shapes_counts_one_program_each():
    f = functools.partial(int)

    def g(x):
        return x.sum() if x.shape[0] == 1 else x.sum() + f(x[1:])

    f = safe_jit(g, limits=Limits(max_compiles=2))
    assert f(jnp.ones(4)) == 10
    assert f.stats().live == 1
