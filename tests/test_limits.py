"""Limits are frozen, keyword-only data that refuses nonsense."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

import safejax
from safejax import Limits, ProcessLimits, safe_jit

f32 = np.float32


@pytest.mark.parametrize("kind", [Limits, ProcessLimits])
def test_limits_are_frozen_and_keyword_only(kind):
    limits = kind()

    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_compiles = 10**9
    with pytest.raises(TypeError):
        kind(3)
    assert kind() == limits
    assert hash(kind()) == hash(limits)


def test_defaults_are_those_that_the_documentation_promises():
    assert (Limits().max_compiles, Limits().warn_compiles) == (32, 8)
    assert Limits().on_limit == "raise"


@pytest.mark.parametrize("name", ["max_compiles", "warn_compiles", "max_static_bytes"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (True, TypeError),
        (1.5, TypeError),
        ("8", TypeError),
        (None, TypeError),
        (float("inf"), TypeError),
    ],
)
def test_a_limit_that_is_no_positive_integer_is_refused_by_name(name, value, error):
    with pytest.raises(error, match=name):
        Limits(**{name: value})


def test_an_unknown_word_for_on_limit_is_refused():
    with pytest.raises(ValueError, match="on_limit"):
        Limits(on_limit="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [8, {"max_compiles": 8}, ProcessLimits()])
def test_safe_jit_takes_limits_and_nothing_else(wrong):
    with pytest.raises(TypeError, match="limits"):
        safe_jit(lambda x: x, limits=wrong)


def test_set_process_limits_takes_process_limits_and_returns_the_former():
    before = safejax.set_process_limits(ProcessLimits(max_compiles=123_456))
    assert safejax.process_stats().max_compiles == 123_456
    assert safejax.set_process_limits(before) == ProcessLimits(max_compiles=123_456)

    with pytest.raises(TypeError, match="ProcessLimits"):
        safejax.set_process_limits(Limits())  # type: ignore[arg-type]


def test_a_warning_is_logged_once_when_the_programs_become_many(caplog):
    f = safe_jit(lambda x: x, limits=Limits(max_compiles=9, warn_compiles=3))

    with caplog.at_level(logging.WARNING, "safejax.compile"):
        for size in range(2):
            f(np.ones(size, f32))
        assert caplog.records == []
        for size in range(2, 8):
            f(np.ones(size, f32))

    (record,) = caplog.records
    assert record.name == "safejax.compile"
    assert "3 compiled programs (max_compiles=9)" in record.getMessage()


def test_stats_are_frozen_figures_of_one_function():
    f = safe_jit(lambda x: x, limits=Limits(max_compiles=1))
    f(np.ones(1, f32))
    with pytest.raises(safejax.CompileLimitError):
        f(np.ones(2, f32))

    stats = f.stats()

    assert (stats.function, stats.max_compiles) == ("<lambda>", 1)
    assert (stats.live, stats.compiles, stats.refused) == (1, 1, 1)
    assert stats.compile_s > 0
    assert stats.trace_s > 0
    assert stats.program_bytes > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.live = 0
