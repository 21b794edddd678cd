"""The caches of safe_jit are those of jax.jit: who traces when, and who dies when."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differential import Snippets, assert_same, counting

snippets = Snippets()

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("snippet", snippets)
def test_shows_what_jax_jit_shows(snippet):
    observed = assert_same(snippet)

    assert observed.error is None


# --- tracing and caching ----------------------------------------------------------


def _count_traces(jit, calls, **options):
    traces = []

    def f(*args, **kwargs):
        traces.append(1)
        return jax.tree.leaves((args, kwargs))

    jitted = jit(f, **options)
    with counting() as misses:
        for args, kwargs in calls:
            jitted(*args, **kwargs)
    return len(traces), list(misses)


@snippets
def same_shape_other_values_do_not_retrace(jit):
    return _count_traces(jit, [((X,), {}), ((X + 1,), {}), ((X * 2,), {})])


@snippets
def shape_dtype_and_structure_retrace(jit):
    calls = [X, X.T, X.astype(np.int32), [X], (X,), {"a": X}, None, 1, 1.0, True, X]
    return _count_traces(jit, [((x,), {}) for x in calls])


@snippets
def numpy_and_jax_arrays_share_a_trace(jit):
    return _count_traces(jit, [((x,), {}) for x in (X, jnp.asarray(X), X, X.copy())])


@snippets
def weak_and_strong_scalars_retrace(jit):
    values = [1.0, np.float32(1), jnp.float32(1), 2.0, jnp.asarray(2.0), np.array(1.0)]
    return _count_traces(jit, [((x,), {}) for x in values])


@snippets
def positional_and_keyword_calls_retrace_alike(jit):
    return _count_traces(jit, [((X,), {}), ((), {"x": X}), ((X, X), {}), ((X,), {})])


@snippets
def two_wrappers_of_one_function_share_traces(jit):
    def f(x):
        return x + 1

    with counting() as misses:
        jit(f)(X), jit(f)(X), jit(f, keep_unused=True)(X)
    return list(misses)


@snippets
def jit_in_a_loop_compiles_once(jit):
    def f(x):
        return x + 1

    with counting() as misses:
        for _ in range(5):
            jit(f)(X)
    return list(misses)


@snippets
def lambda_in_a_loop_compiles_each_time(jit):
    with counting() as misses:
        for _ in range(3):
            jit(lambda x: x + 1)(X)
    return list(misses)


@snippets
def clear_cache_makes_the_next_call_trace(jit):
    f, g = jit(lambda x: x + 1), jit(lambda x: x + 2)
    f(X), g(X)
    f.clear_cache()
    with counting() as misses:
        f(X), g(X), f(X)
    return list(misses), f._cache_size()


@snippets
def jax_clear_caches_makes_the_next_call_trace(jit):
    f = jit(lambda x: x + 1)
    f(X)
    jax.clear_caches()
    with counting() as misses:
        out = f(X), f(X)
    return out, list(misses)


@snippets
def failed_trace_is_not_cached(jit):
    attempts = []

    @jit
    def f(x):
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return x

    for _ in range(2):
        with contextlib.suppress(ValueError):
            f(X)
    return f(X), f(X), len(attempts)


@snippets
def result_is_not_cached_across_global_state(jit):
    scale = [2.0]
    f = jit(lambda x: x * scale[0])
    before = f(X)
    scale[0] = 3.0
    return before, f(X)


def _contexts():
    yield "nothing", contextlib.nullcontext()
    yield "x64", jax.enable_x64(True)
    yield "precision", jax.default_matmul_precision("float32")
    yield "promotion", jax.numpy_dtype_promotion("strict")
    yield "rank", jax.numpy_rank_promotion("raise")
    yield "device", jax.default_device(jax.devices()[1])
    yield "nans", jax.debug_nans(True)
    yield "prng", jax.default_prng_impl("rbg")
    yield "threefry", jax.threefry_partitionable(False)


@snippets
def configuration_contexts_retrace_alike(jit):
    f = jit(lambda x: x @ x.T)
    seen = []
    for name, context in [*_contexts(), *_contexts()]:
        with counting() as misses, context:
            out = f(X)
        seen.append((name, out, list(misses)))
    return seen


@snippets
def mesh_context_retraces_alike(jit):
    f = jit(lambda x: x + 1)
    with counting() as misses:
        out = [f(X)]
        with jax.set_mesh(jax.make_mesh((2,), ("d",))):
            out += [f(X), f(X)]
        out += [f(X)]
    return out, list(misses)


@snippets
def many_shapes_below_the_cap(jit):
    f = jit(lambda x: x.sum())
    with counting() as misses:
        out = [f(np.ones(n, np.float32)) for n in [*range(1, 9), *range(1, 9)]]
    return out, list(misses)


# --- lives ------------------------------------------------------------------------


def _collected(*references):
    gc.collect()
    return [reference() is None for reference in references]


@snippets
def function_dies_with_its_wrapper(jit):
    def f(x):
        return x + 1

    jitted = jit(f)
    jitted(X)
    references = weakref.ref(f), weakref.ref(jitted)
    del f, jitted
    return _collected(*references)


@snippets
def wrapper_dies_without_a_garbage_collection(jit):
    gc.collect()
    gc.disable()
    try:
        jitted = jit(lambda x: x + 1)
        jitted(X)
        reference = weakref.ref(jitted)
        del jitted
        return reference() is None
    finally:
        gc.enable()


@snippets
def function_survives_while_the_wrapper_lives(jit):
    def f(x):
        return x + 1

    jitted, reference = jit(f), weakref.ref(f)
    del f
    return _collected(reference), jitted(X)


@snippets
def arguments_and_results_are_not_kept(jit):
    f = jit(lambda x, y: x + y)
    x, y = jnp.asarray(X), jnp.asarray(X)
    z = f(x, y)
    references = [weakref.ref(a) for a in (x, y, z)]
    del x, y, z
    return _collected(*references), f(X, X)


@snippets
def closed_over_array_dies_with_the_function(jit):
    def use_and_drop():
        w = jnp.asarray(X) + 1
        jit(lambda x: x * w)(X)
        return weakref.ref(w)

    return _collected(use_and_drop())


@snippets
def static_argument_lives_as_in_jax(jit):
    class Config:
        pass

    f = jit(lambda c, x: x, static_argnums=0)
    config = Config()
    f(config, X)
    reference = weakref.ref(config)
    del config
    alive = _collected(reference)
    f.clear_cache()
    return alive, _collected(reference)


@snippets
def object_whose_method_is_jitted_dies(jit):
    class Model:
        def __init__(self):
            self.apply = jit(self._apply)

        def _apply(self, x):
            return x + 1

    model = Model()
    model.apply(X)
    reference = weakref.ref(model)
    del model
    return _collected(reference)


@snippets
def exception_does_not_keep_the_arguments(jit):
    def f(x):
        raise ValueError("no")

    x = jnp.asarray(X)
    with contextlib.suppress(ValueError):
        jit(f)(x)
    reference = weakref.ref(x)
    del x
    return _collected(reference)


@snippets
def programs_are_freed_with_their_function(jit):
    client = jax.devices()[0].client
    gc.collect()
    before = len(client.live_executables())
    functions = [jit(lambda x, i=i: x + i) for i in range(4)]
    for f in functions:
        f(X)
    during = len(client.live_executables())
    del functions, f
    gc.collect()
    return during - before, len(client.live_executables()) - before


# --- threads ----------------------------------------------------------------------


@snippets
def eight_threads_get_the_same_answer(jit):
    f = jit(lambda x: (x * 2).sum())
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(f, [X + i for i in range(32)]))


@snippets
def eight_threads_with_eight_shapes(jit):
    f = jit(lambda x: x + 1)
    xs = [np.ones(1 + i % 8, np.float32) for i in range(32)]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(f, xs)), f._cache_size()


@snippets
def another_thread_reuses_the_program(jit):
    f = jit(lambda x: x + 1)
    f(X)
    found = []

    def work():
        with counting() as misses:
            found.append(f(X))
        found.append(list(misses))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found


@snippets
def thread_local_configuration_is_its_own(jit):
    f = jit(lambda x: x)
    out = []

    def work():
        out.append(f(np.float64(1)))

    with jax.enable_x64(True):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        out.append(f(np.float64(1)))
    return out
