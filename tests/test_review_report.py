"""What `f.review(...)` returns: a table, a JSON document, a page of its own."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from reviewing import this_line

import safejax

X = jax.ShapeDtypeStruct((8, 64), jnp.float32)
PARAMS = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
NAME = "<script>alert(1)</script>"


def model(params: Any, x: Any) -> Any:
    hidden = jnp.tanh(x @ params["w"])  # product
    total, ys = jax.lax.scan(lambda c, y: (c + y, c * y), hidden[0], hidden)
    return total, jnp.sort(ys)


def reviewed(fun: Any, *args: Any, **options: Any) -> safejax.ProgramReport:
    return safejax.safe_jit(fun, **options).review(*args)


def test_report_names_arguments_results_and_their_sizes():
    report = reviewed(model, PARAMS, X)
    inputs = [(a.name, a.dtype, a.shape, a.nbytes) for a in report.inputs]

    assert report.function == "model"
    assert inputs == [
        ("params['w']", "float32", (64, 64), 16384),
        ("x", "float32", (8, 64), 2048),
    ]
    assert [a.shape for a in report.outputs] == [(64,), (8, 64)]


def test_report_counts_primitives_as_xla_gets_them():
    @jax.jit
    def twice(x: Any) -> Any:
        return jnp.sin(jnp.sin(x))

    report = reviewed(lambda x: twice(twice(x)), 1.0)

    assert dict(report.primitives) == {"sin": 4, "jit": 2}
    assert report.equations == 6


def test_report_says_which_line_made_what_is_alive_at_the_peak():
    report = reviewed(lambda x: jnp.sort(x.T @ x).max(), X)  # sorted
    made = {b.source for b in report.alive if b.kind == "temporary"}

    assert f"test_review_report.py:{this_line('sorted', __file__)}" in made
    sizes = [b.nbytes for b in report.alive]
    assert sizes == sorted(sizes, reverse=True)


def test_report_lists_loops():
    def fun(x: Any) -> Any:
        x = jax.lax.fori_loop(0, 7, lambda _, y: y * 2, x)
        return jax.lax.while_loop(
            lambda c: c.sum() < 3,
            lambda c: jax.lax.scan(lambda a, _: (a + 1, None), c, length=5)[0],
            x,
        )

    report = reviewed(fun, X)

    assert sorted((loop.kind, loop.trips, loop.nesting) for loop in report.loops) == [
        ("scan", 5, 2),
        ("scan", 7, 1),
        ("while", None, 1),
    ]
    assert report.loop_nesting == 2


def test_report_lists_what_a_strict_policy_would_refuse():
    report = reviewed(lambda x: jax.pure_callback(lambda a: a, x, x), X)  # callback

    (item,) = report.refused
    assert (item.name, item.verdict) == ("pure_callback", "disallow")
    assert item.source.endswith(f":{this_line('callback', __file__)}")
    assert "not admitted" in str(report)


def test_report_describes_captured_arrays_without_their_values():
    secret = np.full((4, 4), 31337.0, np.float32)
    report = reviewed(lambda x: x.sum() + jnp.asarray(secret), X)  # captured
    line = this_line("captured", __file__)

    (array,) = report.constants
    assert (array.shape, array.nbytes) == ((4, 4), 64)
    assert array.name == f"captured at test_review_report.py:{line}"
    for text in (str(report), report.to_json(), report.to_html(), repr(report)):
        assert "31337" not in text


def test_named_dimensions_are_shown_and_not_counted():
    (b,) = export.symbolic_shape("b")
    report = reviewed(
        lambda x: jnp.sin(x) @ x.T, jax.ShapeDtypeStruct((b, 3), jnp.float32)
    )

    assert report.inputs[0].shape == ("b", 3)
    assert report.inputs[0].nbytes is None
    assert report.uncounted > 0
    assert not report.flops_are_exact
    assert "not counted" in str(report)
    assert json.loads(report.to_json())["inputs"][0]["shape"] == ["b", 3]


@pytest.mark.parametrize("fun", [model, lambda _, x: x, lambda _p, _x: None])
def test_table_fits_into_88_columns(fun: Any):
    text = str(reviewed(fun, PARAMS, X))

    assert max(map(len, text.splitlines())) <= 88
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_table_of_a_large_program_is_short():
    def wide(xs: Any) -> Any:
        return [jnp.sin(x) @ x.T for x in xs]

    assert len(str(reviewed(wide, [X] * 300)).splitlines()) < 80


def test_json_has_every_field():
    report = reviewed(model, PARAMS, X)
    document = json.loads(report.to_json())

    assert set(document) == {field.name for field in dataclasses.fields(report)}
    assert document["peak_bytes"] == report.peak_bytes


class Page(html.parser.HTMLParser):
    """Which tags a page has, and where it would load something from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in ("meta", "path", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_one_file_with_a_plot_and_no_scripts():
    page = Page(reviewed(model, PARAMS, X).to_html())

    assert "svg" in page.tags
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert page.loads == []
    assert page.open == []


def test_names_are_escaped_in_the_page():
    def fun(tree: Any) -> Any:
        return tree[NAME] * 2

    fun.__name__ = fun.__qualname__ = NAME
    report = reviewed(fun, {NAME: X})
    page = report.to_html()

    assert NAME in report.inputs[0].name
    assert "script" not in Page(page).tags
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_notebook_shows_the_report_without_a_page_around_it():
    fragment = reviewed(model, PARAMS, X)._repr_html_()

    assert "svg" in Page(fragment).tags
    assert "html" not in Page(fragment).tags


def test_plot_of_a_long_program_is_thinned_out():
    def long(x: Any) -> Any:
        for _ in range(3000):
            x = jnp.sin(x)
        return x

    report = reviewed(long, X)

    assert len(report.curve) <= 400
    assert max(report.curve) <= report.peak_bytes


def test_report_survives_a_pickle_round_trip():
    report = reviewed(model, PARAMS, X)

    assert pickle.loads(pickle.dumps(report)) == report


def test_report_is_made_without_compiling():
    fun = safejax.safe_jit(model)
    fun.review(PARAMS, X)

    assert fun.stats().live == 0


BIG = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)


