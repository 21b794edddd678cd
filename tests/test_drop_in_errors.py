"""Errors under safe_jit are those of jax.jit: type, words, cause, notes and frames.

Each snippet raises; what is compared includes every frame of the traceback that JAX
shows, so that a frame of safejax in it fails the test. ``quiet`` snippets catch what
they raise, or only warn.
"""

# ruff: noqa: PLW0108  a lambda is a function of its own to jit

from __future__ import annotations

import contextlib
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differential import Snippets, assert_same
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import safejax

errors = Snippets()
quiet = Snippets()

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("snippet", errors)
def test_raises_what_jax_jit_raises(snippet):
    observed = assert_same(snippet)

    assert observed.error is not None


@pytest.mark.parametrize("snippet", quiet)
def test_shows_what_jax_jit_shows(snippet):
    observed = assert_same(snippet)

    assert observed.error is None


def test_unfiltered_traceback_still_ends_in_the_users_function():
    def f(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        safejax.safe_jit(f)(X)

    assert caught.traceback[-1].name == "f"


# --- JAX's own refusals while it traces -------------------------------------------


@errors
def branch_on_a_tracer(jit):
    jit(lambda x: 1 if x > 0 else 2)(1.0)


@errors
def float_of_a_tracer(jit):
    jit(lambda x: float(x))(1.0)


@errors
def tracer_as_a_shape(jit):
    jit(lambda n: jnp.zeros(n))(3)


@errors
def tracer_as_an_index_of_a_list(jit):
    jit(lambda i: [1, 2][i])(0)


@errors
def numpy_function_on_a_tracer(jit):
    jit(lambda x: np.sin(x))(X)


@errors
def loop_over_a_traced_range(jit):
    jit(lambda n: list(range(n)))(3)


@errors
def boolean_mask_of_unknown_size(jit):
    jit(lambda x: x[x > 0])(X)


@errors
def assignment_to_a_traced_array(jit):
    def f(x):
        x[0] = 1.0
        return x

    jit(f)(jnp.asarray(X))


@errors
def leaked_tracer_is_used(jit):
    leaked = []
    jit(lambda x: leaked.append(x))(1.0)
    return leaked[0] + 1


@errors
def leaked_tracer_goes_into_another_function(jit):
    leaked = []
    jit(lambda x: leaked.append(x * 2))(1.0)
    return jit(lambda x: x + leaked[0])(1.0)


@errors
def leak_checker_finds_a_leak(jit):
    leaked = []
    with jax.checking_leaks():
        try:
            jit(lambda x: leaked.append(x * 2))(1.0)
        except Exception as error:  # noqa: BLE001
            # The rest of the message is the chain of references to the tracer.
            raise type(error)(str(error).partition("\n")[0]) from None


@errors
def incompatible_shapes_inside(jit):
    def inner(a, b):
        return a + b

    jit(lambda x: inner(x, jnp.zeros((4, 5))))(X)


@errors
def dtype_error_inside(jit):
    jit(lambda x: jax.lax.add(x, jnp.zeros((2, 3), jnp.int32)))(X)


@errors
def carry_type_changes_in_scan(jit):
    jit(lambda x: jax.lax.scan(lambda c, _: (c.sum(), None), x, None, length=2))(X)


@errors
def gradient_of_an_integer(jit):
    jax.grad(jit(lambda x: x * 2))(1)


@errors
def gradient_of_a_vector(jit):
    jax.grad(jit(lambda x: x * 2))(X)


@errors
def unbound_axis_name(jit):
    jit(lambda x: jax.lax.psum(x, "i"))(X)


# --- arguments --------------------------------------------------------------------


@errors
def string_argument(jit):
    jit(lambda x: x)("text")


@errors
def object_argument_deep_in_a_tree(jit):
    jit(lambda tree: tree)({"a": [1.0, object]})


@errors
def function_argument(jit):
    jit(lambda f, x: f(x))(jnp.sin, X)


@errors
def object_array_argument(jit):
    jit(lambda x: x)(np.array([object()]))


@errors
def text_array_argument(jit):
    jit(lambda x: x)(np.array(["a", "b"]))


@errors
def too_large_integer(jit):
    jit(lambda x: x)(2**70)


@errors
def integer_beyond_thirty_two_bits(jit):
    jit(lambda x: x)(2**40)


@errors
def missing_argument(jit):
    jit(lambda x, y: x)(X)


@errors
def too_many_arguments(jit):
    jit(lambda x: x)(X, X)


@errors
def unknown_keyword(jit):
    jit(lambda x: x)(X, scale=2)


@errors
def argument_given_twice(jit):
    jit(lambda x, y=1: x)(X, x=X)


@errors
def static_argument_missing(jit):
    jit(lambda x, n: x, static_argnums=1)(X)


@errors
def unhashable_static_argument(jit):
    jit(lambda n, x: x, static_argnums=0)([1], X)


@errors
def unhashable_static_keyword(jit):
    jit(lambda x, n=None: x, static_argnames="n")(X, n={"a": 1})


@errors
def static_argument_that_is_an_array(jit):
    jit(lambda n, x: x, static_argnums=0)(jnp.asarray(1), X)


@errors
def static_argument_whose_hash_raises(jit):
    class Bad:
        def __hash__(self):
            raise RuntimeError("no hash")

    jit(lambda n, x: x, static_argnums=0)(Bad(), X)


@errors
def static_argument_whose_equality_raises(jit):
    class Bad:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            raise RuntimeError("no equality")

    f = jit(lambda n, x: x, static_argnums=0)
    f(Bad(), X)
    f(Bad(), X)


@errors
def traced_value_in_a_static_position(jit):
    f = jit(lambda n, x: x * n, static_argnums=0)
    jit(lambda n: f(n, X))(2)


@errors
def custom_node_that_cannot_be_flattened(jit):
    @jax.tree_util.register_pytree_node_class
    class Bad:
        def tree_flatten(self):
            raise RuntimeError("not flat")

        @classmethod
        def tree_unflatten(cls, aux, children):
            return cls()

    jit(lambda tree: tree)(Bad())


@errors
def keys_that_cannot_be_compared(jit):
    jit(lambda tree: tree)({1: 1.0, "a": 2.0})


@errors
def donated_array_is_used_again(jit):
    x = jnp.asarray(X)
    jit(lambda a: a + 1, donate_argnums=0)(x)
    return x + 1


@errors
def donated_array_is_passed_again(jit):
    x = jnp.asarray(X)
    f = jit(lambda a: a + 1, donate_argnums=0)
    f(x)
    f(x)


@errors
def one_array_is_donated_twice_in_a_call(jit):
    x = jnp.asarray(X)
    jit(lambda a, b: a + b, donate_argnums=(0, 1))(x, x)


@errors
def deleted_array_is_passed(jit):
    x = jnp.asarray(X)
    x.delete()
    jit(lambda a: a + 1)(x)


@errors
def inputs_committed_to_different_devices(jit):
    first, second = jax.devices()[:2]
    jit(lambda a, b: a + b)(jax.device_put(X, first), jax.device_put(X, second))


@errors
def sharding_that_does_not_divide(jit):
    rows = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("d",)), PartitionSpec("d"))
    jit(lambda x: x, in_shardings=rows)(X.T)


