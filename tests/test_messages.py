"""What a refusal says, and what it never says: the values of the caller."""

from __future__ import annotations

import copy
import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from safejax import CompileLimitError, ContractError, Limits, safe_jit, spec

f32 = np.float32
SECRET = "hunter2"  # not a credential: the word that must never be seen
SECRET_NUMBER = 7531


def error_of(f, *args, **kwargs):
    with pytest.raises((ContractError, CompileLimitError)) as caught:
        f(*args, **kwargs)
    return caught.value


def train_step():
    def train_step(params, x, y, mode="a"):
        return x

    return safe_jit(
        train_step,
        static_argnames="mode",
        contract={
            "params": {"layer": {"v": spec("f32[b]"), "w": spec("f32[b, 3]")}},
            "x": spec("f32[2]"),
            "y": spec("f32[63]", finite=True),
            "mode": spec(one_of=("a",)),
        },
    )


def test_the_message_has_one_line_for_each_violation_and_says_who_bound_the_name():
    y = np.zeros(63, f32)
    y[:2] = np.nan
    params = {"layer": {"v": np.ones(5, f32), "w": np.ones((2, 3), f32)}}

    text = str(error_of(train_step(), params, np.ones(2), y))

    assert text.splitlines() == [
        "[SJ101] train_step() refused: 3 violations",
        "  params['layer']['w']  shape  expected (b, 3) with b=5, got (2, 3)",
        "                               b=5 comes from params['layer']['v'], axis 0",
        "  x                     dtype  expected float32, got float64 "
        "(NumPy; JAX would narrow it silently)",
        "  y                     value  expected finite, found 2 of 63 that are not",
        'hint: cast with x.astype(np.float32), or declare on_dtype="cast"',
    ]


def every_refusal():
    f = train_step()
    good = {"layer": {"v": np.ones(5, f32), "w": np.ones((5, 3), f32)}}
    x, y = np.ones(2, f32), np.zeros(63, f32)
    yield error_of(f, good, x, np.full(63, f32(np.inf)))
    yield error_of(f, good, x, y, mode=SECRET)
    yield error_of(f, good, x, y, mode=[SECRET])
    yield error_of(f, good, x, y, mode=SECRET_NUMBER)
    yield error_of(f, good, SECRET, y)
    yield error_of(f, good, np.array([SECRET]), y)
    yield error_of(f, good, np.full(3, SECRET_NUMBER), y)
    yield error_of(f, SECRET, x, y)
    yield error_of(f, good, SECRET_NUMBER, y)
    bounded = safe_jit(
        lambda x: x, contract={"x": spec("i32[...]", maximum=3, one_of=None)}
    )
    yield error_of(bounded, np.full(2, SECRET_NUMBER, np.int32))
    yield error_of(bounded, SECRET_NUMBER)
    cap = safe_jit(
        lambda x, mode: x, static_argnames="mode", limits=Limits(max_compiles=1)
    )
    cap(1.0, mode="first")
    yield error_of(cap, 1.0, mode=SECRET)
    yield error_of(cap, 1.0, mode=SECRET_NUMBER)
    yield error_of(cap, np.full(2, SECRET_NUMBER), mode="first")


def test_no_error_contains_a_value_of_the_call():
    for error in every_refusal():
        for text in (str(error), repr(error), json.dumps(error.details), error.hint):
            assert SECRET not in text
            assert str(SECRET_NUMBER) not in text


def test_details_are_plain_data_and_say_what_the_message_says():
    for error in every_refusal():
        details = json.loads(json.dumps(error.details))
        assert details == error.details
        assert details["function"]
        if isinstance(error, ContractError):
            paths = [v["path"] for v in details["violations"]]
            assert paths == [v.path for v in error.violations]


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, None])
def test_errors_survive_a_pickle_and_a_copy(clone):
    for error in every_refusal():
        error.add_note("a note")
        again = (clone or (lambda e: pickle.loads(pickle.dumps(e))))(error)
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert (again.code, again.details, again.hint) == (
            error.code,
            error.details,
            error.hint,
        )
        assert again.__notes__ == ["a note"]


def test_an_error_is_rendered_only_when_somebody_reads_it():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[2]")})

    error = error_of(f, np.ones(3, f32))

    assert error.args == ()
    assert callable(error._message)
    assert str(error).startswith("[SJ101]")
    assert not callable(error._message)


def test_the_traceback_ends_at_the_callers_line():
    import traceback

    f = safe_jit(lambda x: x, contract={"x": spec("f32[2]")})
    for wrong in (np.ones(3, f32), jnp.ones(3)):
        with pytest.raises(ContractError) as caught:
            f(wrong)
        frames = traceback.extract_tb(caught.value.__traceback__)
        assert all("safejax/" not in frame.filename for frame in frames)


def test_weak_type_and_sharding_are_told_in_words():
    f = safe_jit(lambda x: x, contract={"x": spec("f32[]", weak_type=False)})

    (violation,) = error_of(f, 1.0).violations

    assert (violation.expected, violation.got) == ("a strong type", "a weak type")


def test_a_wrong_dtype_inside_a_tree_gets_a_hint_that_names_the_argument():
    f = safe_jit(lambda p: 0, contract={"p": {"w": spec("f32[2]")}})

    assert "astype(np.float32)" in error_of(f, {"w": np.ones(2)}).hint


def test_code_tells_the_kinds_apart():
    assert ContractError.default_code == "SJ101"
    assert CompileLimitError.default_code == "SJ201"
    assert issubclass(ContractError, TypeError)
    assert issubclass(CompileLimitError, RuntimeError)
