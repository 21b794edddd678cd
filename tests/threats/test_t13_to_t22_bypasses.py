"""T13 to T22: every known way past the guard and the review, tried.

Each first reaches its aim on plain JAX: an attack that does not work there proves
nothing. Under ``safe_jit(untrusted=True)`` it is then stopped and leaves no evidence,
or it is one of those that are documented as not defended, and still is.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from threats import _page
from threats.bypasses import CORPUS
from threats.bypasses._kit import Bypass, Trial

from safejax import GuardError, Limits, Policy, ProgramRejectedError, safe_jit
from safejax.review import _judge, _modules

HERE = [one for one in CORPUS if one.exists_here]
REFUSALS = {
    "guard": GuardError,
    "guard, late": GuardError,
    "review": ProgramRejectedError,
    "guard and review": GuardError,
    "no effect": type(None),
}


def cases(*verdicts: str) -> pytest.MarkDecorator:
    found = [one for one in HERE if not verdicts or one.verdict in verdicts]
    return pytest.mark.parametrize(
        "bypass",
        found,
        ids=[f"{one.threat}-{one.name}".replace(" ", "-") for one in found],
    )


def untrusting(bypass: Bypass) -> Callable[..., Any]:
    return functools.partial(safe_jit, untrusted=True, limits=Limits(**bypass.limits))


def reviewing(bypass: Bypass) -> Callable[..., Any]:
    """`jax.jit` with the review, and without the guard."""
    strict = (Policy.strict(),)

    def jit(model: Callable[..., Any]) -> Callable[..., Any]:
        jitted = jax.jit(model)

        def call(*args: Any) -> Any:
            traced = jitted.trace(*args)
            _judge.judge(
                traced,
                function="model",
                limits=Limits(**bypass.limits),
                policies=strict,
            )
            _modules.judge_module(traced.lower().compiler_ir(), "model", strict)
            return jitted(*args)

        return call

    return jit


@cases()
def test_it_reaches_its_aim_on_plain_jax(bypass: Bypass, tmp_path: Path):
    trial = Trial(tmp_path, jax.jit)

    error = trial.run(bypass.attack)

    assert error is None
    assert trial.evidence


@cases(*REFUSALS)
def test_it_is_stopped_and_leaves_no_evidence(bypass: Bypass, tmp_path: Path):
    trial = Trial(tmp_path, untrusting(bypass))

    error = trial.run(bypass.attack)

    assert type(error) is REFUSALS[bypass.verdict], error
    assert trial.evidence == [] or bypass.verdict == "guard, late"


@cases("guard and review")
def test_the_review_alone_refuses_it(bypass: Bypass, tmp_path: Path):
    trial = Trial(tmp_path, reviewing(bypass))

    error = trial.run(bypass.attack)

    assert type(error) is ProgramRejectedError, error
    assert trial.evidence == []


@cases("not defended")
def test_it_is_still_not_defended(bypass: Bypass, tmp_path: Path):
    trial = Trial(tmp_path, untrusting(bypass))

    error = trial.run(bypass.attack)

    assert error is None
    assert trial.evidence


def test_the_scope_is_closed_and_intact_after_all_of_them():
    gc.collect()

    assert str(jax.make_jaxpr(lambda x: x + 1)(1.0))
    with pytest.raises(GuardError):
        safe_jit(lambda x: jax.eval_shape(abs, x), untrusted=True)(1.0)


# --- the corpus --------------------------------------------------------------------


def test_no_two_are_the_same():
    names = [one.name for one in CORPUS]
    assert len(set(names)) == len(names) >= 60
    assert len({one.how for one in CORPUS}) == len(names)


def test_each_says_how_and_each_gap_says_why():
    for one in CORPUS:
        assert one.how.endswith("."), one.name
        gap = "not defended" in (one.stopped_by, one.on_311)
        assert gap == bool(one.reason), one.name


@pytest.mark.parametrize("page", [_page.ALL, _page.MODEL], ids=lambda page: page.name)
def test_the_documentation_lists_what_is_tried(page: Path):
    text = page.read_text(encoding="utf-8")

    assert _page.filled(text) == text
    what = "bypasses" if page == _page.ALL else "not defended"
    places = {(m["what"], m["threat"]) for m in _page.PLACE.finditer(text)}
    shown = {place for place in places if place[0] != "exploits"}
    expected = {(what, one.threat) for one in CORPUS if page == _page.ALL or one.reason}
    assert shown == expected


def test_a_changed_table_is_noticed():
    page = _page.ALL.read_text(encoding="utf-8")
    one = CORPUS[0]

    assert _page.filled(page.replace(one.how, "Something else.")) == page


def test_a_trial_without_evidence_is_noticed(tmp_path: Path):
    trial = Trial(tmp_path, jax.jit)

    assert trial.run(lambda _: lambda x: x) is None
    assert trial.evidence == []


def test_a_trial_notices_what_gets_through(tmp_path: Path):
    trial = Trial(tmp_path, functools.partial(safe_jit, policy=Policy.permissive()))

    assert trial.run(CORPUS[0].attack) is None
    assert trial.evidence