# --- results ----------------------------------------------------------------------


@errors
def result_that_is_no_array(jit):
    jit(lambda x: "text")(X)


@errors
def result_with_an_object_in_a_tree(jit):
    jit(lambda x: {"a": x, "b": object})(X)


@errors
def out_shardings_of_another_structure(jit):
    where = SingleDeviceSharding(jax.devices()[0])
    jit(lambda x: x, out_shardings=(where, where))(X)


@errors
def in_shardings_of_another_structure(jit):
    where = SingleDeviceSharding(jax.devices()[0])
    jit(lambda x: x, in_shardings=(where, where))(X)


# --- decoration -------------------------------------------------------------------


@errors
def something_that_cannot_be_called(jit):
    jit(5)


@errors
def none_instead_of_a_function(jit):
    jit(None)


@errors
def generator_function(jit):
    def f(x):
        yield x

    jit(f)(X)


@errors
def coroutine_function(jit):
    async def f(x):
        return x

    def closed(x):
        coroutine = f(x)
        # One that nobody awaits warns when it is collected, in whatever test that is.
        coroutine.close()
        return coroutine

    jit(closed)(X)


@errors
def staticmethod_object_of_old_style(jit):
    jit(classmethod(lambda cls, x: x))


@errors
def static_number_out_of_range(jit):
    jit(lambda x: x, static_argnums=3)


@errors
def negative_static_number_out_of_range(jit):
    jit(lambda x: x, static_argnums=-3)


@errors
def static_name_that_does_not_exist(jit):
    jit(lambda x: x, static_argnames="y")


