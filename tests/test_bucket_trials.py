"""Which functions the trials refuse, and which they must not."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from safejax import ContractError, safe_jit, spec
from safejax.buckets._layout import Layouts, read_places
from safejax.buckets._outputs import output_axes
from safejax.buckets._probe import Trials, expect
from safejax.buckets._sizes import read_buckets
from safejax.buckets._verdict import differing, far_apart, is_blind
from safejax.contract import _contract

f32 = np.float32
ROWS = ({"x": spec("f32[b, 4]")}, {"b": (4,)})
STEPS = ({"x": spec("f32[b, t, 4]")}, {"b": (4,), "t": (8,)})
IDS = ({"x": spec("i32[b, t]")}, {"b": (4,), "t": (8,)})
_WEIGHTS = np.random.default_rng(0).standard_normal((4, 4)).astype(f32) / 2
_KERNEL = np.ones((3, 4, 4), f32) / 10
_TABLE = np.random.default_rng(1).standard_normal((11, 4)).astype(f32)
_LAYOUT = ("NWC", "WIO", "NWC")


class Group:
    """Functions of the same argument, in one program: to compile each would be slow."""

    def __init__(self, contract, buckets) -> None:
        self.functions = {
            name: fun
            for table in (SHOWING, SIZED, ROW_WISE)
            for name, (kind, fun) in table.items()
            if kind == (contract, buckets)
        }
        self.jitted = jax.jit(
            lambda x: {name: fun(x) for name, fun in self.functions.items()},
            compiler_options={"xla_backend_optimization_level": 0},
        )
        understood = _contract.build(
            lambda x: x,
            contract,
            function="f",
            dims=None,
            on_dtype="error",
            static_names=(),
            constraints_of=lambda _: (),
        )
        self.buckets = read_buckets(understood, buckets, None)
        self.layouts = Layouts(self.buckets, read_places(understood, self.buckets, 0))
        only = understood.trees["x"]
        shape = [axis if isinstance(axis, int) else 1 for axis in only.axes]
        self.call = ((np.zeros(shape, only.dtypes[0]),), {})

    def fault(self, name: str) -> str | None:
        """How the padding shows in the answer of one of the functions."""
        fun = self.functions[name]
        (bucket,) = self.buckets.combinations()
        few = self.buckets.fewest(bucket)

        def run(call, real):
            return jax.tree.leaves(self.jitted(*call[0])[name])

        axes = output_axes(
            lambda args, _: jax.eval_shape(fun, *args),
            self.layouts,
            self.call,
            self.buckets.variations(few),
        )
        expected = expect(run, self.layouts, lambda _: self.call, axes, few)
        fault = Trials(run, self.layouts, expected, bucket).fault()
        return fault and fault.kind


group = functools.cache(lambda contract, buckets: Group(dict(contract), dict(buckets)))


def fault(table, name: str) -> str | None:
    contract, buckets = table[name][0]
    return group(tuple(contract.items()), tuple(buckets.items())).fault(name)


def _of_x(fun):
    """The same with a parameter that the contract can name."""

    def of_x(x):
        return fun(x)

    return of_x


def refused(fun, contract, buckets) -> str | None:
    """The kind of refusal, or ``None`` where all buckets are served."""
    try:
        safe_jit(_of_x(fun), contract=contract, buckets=buckets).precompile()
    except ContractError as error:
        return f"{error.code} {error.details['kind']}"
    return None


def attend(x, admitted):
    scores = jnp.where(admitted, x @ x.swapaxes(1, 2), -jnp.inf)
    return jax.nn.softmax(scores) @ x


def scan(x, *, reverse=False):
    start = jnp.zeros((x.shape[0], 4))
    step = lambda state, row: (jnp.tanh(state + row), state)
    return lax.scan(step, start, x.swapaxes(0, 1), reverse=reverse)


# --- functions in whose answer the padding shows -----------------------------------

SHOWING = {
    "mean of the batch": (ROWS, lambda x: x.mean(0)),
    "distance to the mean": (ROWS, lambda x: x - x.mean(0)),
    "sum of everything": (ROWS, jnp.sum),
    "batch norm": (ROWS, lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)),
    "sort": (ROWS, lambda x: jnp.sort(x, 0)),
    "argsort": (ROWS, lambda x: jnp.argsort(x[:, 0])),
    "median": (ROWS, lambda x: jnp.median(x, 0)),
    "largest": (ROWS, lambda x: x.max(0)),
    "smallest": (ROWS, lambda x: x.min(0)),
    "which is largest": (ROWS, lambda x: jnp.argmax(x, 0)),
    "which is smallest": (ROWS, lambda x: jnp.argmin(x, 0)),
    "top k": (ROWS, lambda x: lax.top_k(x[:, 0], 2)[0]),
    "whether any": (ROWS, lambda x: (x > 0).any()),
    "whether all": (ROWS, lambda x: (x > 0).all()),
    "whether any of integers": (IDS, lambda x: (x > 1).any()),
    "whether all of integers": (IDS, lambda x: (x > 1).all()),
    "reverse": (ROWS, lambda x: x[::-1]),
    "roll": (ROWS, lambda x: jnp.roll(x, 1, 0)),
    "last row": (ROWS, lambda x: x[-1]),
    "concatenation with itself": (ROWS, lambda x: jnp.concatenate([x, x])),
    "Gram matrix": (ROWS, lambda x: x.T @ x),
    "softmax over the batch": (ROWS, lambda x: jax.nn.softmax(x, 0)),
    "cumulative from the end": (ROWS, lambda x: jnp.cumsum(x[::-1], 0)[::-1]),
    "norm of everything": (ROWS, lambda x: x / jnp.linalg.norm(x)),
    "a millionth of the mean": (ROWS, lambda x: x + 1e-6 * x.mean()),
    "saturated mean": (ROWS, lambda x: jnp.tanh(100 * x.mean(0))),
    "histogram": (ROWS, lambda x: jnp.histogram(x, bins=4, range=(-5.0, 5.0))[0]),
    "nonzero": (ROWS, lambda x: jnp.nonzero(x[:, 0] > 0, size=3)[0]),
    "softmax over time": (STEPS, lambda x: jax.nn.softmax(x, 1)),
    "mean over time": (STEPS, lambda x: x.mean(1)),
    "last step": (STEPS, lambda x: x[:, -1]),
    "attention to everything": (STEPS, lambda x: attend(x, True)),
    "convolution that looks ahead": (
        STEPS,
        lambda x: lax.conv_general_dilated(
            x, _KERNEL, (1,), "SAME", dimension_numbers=_LAYOUT
        ),
    ),
    "next step": (STEPS, lambda x: jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))),
    "scan from the end": (STEPS, lambda x: scan(x, reverse=True)[1].swapaxes(0, 1)),
    "final state": (STEPS, lambda x: scan(x)[0]),
    "Fourier transform over time": (STEPS, lambda x: jnp.fft.fft(x, axis=1)),
    "both axes in one": (STEPS, lambda x: x.reshape(-1, 4)),
    "lengths": (IDS, lambda x: (x > 0).sum(1)),
    "counts": (
        IDS,
        lambda x: jax.ops.segment_sum(jnp.ones(x.size), x.reshape(-1), 4),
    ),
}
SIZED = {
    "divided by the size": (ROWS, lambda x: x / x.shape[0]),
    "the size": (ROWS, lambda x: jnp.float32(x.shape[0])),
    "position from the end": (
        STEPS,
        lambda x: x + jnp.arange(x.shape[1])[::-1, None],
    ),
    "relative position": (
        STEPS,
        lambda x: x * jnp.linspace(0.0, 1.0, x.shape[1])[:, None],
    ),
    "noise by the element": (
        STEPS,
        lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    ),
}


@pytest.mark.parametrize("name", SHOWING)
def test_padding_shows_in_a_function_that_looks_at_it(name: str):
    assert fault(SHOWING, name) == "padding"


@pytest.mark.parametrize("name", SIZED)
def test_padding_shows_in_a_function_that_looks_at_the_size(name: str):
    assert fault(SIZED, name) == "size"


@pytest.mark.parametrize(
    ("table", "name", "kind"),
    [
        (SHOWING, "batch norm", "padding"),
        (SHOWING, "softmax over time", "padding"),
        (SIZED, "relative position", "size"),
    ],
)
def test_such_a_function_is_refused(table, name: str, kind: str):
    (contract, buckets), fun = table[name]

    assert refused(fun, contract, buckets) == f"SJ103 {kind}"


@pytest.mark.parametrize("pad_value", [0, -np.inf, np.nan])
def test_no_value_of_the_padding_makes_such_a_function_acceptable(pad_value):
    contract, buckets = ROWS
    f = safe_jit(
        lambda x: x.max(0), contract=contract, buckets=buckets, pad_value=pad_value
    )

    with pytest.raises(ContractError) as caught:
        f(np.ones((3, 4), f32))
    assert caught.value.code == "SJ103"


def test_a_function_that_fails_without_padding_says_at_which_size():
    contract, buckets = ROWS
    f = safe_jit(
        lambda x: x.reshape(-1, 2, 4).mean(1), contract=contract, buckets=buckets
    )

    with pytest.raises(TypeError, match="reshape") as caught:
        f(np.ones((2, 4), f32))
    assert any("b=3" in note for note in caught.value.__notes__)


# --- functions of each row ---------------------------------------------------------

ROW_WISE = {
    "two layers": (ROWS, lambda x: jnp.tanh(x @ _WEIGHTS) @ _WEIGHTS),
    "layers in bfloat16": (
        ROWS,
        lambda x: jnp.tanh(x.astype(jnp.bfloat16) @ _WEIGHTS.astype(jnp.bfloat16)),
    ),
    "layer norm": (
        ROWS,
        lambda x: (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-5),
    ),
    "softmax of a row": (ROWS, jax.nn.softmax),
    "logarithm": (ROWS, jnp.log),
    "exponential": (ROWS, lambda x: jnp.exp(20 * x)),
    "sort of a row": (ROWS, lambda x: jnp.sort(x, -1)),
    "argmax of a row": (ROWS, lambda x: x.argmax(-1)),
    "top k of a row": (ROWS, lambda x: lax.top_k(x, 2)),
    "gradient of a row": (
        ROWS,
        jax.vmap(jax.grad(lambda row: jnp.sum(row**3))),
    ),
    "loop of a row": (
        ROWS,
        jax.vmap(
            lambda row: lax.while_loop(
                lambda c: c[0] < 9, lambda c: c + jnp.abs(c[0]) + 1, row
            )
        ),
    ),
    "map": (ROWS, lambda x: lax.map(lambda row: 2 * row, x)),
    "eigenvalues of a row": (
        ROWS,
        jax.vmap(lambda row: jnp.linalg.eigvalsh(jnp.outer(row, row) + jnp.eye(4))),
    ),
    "repeated rows": (ROWS, lambda x: jnp.repeat(x, 2, axis=0)),
    "a constant beside": (ROWS, lambda x: (x + 1, jnp.ones(3))),
    "all pairs of rows": (ROWS, lambda x: x @ x.T),
    "transposed": (ROWS, lambda x: x.T),
    "embedding": (IDS, lambda x: jnp.asarray(_TABLE)[x]),
    "embedding with positions": (
        IDS,
        lambda x: jnp.asarray(_TABLE)[x] + jnp.arange(x.shape[1])[:, None],
    ),
    "causal attention": (
        STEPS,
        lambda x: attend(x, jnp.tril(jnp.ones((x.shape[1],) * 2, bool))),
    ),
    "causal convolution": (
        STEPS,
        lambda x: lax.conv_general_dilated(
            x, _KERNEL, (1,), [(2, 0)], dimension_numbers=_LAYOUT
        ),
    ),
    "causal scan": (STEPS, lambda x: scan(x)[1].swapaxes(0, 1)),
    "cumulative sum": (STEPS, lambda x: jnp.cumsum(x, 1)),
    "associative scan": (STEPS, lambda x: lax.associative_scan(jnp.add, x, axis=1)),
    "every second step": (STEPS, lambda x: x[:, ::2]),
}


@pytest.mark.parametrize("name", ROW_WISE)
def test_padding_does_not_show_in_a_function_of_each_row(name: str):
    assert fault(ROW_WISE, name) is None


@pytest.mark.parametrize("name", ["layer norm", "causal attention"])
def test_such_a_function_is_served(name: str):
    (contract, buckets), fun = ROW_WISE[name]

    assert refused(fun, contract, buckets) is None


def test_attention_and_batch_norm_are_served_with_a_mask():
    contract, buckets = STEPS

    @safe_jit(contract=contract, buckets=buckets, mask="mask")
    def f(x, *, mask):
        rows = mask["b"][:, None, None]
        mean = jnp.where(rows, x, 0).sum(0, keepdims=True) / mask["b"].sum()
        mixed = attend(x - mean, mask["t"][None, None, :])
        return jnp.where(mask["t"][:, None], mixed, 0).sum(1) / mask["t"].sum()

    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(f32)
    whole = {"b": np.ones(3, bool), "t": np.ones(5, bool)}

    np.testing.assert_allclose(f(x), f.__wrapped__(x, mask=whole), rtol=1e-4, atol=1e-6)


# --- properties --------------------------------------------------------------------

# Written for NumPy and for JAX alike: the reference needs no compiler.
OF_ROWS = [
    lambda xp, x: xp.tanh(x),
    lambda xp, x: x - x.mean(-1, keepdims=True),
    lambda xp, x: xp.sort(x, -1),
    lambda xp, x: xp.cumsum(x, -1),
    lambda xp, x: xp.concatenate([x, 2 * x], -1),
    lambda xp, x: x[:, ::-1] * 0.5,
]
OF_BATCHES = [
    lambda xp, x: x - x.mean(0),
    lambda xp, x: x[::-1],
    lambda xp, x: xp.sort(x, 0),
    lambda xp, x: x + x.max(0),
    lambda xp, x: xp.cumsum(x[::-1], 0)[::-1],
]
chains = st.lists(st.sampled_from(OF_ROWS), min_size=1, max_size=3)


def chained(steps, xp, tree):
    for step in steps:
        tree = {name: step(xp, x) for name, x in tree.items()}
    return tree


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    steps=chains,
    widths=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    counts=st.lists(st.integers(0, 6), min_size=2, max_size=5),
)
def test_functions_of_rows_are_answered_as_without_buckets(steps, widths, counts):
    contract = {"tree": {f"x{i}": spec(f"f32[b, {w}]") for i, w in enumerate(widths)}}

    @safe_jit(contract=contract, buckets={"b": (3, 6)})
    def f(tree):
        return chained(steps, jnp, tree)

    for count in counts:
        rng = np.random.default_rng(count)
        tree = {
            f"x{i}": rng.standard_normal((count, width)).astype(f32)
            for i, width in enumerate(widths)
        }
        answer, wanted = f(tree), chained(steps, np, tree)
        for name, leaf in wanted.items():
            np.testing.assert_allclose(answer[name], leaf, rtol=1e-4, atol=1e-5)
    assert f.stats().live <= 2


@settings(max_examples=4, deadline=None, derandomize=True)
@given(before=chains, mixing=st.sampled_from(OF_BATCHES), after=chains)
def test_one_step_that_mixes_rows_is_found_among_others(before, mixing, after):
    def f(x):
        return chained([*before, mixing, *after], jnp, {"x": x})

    assert refused(f, {"x": spec("f32[b, 3]")}, {"b": (4,)}) == "SJ103 padding"


# --- what decides ------------------------------------------------------------------


def test_bits_decide_where_one_program_answers_twice():
    a = np.array([1.0, np.nan], f32)

    assert differing([a], [a.copy()]) is None
    assert differing([a, a], [a, np.nextafter(a, f32(2))]) == 1


def test_rounding_is_no_difference_between_two_programs():
    a = np.array([1.0, -100.0, np.inf, np.nan], f32)

    assert far_apart([a], [a * f32(1.001)]) is None
    assert far_apart([a], [a * f32(1.1)]) == 0
    assert far_apart([a], [a[:2]]) == 0
    assert far_apart([np.arange(3)], [np.arange(3)]) is None
    assert far_apart([np.arange(3)], [np.arange(3) + 1]) == 0


def test_an_answer_without_a_finite_element_tells_nothing():
    nan = np.full(2, np.nan, f32)

    assert is_blind([np.ones(2), nan])
    assert not is_blind([np.array([1.0, np.nan]), np.zeros(0), np.array([True])])
