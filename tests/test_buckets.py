"""Calls of every size are served from the programs of a few, and answered alike."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import safejax
from safejax import CompileLimitError, ContractError, Limits, safe_jit, spec
from safejax.jit._proving import proving

f32 = np.float32
ROWS = {"x": spec("f32[b, 3]")}
SIZES = {"b": (2, 5)}


def rows(count: int, columns: int = 3) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.standard_normal((count, columns)).astype(f32)


def double(x):
    return 2 * x


def refusal(call, *args, **kwargs) -> ContractError:
    with pytest.raises(ContractError) as caught:
        call(*args, **kwargs)
    return caught.value


# --- answers ----------------------------------------------------------------------


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_many_sizes_are_answered_as_without_buckets_from_a_program_for_each(place):
    @safe_jit(contract=ROWS, buckets={"b": (1, 4, 16)})
    def f(x):
        return {"double": 2 * x, "norm": (x * x).sum(1)}

    for count in (0, 1, 2, 3, 4, 5, 11, 15, 16):
        answer = f(place(rows(count)))
        x = rows(count)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(answer))
        np.testing.assert_array_equal(answer["double"], 2 * x)
        np.testing.assert_allclose(answer["norm"], (x * x).sum(1), rtol=1e-6)

    assert f.stats().live == f.stats().compiles == 3


def test_two_names_are_padded_together_in_every_argument_of_a_tree():
    @safe_jit(
        contract={
            "batch": {"tokens": spec("i32[b, t+1]"), "scores": [spec("f32[b, t]")]},
            "lengths": spec("i32[b]"),
        },
        buckets={"b": (4,), "t": (8,)},
    )
    def f(params, batch, *, lengths):
        tokens, (scores,) = batch["tokens"], batch["scores"]
        return (tokens[:, 1:] * params, scores * lengths[:, None]), lengths + 1

    tokens = np.arange(3 * 6, dtype=np.int32).reshape(3, 6)
    scores, lengths = rows(3, 5), np.arange(3, dtype=np.int32)
    batch = {"tokens": tokens, "scores": [scores]}
    answer = f(jnp.int32(3), batch, lengths=lengths)
    wanted = f.__wrapped__(jnp.int32(3), batch, lengths=lengths)

    jax.tree.map(np.testing.assert_array_equal, answer, wanted)
    assert f.stats().live == 1


def test_a_spec_over_a_subtree_pads_all_of_its_leaves():
    @safe_jit(contract={"xs": spec("f32[b, ...]")}, buckets=SIZES)
    def f(xs):
        return [2 * x for x in xs]

    answer = f([rows(3), rows(3)[:, 0], rows(3)[:, :, None]])

    assert [a.shape for a in answer] == [(3, 3), (3,), (3, 3, 1)]
    np.testing.assert_array_equal(answer[2], 2 * rows(3)[:, :, None])


def test_the_name_of_a_last_axis_is_found_behind_an_ellipsis():
    f = safe_jit(double, contract={"x": spec("f32[..., b]")}, buckets=SIZES)

    for shape in ((3,), (2, 3), (2, 2, 4)):
        assert f(np.ones(shape, f32)).shape == shape


def test_axes_that_do_not_carry_the_name_stay_whole():
    @safe_jit(contract=ROWS, buckets={"b": (3, 8)})
    def f(x):
        return x, jnp.ones((3, 3)), x @ x.T

    whole, square, gram = f(rows(2))

    assert (whole.shape, square.shape, gram.shape) == ((2, 3), (3, 3), (2, 2))


def test_an_answer_of_any_structure_comes_back_whether_it_was_cut_or_not():
    @safe_jit(contract=ROWS, buckets=SIZES)
    def f(x):
        return {"a": (x, None), "b": [], "c": jax.tree_util.Partial(max, x.sum(1))}

    for count in (5, 3, 5):
        answer = f(x=rows(count))
        structure = {"a": (0, None), "b": [], "c": jax.tree_util.Partial(max, 0)}
        assert jax.tree.structure(answer) == jax.tree.structure(structure)
        np.testing.assert_array_equal(answer["a"][0], rows(count))


def test_two_processes_would_make_the_same_program():
    texts = {
        jax.jit(proving(double)).lower(rows(2)).as_text(debug_info=True)
        for _ in range(2)
    }

    assert len(texts) == 1


def test_a_function_that_no_symbolic_size_can_trace_is_understood_by_comparison():
    @safe_jit(contract=ROWS, buckets={"b": (4, 16)})
    def f(x):
        width = 4 if int(x.shape[0]) > 0 else 5  # concrete sizes only
        return x[:, :width], jnp.zeros(3), jnp.repeat(x, 2, axis=0)

    a, b, c = f(rows(3))

    assert (a.shape, b.shape, c.shape) == ((3, 3), (3,), (6, 3))
    np.testing.assert_array_equal(c, np.repeat(rows(3), 2, axis=0))


def test_an_answer_stays_on_the_device_of_its_arguments():
    f = safe_jit(double, contract=ROWS, buckets=SIZES)
    second = jax.devices()[1]

    placed = f(jax.device_put(rows(3), second))

    assert placed.committed
    assert placed.devices() == {second}
    assert not f(rows(3)).committed


def test_arrays_of_jax_are_padded_where_no_transfer_is_admitted():
    f = safe_jit(double, contract=ROWS, buckets=SIZES)
    x = jnp.asarray(rows(3))

    with jax.transfer_guard("disallow"):
        answer = f(x)

    np.testing.assert_array_equal(answer, 2 * rows(3))


def test_narrow_dtypes_and_scalars_beside_them_are_served():
    contract = {"x": spec("bf16[b]"), "flags": spec("bool[b]"), "n": spec("i8[b]")}

    @safe_jit(contract=contract, buckets=SIZES)
    def f(x, flags, n, scale=1.0):
        return x * scale, ~flags, n + 1

    x = np.ones(3, jnp.bfloat16)
    answer = f(x, np.ones(3, bool), np.zeros(3, np.int8), scale=2.0)

    assert [a.dtype for a in answer] == [jnp.bfloat16, np.bool_, np.int8]
    assert [a.shape for a in answer] == [(3,)] * 3


# --- what the padding is ----------------------------------------------------------


def test_padding_is_the_value_that_was_asked_for_and_nothing_of_an_earlier_call():
    seen = []

    @safe_jit(
        contract={"x": spec("f32[b]"), "n": spec("i32[b]")},
        buckets={"b": (5,)},
        pad_value={"n": -1},
    )
    def f(x, n):
        jax.debug.callback(lambda *given: seen.append(given), x, n)
        return x, n

    for value in (7, 8):
        jax.effects_barrier()
        seen.clear()
        jax.block_until_ready(f(np.full(3, value, f32), np.full(3, value, np.int32)))
    jax.effects_barrier()
    ((x, n),) = seen

    np.testing.assert_array_equal(x, [8, 8, 8, 0, 0])
    np.testing.assert_array_equal(n, [8, 8, 8, -1, -1])


@pytest.mark.parametrize(
    "pad_value", [1.5, 2**31, "a", {"x": 1.5}, {"y": 0}, {"x": None}]
)
def test_a_value_that_the_padding_can_not_have_is_refused(pad_value):
    error = refusal(
        safe_jit,
        double,
        contract={"x": spec("i32[b]")},
        buckets=SIZES,
        pad_value=pad_value,
    )

    assert error.code == "SJ102"
    assert "pad_value" in str(error)


# --- the mask ---------------------------------------------------------------------


@safe_jit(
    contract={"x": spec("f32[b, t]")}, buckets={"b": (4,), "t": (8,)}, mask="mask"
)
def masked_mean(x, *, mask):
    real = mask["b"][:, None] & mask["t"]
    return jnp.where(real, x, 0).sum() / real.sum()


def test_a_mask_says_which_rows_are_real():
    for shape in ((1, 1), (3, 5), (4, 8)):
        x = rows(*shape)
        np.testing.assert_allclose(masked_mean(x), x.mean(), rtol=1e-5)

    assert masked_mean.stats().live == 1


def test_the_mask_is_not_the_callers_to_give():
    assert list(inspect.signature(masked_mean).parameters) == ["x"]
    with pytest.raises(TypeError, match="mask"):
        masked_mean(rows(3), mask={})


def test_a_mask_that_is_taken_and_not_used_does_not_help():
    @safe_jit(contract=ROWS, buckets=SIZES, mask="real")
    def f(x, real=None):
        return x - x.mean(0)

    assert refusal(f, rows(3)).code == "SJ103"


def test_the_mask_comes_with_clipped_values_and_annotations():
    @safe_jit(contract="annotations", buckets=SIZES, mask="mask")
    def f(
        x: Annotated[jax.Array, spec("f32[b]", maximum=1.0, on_violation="clip")],
        *,
        mask: dict[str, jax.Array],
    ):
        return jnp.where(mask["b"], x, 0).sum()

    assert float(f(np.full(3, 9, f32))) == 3.0


@pytest.mark.parametrize(
    ("fun", "mask"),
    [
        (lambda x: x, "mask"),
        (lambda x, mask, y: x, "mask"),
        (lambda mask, /: 0, "mask"),
    ],
)
def test_a_mask_that_could_not_be_passed_is_refused(fun, mask):
    with pytest.raises(TypeError, match="mask="):
        safe_jit(fun, contract={}, buckets=SIZES, mask=mask)


# --- before the first call --------------------------------------------------------


def test_all_buckets_are_made_ahead_and_none_after_freezing():
    @safe_jit(contract={"x": spec("f32[b, t]")}, buckets={"b": (1, 4), "t": (2, 8)})
    def f(x, scale=2.0):
        return x * scale

    assert f.precompile().error is None
    f.freeze()
    for shape in ((1, 1), (1, 8), (3, 2), (4, 7)):
        np.testing.assert_array_equal(f(rows(*shape)), 2 * rows(*shape))

    assert f.stats().compiles == f.stats().live == 4
    assert f.stats().refused == 0
    before = f.stats().compiles
    with pytest.raises(CompileLimitError):
        f(rows(3, 2), 2)
    assert f.stats().compiles == before


def test_arguments_without_buckets_are_given_to_precompile():
    @safe_jit(contract={"w": None, **ROWS}, buckets=SIZES)
    def f(w, x):
        return x @ w

    with pytest.raises(TypeError, match="needs w"):
        f.precompile()
    f.precompile(jax.ShapeDtypeStruct((3, 2), f32))
    f.freeze()

    np.testing.assert_array_equal(f(np.eye(3, 2, dtype=f32), rows(4)), rows(4)[:, :2])
    assert f.stats().live == 2


def test_one_bucket_is_made_ahead_for_arguments_that_fall_into_it():
    f = safe_jit(double, contract=ROWS, buckets=SIZES)

    asyncio.run(f.compile_async(jax.ShapeDtypeStruct((3, 3), f32)))
    (report,) = safejax.precompile([(f, (rows(4),))])

    assert report.error is None
    assert f.stats().live == 1
    assert refusal(f.precompile, rows(3, 4)).code == "SJ101"


def test_buckets_that_no_admitted_size_falls_into_are_not_made():
    f = safe_jit(double, contract=ROWS, buckets={"b": (2, 5, 9)}, dims={"b": (1, 4)})

    f.precompile()

    assert f.stats().live == 2


# --- what is refused --------------------------------------------------------------


def test_a_size_above_the_largest_bucket_breaks_the_contract():
    f = safe_jit(double, contract=ROWS, buckets=SIZES)

    error = refusal(f, rows(6))

    assert error.code == "SJ101"
    assert error.violations[0].expected == "b<=5"
    assert f.stats().violations == 1
    assert f.stats().live == 0


def test_a_function_in_whose_answer_padding_shows_is_refused_each_time():
    @safe_jit(contract={"x": spec("f32[b, t]")}, buckets={"b": (4,), "t": (8,)})
    def f(x):
        return {"centred": x - x.mean(1, keepdims=True)}

    error = refusal(f, rows(3, 5))
    assert error.code == "SJ103"
    assert error.details["output"] == "output['centred']"
    assert error.details["names"] == ["t"]
    assert "mask=" in error.hint
    compiles = f.stats().compiles
    assert refusal(f, rows(2, 2)).code == "SJ103"
    assert f.stats().compiles == compiles == 1


def test_precompiling_such_a_function_stops_at_its_first_program():
    f = safe_jit(lambda x: x.sum(0), contract=ROWS, buckets={"b": (4, 8, 16)})

    assert refusal(f.precompile).code == "SJ103"
    assert f.stats().compiles == 1


def test_the_naive_padding_of_such_a_function_answers_wrongly_and_says_nothing():
    """What the refusal is for: plain JAX, padded by hand."""
    naive = jax.jit(lambda x: x.mean(0))
    padded = np.zeros((8, 3), f32)
    padded[:3] = 1

    assert float(naive(padded)[0]) != 1.0
    error = refusal(
        safe_jit(lambda x: x.mean(0), contract=ROWS, buckets={"b": (8,)}), rows(3)
    )
    assert error.code == "SJ103"


def test_an_answer_that_is_nowhere_finite_can_not_be_tried():
    f = safe_jit(lambda x: x * jnp.nan, contract=ROWS, buckets=SIZES)

    error = refusal(f, rows(3))

    assert (error.code, error.details["kind"]) == ("SJ103", "blind")


def test_sizes_that_follow_no_rule_are_refused():
    def f(x):
        return jnp.zeros(int(x.shape[0]) ** 2)

    error = refusal(safe_jit(f, contract=ROWS, buckets={"b": (4, 9)}), rows(3))

    assert error.code == "SJ103"


def test_a_caller_can_not_blind_the_trials_with_what_it_sends():
    contract = {"x": spec("f32[b]"), "scale": spec("f32[]")}
    f = safe_jit(lambda x, scale: x * scale, contract=contract, buckets=SIZES)

    assert np.isnan(f(np.ones(3, f32), f32(np.nan))).all()
    np.testing.assert_array_equal(f(np.ones(3, f32), f32(2)), [2, 2, 2])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"buckets": {"c": (1,)}}, "names 'c'"),
        ({"buckets": {"b": (4, 2)}}, "ascending"),
        ({"buckets": {"b": ()}}, "ascending"),
        ({"buckets": {"b": (0, 2)}}, "ascending"),
        ({"buckets": {"b": (True,)}}, "ascending"),
        ({"buckets": {}}, "dict"),
        ({"buckets": {"b": range(1, 40)}}, "39 programs"),
        ({"contract": {"x": spec("f32[b*t]"), "y": spec("f32[b, t]")}}, "b*t"),
        ({"contract": {"x": spec("f32[floordiv(b, 2)]"), "y": spec("f32[b]")}}, "//"),
        ({"contract": {"x": spec("key[b]")}}, "can't be padded"),
        ({"contract": {"z": spec("f32[b]")}}, "z can't be padded"),
        ({"contract": None}, "without contract"),
        ({"dims": {"b": (9, 9)}}, "constraints"),
    ],
)
def test_buckets_that_do_not_suit_the_contract_are_refused(options, text: str):
    def f(x, y=None, *z):
        return x

    error = refusal(safe_jit, f, **{"contract": ROWS, "buckets": SIZES, **options})

    assert error.code == "SJ102"
    assert text in str(error)


@pytest.mark.parametrize(
    "options",
    [
        {"donate_argnums": 0},
        {"donate_argnames": "x"},
        {"in_shardings": jax.sharding.SingleDeviceSharding(jax.devices()[0])},
        {"on_new_signature": "background"},
        {"buckets": None, "mask": "x"},
        {"buckets": None, "pad_value": 1},
    ],
)
def test_options_that_could_not_keep_their_meaning_are_refused(options):
    with pytest.raises(ValueError, match="buckets"):
        safe_jit(double, **{"contract": ROWS, "buckets": SIZES, **options})


def test_powers_of_two_are_the_sizes_between_two_powers():
    assert safejax.powers_of_two(16, 128) == (16, 32, 64, 128)
    assert safejax.powers_of_two(4, 4) == (4,)
    for wrong in ((3, 8), (8, 4), (0, 4), (1, 12), (True, 4)):
        with pytest.raises(ValueError, match="powers_of_two"):
            safejax.powers_of_two(*wrong)


# --- beside the other controls ----------------------------------------------------


def test_transformations_see_the_function_without_buckets():
    """An outer program has a size of its own: there is nothing to save."""

    @safe_jit(contract={"x": spec("f32[b]")}, buckets={"b": (4,)}, mask="mask")
    def f(x, mask=None):
        return (jnp.where(mask["b"], x, 0) ** 2).mean()

    x = np.arange(1, 4, dtype=f32)

    np.testing.assert_allclose(jax.jit(f)(x), (x**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(f)(x), 2 * x / 3, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(f)(np.stack([x, x]))[1], (x**2).mean(), rtol=1e-6
    )
    assert refusal(jax.jit(f), np.ones((2, 2), f32)).code == "SJ101"


def test_each_static_value_has_programs_and_trials_of_its_own():
    @safe_jit(contract=ROWS, buckets={"b": (4,)}, static_argnames="how")
    def f(x, how="double"):
        return 2 * x if how == "double" else x - x.mean(0)

    assert f(rows(3)).shape == (3, 3)
    assert refusal(f, rows(3), how="centre").code == "SJ103"
    assert f(rows(2), "double").shape == (2, 3)


def test_at_the_cap_a_new_bucket_is_refused_and_known_ones_are_served():
    @safe_jit(
        contract=ROWS,
        buckets=SIZES,
        static_argnames="n",
        limits=Limits(max_compiles=2),
    )
    def f(x, n=1):
        return x * n

    f(rows(2)), f(rows(3))

    with pytest.raises(CompileLimitError) as caught:
        f(rows(3), n=2)
    assert caught.value.code == "SJ201"
    assert f(rows(4)).shape == (4, 3)


def test_eviction_keeps_the_programs_that_are_used():
    f = safe_jit(
        double,
        contract=ROWS,
        buckets={"b": (2, 4, 8)},
        limits=Limits(max_compiles=2, on_limit="evict"),
    )

    for count in (1, 3, 7, 2, 8):
        np.testing.assert_array_equal(f(rows(count)), 2 * rows(count))

    assert f.stats().live <= 2
    assert f.stats().evicted > 0


def test_an_untrusted_function_is_traced_and_tried_under_its_policy():
    f = safe_jit(double, contract=ROWS, buckets=SIZES, untrusted=True, isolation="none")

    np.testing.assert_array_equal(f(rows(3)), 2 * rows(3))

    def smuggling(x):
        jax.debug.callback(print, x)
        return x

    bad = safe_jit(
        smuggling, contract=ROWS, buckets=SIZES, untrusted=True, isolation="none"
    )
    with pytest.raises(safejax.SafeJaxError) as caught:
        bad(rows(3))
    assert caught.value.code in ("SJ301", "SJ401")


def test_a_guarded_caller_and_a_tenant_are_served():
    f = safe_jit(double, contract=ROWS, buckets=SIZES)

    with safejax.guard(), safejax.tenant("user-42"):
        assert f(rows(3)).shape == (3, 3)

    assert f.stats().tenants == {"user-42": 1}


def test_values_are_checked_before_they_are_padded():
    contract = {"x": spec("f32[b]", minimum=1.0, finite=True)}
    f = safe_jit(jnp.log, contract=contract, buckets=SIZES)

    assert np.isfinite(f(np.ones(3, f32))).all()
    assert refusal(f, np.zeros(3, f32)).violations[0].rule == "value"


def test_the_methods_of_a_jitted_function_are_there():
    f = safe_jit(double, contract=ROWS, buckets={"b": (8,)})

    assert f.eval_shape(rows(3)).shape == (3, 3)
    assert f.lower(rows(3)).compile()(np.ones((8, 3), f32)).shape == (8, 3)
    assert f.trace(rows(3)).out_info.shape == (8, 3)
    assert "mul" in str(f.review(rows(3)))
    assert refusal(f.lower, rows(9)).code == "SJ101"
    f(rows(3))
    f.clear_cache()
    assert f.stats().live == 0
    assert f(rows(3)).shape == (3, 3)


def test_a_method_of_a_class_has_buckets():
    class Model:
        @safe_jit(contract={"x": spec("f32[b]")}, buckets=SIZES, static_argnames="self")
        def predict(self, x):
            return x + 1

    assert Model().predict(np.ones(3, f32)).shape == (3,)


def test_without_jit_the_answers_are_the_same():
    f = safe_jit(double, contract=ROWS, buckets=SIZES)

    with jax.disable_jit():
        np.testing.assert_array_equal(f(rows(3)), 2 * rows(3))


def test_racing_threads_make_each_program_once():
    f = safe_jit(double, contract=ROWS, buckets={"b": (4, 8)})
    wrong, start = [], threading.Barrier(6)

    def work(seed: int) -> None:
        start.wait()
        for count in (1 + seed, 8 - seed, 4, 8):
            if not np.array_equal(f(rows(count)), 2 * rows(count)):
                wrong.append(count)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert f.stats().compiles == 2
