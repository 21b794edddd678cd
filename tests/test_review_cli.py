"""`safejax review`: specs on the command line, a report on the way out."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safejax.cli import _main

MODULE = """
    import jax
    import jax.numpy as jnp
    import safejax

    def predict(params, x):
        return jnp.tanh(x @ params["w"] + params["b"])

    def layers(ws, x):
        for w in ws:
            x = x @ w
        return x

    def draw(key):
        return jax.random.normal(key, (3,))

    def telling(x):
        return jax.pure_callback(lambda a: a, x, x)

    @safejax.safe_jit(limits=safejax.Limits(max_flops=1.0))
    def limited(x):
        return x @ x

    @safejax.safe_jit(policy=safejax.Policy.strict())
    def guarded(x):
        return jax.make_jaxpr(jnp.sin)(x) and x

    class Model:
        @staticmethod
        def call(x):
            return x + 1

    number = 3
"""
PREDICT = ("--spec", "x=f32[8,64]", "--spec", "params[w]=f32[64,3]")
BIAS = ("--spec", "params['b']=f32[3]")


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "reviewed_model.py").write_text(
        textwrap.dedent(MODULE), encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("reviewed_model", None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(function: str, *options: str) -> tuple[int, str, str]:
        status = _main.main(["review", f"reviewed_model:{function}", *options])
        return (status, *capsys.readouterr())

    return call


def test_report_is_printed(run: Callable[..., tuple[int, str, str]]):
    status, printed, error = run("predict", *PREDICT, *BIAS)

    assert (status, error) == (0, "")
    assert printed.startswith("predict(): 4 equations")
    assert "params['w']" in printed


def test_json_is_one_document(run: Callable[..., tuple[int, str, str]]):
    status, printed, _ = run("predict", *PREDICT, *BIAS, "--json")

    assert status == 0
    assert json.loads(printed)["function"] == "predict"


def test_page_is_written_where_it_is_asked_for(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    page = tmp_path / "page.html"
    status, _, _ = run("predict", *PREDICT, *BIAS, "--html", str(page))

    assert status == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("function", "specs"),
    [
        ("layers", ("--spec", "ws[0]=f32[4,4]", "--spec", "ws[1]=f32[4,2]",
                    "--spec", "x=f32[1,4]")),
        ("draw", ("--spec", "key=key[]")),
        ("Model.call", ("--spec", "x=i32[3]")),
        ("limited", ("--spec", "x=f32[3,3]")),
    ],
)  # fmt: skip
def test_functions_of_all_kinds_are_found_and_traced(
    function: str, specs: tuple[str, ...], run: Callable[..., tuple[int, str, str]]
):
    assert run(function, *specs)[0] == 0


def test_status_is_1_where_something_is_refused(
    run: Callable[..., tuple[int, str, str]],
):
    status, printed, _ = run("telling", "--spec", "x=f32[8]")

    assert status == 1
    assert "pure_callback" in printed


def test_status_is_1_where_the_guard_refuses_the_trace(
    run: Callable[..., tuple[int, str, str]],
):
    status, printed, error = run("guarded", "--spec", "x=f32[8]")

    assert (status, printed) == (1, "")
    assert "SJ301" in error


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("reviewed_model", (), "expected module:function"),
        ("no_such_module:f", (), "no module named 'no_such_module'"),
        ("reviewed_model:absent", (), "has no 'absent'"),
        ("reviewed_model:number", (), "is not a function"),
        ("reviewed_model:telling", ("--spec", "x"), "expected a spec like"),
        ("reviewed_model:telling", ("--spec", "x=f32[8"), "expected a ']'"),
        ("reviewed_model:telling", ("--spec", "x=f32[b]"), "needs numbers"),
        ("reviewed_model:telling", ("--spec", "x=f32[...]"), "needs numbers"),
        ("reviewed_model:telling", ("--spec", "x=f32|f64[3]"), "needs one dtype"),
        ("reviewed_model:telling", (), "missing 1 required"),
        ("reviewed_model:telling", ("--spec", "y=f32[3]"), "unexpected keyword"),
        (
            "reviewed_model:telling",
            ("--spec", "x=f32[3]", "--spec", "x=f32[4]"),
            "given twice",
        ),
        (
            "reviewed_model:telling",
            ("--spec", "x=f32[3]", "--spec", "x[a]=f32[4]"),
            "can't hold another",
        ),
        (
            "reviewed_model:telling",
            ("--spec", "x=f32[3]", "--html", "/no/such/folder/page.html"),
            "can't write",
        ),
    ],
)
def test_usage_error_ends_with_status_2_and_one_line(
    target: str,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    status = _main.main(["review", target, *options])
    printed = capsys.readouterr()

    assert (status, printed.out) == (2, "")
    assert printed.err.startswith("safejax review: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