@errors
def static_number_of_wrong_type(jit):
    jit(lambda x: x, static_argnums="0")


@errors
def static_name_of_wrong_type(jit):
    jit(lambda x: x, static_argnames=3)


@errors
def static_and_donated_at_once(jit):
    jit(lambda x: x, static_argnums=0, donate_argnums=0)


@errors
def donated_number_out_of_range(jit):
    jit(lambda x: x, donate_argnums=2)(X)


@errors
def donated_name_that_does_not_exist(jit):
    jit(lambda x: x, donate_argnames="y")


@errors
def unknown_option(jit):
    jit(lambda x: x, static_args=0)


@errors
def option_by_position(jit):
    try:
        jit(lambda x: x, 0)
    except TypeError as error:
        # The message names the function that was called.
        text = str(error).removeprefix("safe_").partition("\n")[0]
        raise TypeError(text) from None


@errors
def device_and_backend_at_once(jit):
    jit(lambda x: x, device=jax.devices()[0], backend="cpu")(X)


@errors
def unknown_backend(jit):
    jit(lambda x: x, backend="abacus")(X)


@errors
def device_and_shardings_at_once(jit):
    where = SingleDeviceSharding(jax.devices()[0])
    jit(lambda x: x, device=jax.devices()[0], in_shardings=where)


@errors
def unknown_compiler_option(jit):
    jit(lambda x: x + 1, compiler_options={"xla_no_such_flag": True})(X)


@errors
def keyword_arguments_with_in_shardings(jit):
    where = SingleDeviceSharding(jax.devices()[0])
    jit(lambda x: x, in_shardings=where)(x=X)


# --- errors of the user's function ------------------------------------------------


