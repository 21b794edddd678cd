"""Budgets of a traced program: each can be exceeded, and says which lines are why."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from reviewing import judge, refusal, this_line

import safejax
from safejax import Limits
from safejax.review import _report

X = np.ones((64, 64), np.float32)
GIB = 2**30


def unrolled(x: Any) -> Any:
    for _ in range(300):
        x = jnp.sin(x)  # many
    return x + jnp.cos(x)  # few


def test_equations_beyond_the_budget_are_refused_with_the_heaviest_lines():
    error = refusal(unrolled, X, limits=Limits(max_equations=100))
    many, few = this_line("many", __file__), this_line("few", __file__)

    assert error.code == "SJ403"
    assert (error.details["limit"], error.details["got"]) == (100, 302)
    assert [s["line"] for s in error.details["sources"]] == [many, few]
    assert [s["weight"] for s in error.details["sources"]] == [300, 2]
    assert f"test_review_budgets.py:{many} (300)" in str(error)


def test_equations_are_counted_as_xla_gets_them_with_calls_written_out():
    """50 functions that each call the one before twice are 2**50 equations."""
    fun: Any = jnp.sin
    for _ in range(50):
        fun = jax.jit(functools.partial(lambda f, x: f(f(x)), fun))
    start = time.monotonic()
    error = refusal(fun, X, limits=Limits())

    assert error.code == "SJ403"
    assert error.details["got"] > 2**50
    assert time.monotonic() - start < 60


def step(carry: Any, _: Any) -> Any:
    return carry * carry + 1, None


@pytest.mark.parametrize(
    ("length", "unroll", "copies"),
    [
        (400, True, 400),
        (400, 0, 400),
        (400, False, 1),
        (400, 1, 1),
        (10, 3, 4),  # three at once, and one that is left over
        (10, 10, 10),
        (10, 50, 10),
        (400, np.int64(400), 400),
    ],
)
def test_unrolled_loop_counts_as_often_as_it_is_written_out(
    length: int, unroll: Any, copies: int
):
    def fun(x: Any) -> Any:
        return jax.lax.scan(step, x, length=length, unroll=unroll)[0]

    report = safejax.safe_jit(fun).review(X)

    assert report.equations == 1 + 2 * copies
    assert report.primitives == {"mul": copies, "add": copies, "scan": 1}


def test_lengths_of_unrolled_loops_inside_one_another_multiply():
    def inner(carry: Any, _: Any) -> Any:
        return jax.lax.scan(step, carry, length=20, unroll=20)

    def fun(x: Any) -> Any:
        return jax.lax.scan(inner, x, length=20, unroll=True)[0]

    error = refusal(fun, X, limits=Limits(max_equations=800))

    assert error.code == "SJ403"
    assert error.details["got"] == 1 + 20 + 20 * 20 * 2
    assert error.details["sources"][0]["weight"] == 800


class Sly:
    """Counts as 1, until the program is lowered."""

    def __lt__(self, other: object) -> bool:
        return False

    def __index__(self) -> int:
        return 1


def test_unrolling_by_an_object_that_counts_anew_is_taken_for_full():
    def fun(x: Any) -> Any:
        return jax.lax.scan(step, x, length=400, unroll=Sly())[0]

    assert refusal(fun, X, limits=Limits(max_equations=200)).details["got"] == 801


def test_power_counts_as_the_products_it_is_made_of():
    error = refusal(
        lambda x: jax.lax.integer_pow(x, 2**3000), X, limits=Limits(max_equations=1000)
    )

    assert error.details["got"] == 3002


def test_equation_of_very_many_operands_counts_as_many():
    def fun(x: Any) -> Any:
        return jax.lax.concatenate([x] * 6400, 0)

    def by_many_keys(x: Any) -> Any:
        return jax.lax.sort([x] * 640, num_keys=500)

    error = refusal(fun, X, limits=Limits(max_equations=99))

    assert error.details["got"] == 100
    assert safejax.safe_jit(by_many_keys).review(X).equations == 20 + 500
    judge(lambda x: jax.lax.concatenate([x] * 60, 0), X, limits=Limits(max_equations=1))


def loops(depth: int, x: Any) -> Any:
    if depth == 0:
        return x @ x
    return jax.lax.fori_loop(0, 10, lambda _, y: loops(depth - 1, y), x)


def test_loops_inside_one_another_are_counted():
    judge(functools.partial(loops, 3), X, limits=Limits(max_loop_nesting=3))
    error = refusal(functools.partial(loops, 4), X, limits=Limits(max_loop_nesting=3))

    assert (error.code, error.details["got"]) == ("SJ409", 4)


def test_loop_after_a_loop_is_not_nested():
    def both(x: Any) -> Any:
        return loops(1, loops(1, x))

    judge(both, X, limits=Limits(max_loop_nesting=1))


def test_captured_arrays_are_counted_wherever_they_are_captured():
    table, row = jnp.ones((1000,), jnp.float32), np.ones((50,), np.float32)

    def captures(x: Any) -> Any:
        inner = jax.lax.scan(lambda c, _: (c + table.sum(), None), x, length=2)[0]
        return inner + jnp.asarray(row).sum()

    judge(captures, X, limits=Limits(max_constant_bytes=4200))
    error = refusal(captures, X, limits=Limits(max_constant_bytes=4199))

    assert (error.code, error.details["got"]) == ("SJ405", 4200)
    assert "float32[1000]" in str(error)


def test_captured_arrays_are_counted_once():
    table = jnp.ones((1000,), jnp.float32)

    judge(
        lambda x: x + table.sum() * table.max(),
        1.0,
        limits=Limits(max_constant_bytes=4000),
    )


def test_captured_arrays_are_found_in_simplified_programs_too():
    table = jnp.ones((1000,), jnp.float32)
    with jax._src.config.use_simplified_jaxpr_constants(True):
        error = refusal(
            lambda x: x + table.sum(), 1.0, limits=Limits(max_constant_bytes=3999)
        )

    assert error.details["got"] == 4000


COMPOSITE = jax.lax.composite(lambda x, **_: x + 1, "mine.sum")


@pytest.mark.parametrize(
    ("secret", "size"),
    [
        (np.arange(64, dtype=np.uint8), 64),
        ({"a": [np.arange(8, dtype=np.float32)]}, 32),
        ("s" * 64, 64),
        ([7] * 8, 64),
    ],
    ids=["array", "array in containers", "text", "numbers"],
)
def test_attributes_of_a_composite_count_as_captured(secret: Any, size: int):
    def fun(x: Any) -> Any:
        return COMPOSITE(x, secret=secret)  # composite

    size += len("secret")
    judge(fun, X, limits=Limits(max_constant_bytes=size))
    error = refusal(fun, X, limits=Limits(max_constant_bytes=size - 1))
    constants = safejax.safe_jit(fun).review(X).constants

    assert (error.code, error.details["got"]) == ("SJ405", size)
    line = this_line("composite", __file__)
    assert {c.name for c in constants} == {f"captured at test_review_budgets.py:{line}"}


class Small(np.ndarray):
    """Denies its size."""

    @property
    def nbytes(self) -> int:
        return 0


def test_captured_array_has_no_say_in_its_size():
    small = np.ones((1000,), np.float32).view(Small)
    program = jax.make_jaxpr(lambda x, y: x + y)(np.ones((1000,), np.float32), 1.0)
    (var,) = program.jaxpr.invars[:1]
    closed = program.replace(
        jaxpr=program.jaxpr.replace(constvars=[var], invars=program.jaxpr.invars[1:]),
        consts=[small],
    )

    assert _report.report_of(closed, function="f").constants[0].nbytes == 4000


def test_message_about_captured_arrays_has_no_values():
    secret = np.full((8,), 31337.0, np.float32)
    error = refusal(
        lambda x: x + jnp.asarray(secret).sum(),
        1.0,
        limits=Limits(max_constant_bytes=8),
    )

    assert "31337" not in str(error)
    assert "31337" not in str(error.details)


def test_results_beyond_the_budget_are_refused():
    def large(x: Any) -> Any:
        return x, jnp.broadcast_to(x[0, 0], (1 << 40,))  # bomb

    error = refusal(large, X, limits=Limits(max_output_bytes=1000))

    assert error.code == "SJ406"
    assert error.details["got"] == 4 * 2**40 + X.nbytes
    assert error.details["sources"][0]["line"] == this_line("bomb", __file__)


def test_operations_of_a_loop_are_multiplied_by_its_trips():
    def forever(x: Any) -> Any:
        return jax.lax.scan(lambda c, _: (c @ c, None), x, length=10**9)[0]  # flops

    error = refusal(forever, X, limits=Limits(max_flops=1e12))

    assert error.code == "SJ408"
    assert error.details["got"] == pytest.approx(2 * 64**3 * 1e9, rel=0.01)
    assert error.details["sources"][0]["line"] == this_line("flops", __file__)


def test_more_trips_than_a_float_can_count_are_refused():
    def without_end(depth: int, x: Any) -> Any:
        if depth == 0:
            return x @ x
        step = functools.partial(without_end, depth - 1)
        return jax.lax.scan(lambda c, _: (step(c), None), x, length=2**62)[0]

    error = refusal(
        functools.partial(without_end, 20), X, limits=Limits(max_flops=1e300)
    )

    assert error.code == "SJ408"
    assert safejax.safe_jit(functools.partial(without_end, 20)).review(X).to_json()


@pytest.mark.parametrize(
    "body",
    [
        lambda c, _: (c, None),
        lambda c, _: (c[::-1], None),
        lambda c, _: (jax.lax.dynamic_update_slice(c, c[:1, :1], (1, 1)), None),
        lambda c, _: (c.at[0, 0].set(3.0), None),
    ],
    ids=["nothing", "moves", "update in place", "scatter"],
)
def test_loop_without_arithmetic_is_counted_by_its_trips(body: Any):
    def forever(x: Any) -> Any:
        return jax.lax.scan(body, x, length=10**15)[0]

    error = refusal(forever, X, limits=Limits(max_flops=1e14))

    assert error.code == "SJ408"
    assert error.details["got"] >= 10**15


def heavy(a: Any, b: Any) -> Any:
    for _ in range(99):
        a = a * b
    return a + b


@pytest.mark.parametrize(
    ("fun", "elements"),
    [
        (lambda x: jax.lax.reduce(x, 0.0, heavy, (0, 1)), 64**2),
        (
            lambda x: jax.lax.reduce_window(x, 0.0, heavy, (2, 2), (1, 1), "SAME"),
            4 * 64**2,
        ),
        (lambda x: x.at[jnp.arange(8)].apply(lambda v: heavy(v, v)), 8 * 64),
    ],
    ids=["reduce", "reduce_window", "scatter"],
)
def test_program_for_two_numbers_counts_for_each_element(fun: Any, elements: int):
    report = safejax.safe_jit(fun).review(X)

    assert report.flops == pytest.approx(100 * elements, rel=0.05)
    assert refusal(fun, X, limits=Limits(max_flops=90 * elements)).code == "SJ408"


@pytest.mark.parametrize(
    ("fun", "operations"),
    [
        (lambda x: x @ x, 2 * 64**3),
        (lambda x: jnp.einsum("ij,kj->ik", x, x), 2 * 64**3),
        (lambda x: x + x, 64**2),
        (lambda x: x.T, 0),
        (lambda x: x.sum(), 64**2),
        (
            lambda x: jax.lax.conv(
                x[None, None], jnp.ones((3, 1, 5, 5)), (1, 1), "SAME"
            ),
            2 * 64**2 * 3 * 25,
        ),
    ],
    ids=["matmul", "einsum", "add", "transpose", "sum", "convolution"],
)
def test_operations_are_those_of_textbooks(fun: Any, operations: int):
    report = safejax.safe_jit(fun).review(X)

    assert report.flops == pytest.approx(operations, rel=0.01)
    assert report.flops_are_exact


def test_loop_of_unknown_length_counts_once_and_says_so():
    report = safejax.safe_jit(
        lambda x: jax.lax.while_loop(lambda c: c.sum() < 3, lambda c: c @ c, x)
    ).review(X)

    assert not report.flops_are_exact
    assert 2 * 64**3 <= report.flops < 2.1 * 64**3
    assert [loop.trips for loop in report.loops] == [None]


def bomb_in_a_scan(x: Any) -> Any:
    def body(c: Any, _: Any) -> Any:
        return c + jnp.sort(jnp.zeros((1024, 1024, 1024, 256))).sum(), None  # memory

    return jax.lax.scan(body, x, length=3)[0]


def fused_bomb_in_a_scan(x: Any) -> Any:
    def body(c: Any, _: Any) -> Any:
        return c + jnp.zeros((1024, 1024, 1024, 256)).sum(), None

    return jax.lax.scan(body, x, length=3)[0]


@pytest.mark.parametrize("bomb", [bomb_in_a_scan, fused_bomb_in_a_scan])
def test_terabyte_in_a_scan_is_refused(bomb: Any):
    error = refusal(bomb, X, limits=Limits(max_memory_bytes=4 * GIB))

    assert error.code == "SJ407"
    assert error.details["got"] >= 2**40


def test_memory_message_names_the_lines_of_the_largest_buffers():
    def heavy(x: Any) -> Any:
        big = jnp.sort(jnp.outer(x, x).reshape(-1))  # outer
        return (big * big[::-1]).sum()

    error = refusal(
        heavy, np.ones(4096, np.float32), limits=Limits(max_memory_bytes=GIB // 16)
    )

    assert error.code == "SJ407"
    lines = [source["line"] for source in error.details["sources"]]
    assert this_line("outer", __file__) in lines


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_equations=None, max_output_bytes=1 << 60),
        Limits(max_equations=None, max_memory_bytes=1 << 60),
        Limits(max_equations=None, max_flops=1e18),
    ],
    ids=["outputs", "memory", "flops"],
)
def test_named_dimension_can_not_be_judged_and_is_refused(limits: Limits):
    (b,) = export.symbolic_shape("b")
    struct = jax.ShapeDtypeStruct((b, 3), jnp.float32)
    error = refusal(lambda x: x @ x.T, struct, limits=limits)

    assert "named dimensions" in str(error)
    judge(lambda x: x @ x.T, struct, limits=Limits())


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: x.reshape((1,) * 40 + (4096,)) * 2,
        lambda x: (x @ jnp.zeros((64, 0))) @ jnp.zeros((0, 64)),
        lambda x: jnp.sort(x[:0]),
        lambda _: None,
        lambda x: (x, x, 1.0),
        lambda _: jnp.float32(3),
        lambda x: jax.lax.cond(x.sum() > 0, lambda a: a, lambda a: a * 2, x),
    ],
    ids=[
        "rank 41",
        "no elements",
        "empty",
        "no results",
        "arguments",
        "literal",
        "cond",
    ],
)
def test_odd_programs_are_admitted_within_generous_budgets(fun: Any):
    judge(fun, X, limits=Limits.serving())


def test_function_refuses_before_it_compiles():
    small = safejax.safe_jit(lambda x: x @ x, limits=Limits(max_flops=1000))
    for call in (small, small.trace, small.lower):
        with pytest.raises(safejax.ProgramRejectedError, match="max_flops"):
            call(X)

    assert small.stats().live == 0
