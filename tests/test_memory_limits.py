"""Limits on memory that hold after compilation, and at each call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import outcome

from safejax import Limits, ProgramRejectedError, safe_jit
from safejax.compile import _room

WIDE = np.ones((1, 512), np.float32)  # 2 KiB; its square is 1 MiB


def square(x):
    return x.T @ x


@pytest.fixture
def used(monkeypatch):
    """Pretends that the process uses so many bytes."""
    memory = {"bytes": 0}
    monkeypatch.setattr(_room, "used_bytes", lambda: memory["bytes"])
    return memory


def test_a_program_that_needs_more_than_allowed_never_runs():
    f = safe_jit(square, limits=Limits(max_memory_bytes=1 << 19))

    error = outcome(f, WIDE)

    assert (type(error), error.code) == (ProgramRejectedError, "SJ407")
    assert f.stats().live == 0


def test_what_xla_says_after_compilation_counts(monkeypatch):
    # An estimate that sees nothing: the second look must still refuse.
    monkeypatch.setattr("safejax.review._judge.judge", lambda *_, **__: None)
    f = safe_jit(square, limits=Limits(max_memory_bytes=1 << 18))

    error = outcome(f, WIDE)

    assert error.code == "SJ407"
    assert error.details["output_bytes"] == 1 << 20
    assert f.stats().live == 0
    assert outcome(f, WIDE).code == "SJ205"


def test_programs_within_the_limit_are_served():
    f = safe_jit(square, limits=Limits(max_memory_bytes=1 << 22))

    assert f(WIDE).shape == (512, 512)


def test_a_call_that_would_not_fit_is_refused_and_a_small_one_served(used):
    f = safe_jit(square, limits=Limits(max_process_memory_bytes=10 << 20))
    small = WIDE[:, :8]
    assert (f(WIDE).shape, f(small).shape) == ((512, 512), (8, 8))

    used["bytes"] = (10 << 20) - 4096
    error = outcome(f, WIDE)

    assert (type(error), error.code) == (ProgramRejectedError, "SJ410")
    assert error.details["needed"] == 1 << 20
    assert f(small).shape == (8, 8)

    used["bytes"] = 0
    assert f(WIDE).shape == (512, 512)


def test_a_full_process_refuses_new_programs_too(used):
    f = safe_jit(square, limits=Limits(max_process_memory_bytes=1 << 20))
    used["bytes"] = (1 << 20) + 1

    assert outcome(f, WIDE).code == "SJ410"
    assert f.stats().compiles == 0


def test_a_refused_call_consumes_no_donated_buffer(used):
    f = safe_jit(
        lambda x: x + 1,
        limits=Limits(max_process_memory_bytes=1 << 20),
        donate_argnums=0,
    )
    x = jnp.ones(4)
    used["bytes"] = 1 << 30

    assert outcome(f, x).code == "SJ410"
    assert not x.is_deleted()


@pytest.mark.parametrize(
    "options", [{}, {"contract": {"x": None}}], ids=["plain", "contract"]
)
@pytest.mark.parametrize("on_limit", ["raise", "evict"])
def test_every_kind_of_function_looks_at_the_memory(used, options, on_limit):
    limits = Limits(max_process_memory_bytes=1 << 30, on_limit=on_limit)
    f = safe_jit(square, limits=limits, **options)
    assert f(WIDE).shape == (512, 512)
    assert f.lower(WIDE).compile()(WIDE).shape == (512, 512)
    assert jax.jit(f)(WIDE).shape == (512, 512)
    assert (f.__name__, f.stats().live > 0) == ("square", True)

    used["bytes"] = 1 << 31

    assert outcome(f, WIDE).code == "SJ410"


def test_the_memory_of_this_process_is_what_is_measured():
    before = _room.used_bytes()
    held = np.ones(64 << 20, np.uint8)

    assert _room.used_bytes() - before > held.nbytes // 2


def test_where_nothing_tells_the_memory_the_limit_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(_room, "_STATM", tmp_path / "none")

    with pytest.raises(ValueError, match="proc"):
        safe_jit(square, limits=Limits(max_process_memory_bytes=1))