class CustomError(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code


@errors
def custom_exception(jit):
    def helper():
        raise CustomError(7)

    jit(lambda x: helper())(X)


@errors
def exception_with_a_cause_and_a_note(jit):
    def f(x):
        try:
            _ = {}["absent"]
        except KeyError as error:
            problem = ValueError("bad")
            problem.add_note("seen by the user")
            raise problem from error

    jit(f)(X)


@errors
def exception_without_context(jit):
    def f(x):
        try:
            _ = {}["absent"]
        except KeyError:
            raise ValueError("bad") from None

    jit(f)(X)


@errors
def exception_through_three_jitted_functions(jit):
    @jit
    def inner(x):
        raise ValueError("deep")

    @jit
    def middle(x):
        return inner(x)

    jit(lambda x: middle(x))(X)


@errors
def exception_under_grad_vmap_and_scan(jit):
    def loss(x):
        raise ValueError("deep")

    def body(carry, x):
        return carry, jax.vmap(jax.grad(jit(loss)))(x)

    jit(lambda x: jax.lax.scan(body, 0.0, x))(X)


@errors
def exception_in_a_method(jit):
    class Model:
        @jit
        def apply(self):
            return 1

    Model().apply()


@errors
def stop_iteration(jit):
    jit(lambda x: next(iter(())))(X)


@errors
def exception_group(jit):
    def f(x):
        raise ExceptionGroup("two", [ValueError("a"), TypeError("b")])

    jit(f)(X)


@errors
def endless_recursion(jit):
    def f(x):
        return f(x)

    try:
        jit(f)(X)
    except RecursionError as error:
        raise RuntimeError(str(error)) from None


@errors
def exception_in_a_host_callback(jit):
    def callback(x):
        raise ValueError("on the host")

    try:
        jit(lambda x: jax.pure_callback(callback, x, x))(X).block_until_ready()
    except Exception as error:  # noqa: BLE001
        raise RuntimeError(type(error).__name__) from None


@errors
def exception_in_a_custom_rule(jit):
    @jax.custom_vjp
    def f(x):
        return x

    def backward(residual, g):
        raise ValueError("in the rule")

    f.defvjp(lambda x: (x, None), backward)
    jax.grad(jit(lambda x: f(x).sum()))(X)


@errors
def user_error_when_jit_is_disabled(jit):
    def f(x):
        raise ValueError("eager")

    with jax.disable_jit():
        jit(f)(X)


@errors
def user_error_again_on_the_second_call(jit):
    @jit
    def f(x):
        raise ValueError("each time")

    with contextlib.suppress(ValueError):
        f(X)
    f(X)


@errors
def user_error_after_a_success(jit):
    def f(x):
        if x.ndim == 1:
            raise ValueError("one axis")
        return x

    jitted = jit(f)
    jitted(X)
    jitted(X[0])


# --- checks that are switched on --------------------------------------------------


@errors
def debug_nans_in_a_jitted_function(jit):
    with jax.debug_nans(True):
        jit(lambda x: jnp.log(x))(-1.0)


@errors
def debug_infs_in_a_jitted_function(jit):
    with jax.debug_infs(True):
        jit(lambda x: 1.0 / x)(0.0)


@errors
def debug_nans_in_a_known_program(jit):
    with jax.debug_nans(True):
        f = jit(lambda x: jnp.log(x))
        f(1.0)
        f(-1.0)


@errors
def strict_dtype_promotion(jit):
    with jax.numpy_dtype_promotion("strict"):
        jit(lambda x: x + jnp.zeros(3, jnp.int16))(X)


@errors
def rank_promotion_raises(jit):
    with jax.numpy_rank_promotion("raise"):
        jit(lambda x: x + jnp.zeros(3))(X)


@errors
def transfer_guard_disallows_numpy_inputs(jit):
    f = jit(lambda x: x + 1)
    f(X)
    with jax.transfer_guard("disallow"):
        f(X)


@errors
def no_tracing_forbids_a_new_trace(jit):
    from jax._src import config

    f = jit(lambda x: x + 1)
    f(X)
    with config.no_tracing(True):
        f(X)
        f(X[0])


# --- quiet ------------------------------------------------------------------------


@quiet
def keyboard_interrupt_and_exit_pass_through(jit):
    def stop(x):
        raise KeyboardInterrupt

    def leave(x):
        raise SystemExit(3)

    caught = []
    for f in (stop, leave):
        try:
            jit(f)(X)
        except BaseException as error:  # noqa: BLE001
            caught.append((type(error), error.args))
    return caught


@quiet
def exception_object_is_the_users_own(jit):
    problem = ValueError("same")

    def f(x):
        raise problem

    try:
        jit(f)(X)
    except ValueError as error:
        return error is problem, len(traceback.extract_tb(error.__traceback__))


@quiet
def printed_traceback(jit):
    def inner(x):
        raise ValueError("shown")

    try:
        jit(lambda x: inner(x))(X)
    except ValueError:
        return traceback.format_exc()


@quiet
def printed_traceback_of_a_nested_call(jit):
    @jit
    def inner(x):
        return x + jnp.zeros(7)

    try:
        jax.grad(jit(lambda x: inner(x).sum()))(X)
    except (TypeError, ValueError):
        return traceback.format_exc()


@quiet
def printed_traceback_of_lower_and_trace(jit):
    texts = []
    for stage in ("lower", "trace", "eval_shape"):
        try:
            getattr(jit(lambda x: x + jnp.zeros(7)), stage)(X)
        except (TypeError, ValueError):
            texts.append(traceback.format_exc())
    return texts


@quiet
def traceback_hide_mode(jit):
    texts = []
    for mode in ("remove_frames", "tracebackhide", "quiet_remove_frames"):
        before = jax.config.jax_traceback_filtering
        jax.config.update("jax_traceback_filtering", mode)
        try:
            jit(lambda x: x + jnp.zeros(7))(X)
        except (TypeError, ValueError) as error:
            names = [f.name for f in traceback.extract_tb(error.__traceback__)]
            cause = error.__cause__
            texts.append((mode, names if mode != "tracebackhide" else [], type(cause)))
        finally:
            jax.config.update("jax_traceback_filtering", before)
    return texts


@quiet
def user_warning_while_tracing(jit):
    import warnings

    def f(x):
        warnings.warn("from the user", stacklevel=1)
        return x

    def g(x):
        warnings.warn("from the caller's line", stacklevel=2)
        return x

    return jit(f)(X), g(X)


@quiet
def narrowing_inside_warns_once_per_trace(jit):
    f = jit(lambda x: x.astype(jnp.float64) + jnp.zeros(3, "int64"))
    return f(X), f(X)


@quiet
def checkify_reports_the_users_check(jit):
    from jax.experimental import checkify

    def f(x):
        checkify.check(x > 0, "must be positive: {x}", x=x)
        return jnp.log(x)

    problem, out = checkify.checkify(jit(f), errors=checkify.all_checks)(-1.0)
    return problem.get(), out


@quiet
def checkify_inside_a_jitted_function(jit):
    from jax.experimental import checkify

    f = jit(checkify.checkify(lambda x: x[5], errors=checkify.index_checks))
    problem, _ = f(jnp.asarray(X))
    return problem.get()