def test_advice_to_donate_what_a_result_can_replace():
    def step(state: Any, x: Any) -> Any:
        return {"w": state["w"] + x.sum(), "n": state["n"] + 1}

    state = {"w": BIG, "n": jax.ShapeDtypeStruct((), jnp.int32)}
    advice = " ".join(reviewed(step, state, X).advice)
    donated = " ".join(reviewed(step, state, X, donate_argnames="state").advice)

    assert "donate state" in advice
    assert "4.0 MiB" in advice
    assert "donate" not in donated


def test_advice_to_checkpoint_what_waits_for_the_gradient():
    def loss(ws: Any, x: Any) -> Any:
        for w in ws:
            x = jnp.tanh(x @ w)  # waits
        return x.sum()

    advice = " ".join(reviewed(jax.grad(loss), [BIG] * 8, BIG).advice)

    assert "jax.checkpoint" in advice
    assert f"test_review_report.py:{this_line('waits', __file__)}" in advice
    assert "jax.checkpoint" not in " ".join(reviewed(loss, [BIG] * 8, BIG).advice)


def test_advice_to_pass_captured_arrays():
    table = jnp.ones((1024, 1024))

    assert "captured" in " ".join(reviewed(lambda x: x @ table, BIG).advice)


def test_advice_to_shard_what_is_large():
    huge = jax.ShapeDtypeStruct((8192, 8192), jnp.float32)
    advice = " ".join(reviewed(lambda x: (x @ x).sum(), huge).advice)

    assert "shard" in advice


def test_advice_against_python_loops():
    def unrolled(x: Any) -> Any:
        for _ in range(500):
            x = jnp.sin(x)  # unrolled
        return x

    line = this_line("unrolled", __file__)
    assert f"lax.fori_loop at test_review_report.py:{line}" in " ".join(
        reviewed(unrolled, X).advice
    )


def test_small_program_gets_no_advice():
    assert reviewed(model, PARAMS, X).advice == ()


def test_the_top_of_the_curve_is_the_peak_that_is_reported():
    def f(x):
        return jnp.sort(x.T @ x).sum()

    report = safejax.safe_jit(f).review(jnp.ones((1, 300)))

    assert max(report.curve) == report.peak_bytes
