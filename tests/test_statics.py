"""Static arguments of a function with a contract: listed, hashable, small, no NaN."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import functools
import gc
import weakref

import numpy as np
import pytest

from safejax import CompileLimitError, ContractError, Limits, safe_jit, spec

NAN = float("nan")


def refused(f, *args, **kwargs):
    with pytest.raises(ContractError) as caught:
        f(*args, **kwargs)
    return [(v.path, v.rule) for v in caught.value.violations]


@dataclasses.dataclass(frozen=True)
class Config:
    rate: object = 0.5
    name: str = "n"


class Mode(enum.Enum):
    TRAIN = 1
    EVAL = 2


def listed(*one_of):
    return safe_jit(
        lambda x, mode: x,
        static_argnames="mode",
        contract={"mode": spec(one_of=one_of)},
    )


def free(**options):
    return safe_jit(lambda x, mode: x, static_argnames="mode", contract={}, **options)


@pytest.mark.parametrize(
    ("member", "impostors"),
    [
        (1, [True, 1.0, np.int32(1), np.bool_(True), "1", (1,)]),
        (True, [1, 1.0, "True"]),
        (0.0, [0, False]),
        ("a", ["b", b"a", "A", ("a",), np.str_("a")]),
        (None, [0, "", ()]),
        ((1, 2), [[1, 2], (1, 3), (1, 2, 3)]),
        (Mode.TRAIN, [1, Mode.EVAL, "TRAIN"]),
        (Config(), [Config(0.6), "Config"]),
    ],
    ids=lambda v: repr(v)[:20],
)
def test_one_of_admits_the_member_and_nothing_that_resembles_it(member, impostors):
    f = listed(member)

    for _ in range(2):
        f(1.0, mode=member)
        for impostor in impostors:
            assert refused(f, 1.0, mode=impostor) == [("mode", "static")]


@pytest.mark.parametrize(
    "value",
    [
        NAN,
        complex(0, NAN),
        np.float32(NAN),
        decimal.Decimal("NaN"),
        (1, NAN),
        (1, (2, np.float32(NAN))),
        (decimal.Decimal("NaN"),),
        frozenset([NAN]),
        Config(NAN),
        (Config((1, NAN)),),
    ],
    ids=str,
)
def test_a_nan_anywhere_in_a_static_value_is_refused(value):
    f = free()

    for _ in range(2):
        f(1.0, mode=1)
        assert refused(f, 1.0, mode=value) == [("mode", "static")]


class Raises:
    def __hash__(self):
        raise RuntimeError("hostile")


class RaisesEq:
    def __eq__(self, other):
        raise RuntimeError("hostile")

    __hash__ = object.__hash__


@pytest.mark.parametrize(
    "value",
    [[1], {"a": 1}, {1}, np.ones(1), ([1],), Raises(), RaisesEq(), (Raises(),)],
    ids=lambda v: type(v).__name__,
)
def test_an_unhashable_static_value_is_refused(value):
    f = free()

    for _ in range(2):
        f(1.0, mode=1)
        assert refused(f, 1.0, mode=value) == [("mode", "static")]


@pytest.mark.parametrize(
    "value",
    ["x" * 2000, b"x" * 2000, tuple(range(300)), 1 << 20_000, ((("x" * 2000,),),)],
    ids=lambda v: type(v).__name__,
)
def test_an_oversized_static_value_is_refused(value):
    f = free(limits=Limits(max_static_bytes=1024))

    assert refused(f, 1.0, mode=value) == [("mode", "static")]
    f(1.0, mode="x" * 500)


def test_statics_by_number_and_by_name_are_the_same_parameter():
    for options in ({"static_argnums": 1}, {"static_argnames": "mode"}):
        f = safe_jit(
            lambda x, mode="a": x, contract={"mode": spec(one_of=("a",))}, **options
        )
        for _ in range(2):
            f(1.0)
            f(1.0, "a")
            f(1.0, mode="a")
            assert refused(f, 1.0, "b") == [("mode", "static")]
            assert refused(f, 1.0, mode="b") == [("mode", "static")]


def test_the_spec_of_an_array_over_a_static_parameter_fails_at_decoration():
    with pytest.raises(ContractError) as caught:
        safe_jit(lambda x, n: x, static_argnums=1, contract={"n": spec("f32[2]")})

    assert caught.value.code == "SJ102"
    assert "n is static" in str(caught.value)


def test_a_partial_binds_its_statics_before_the_contract_sees_them():
    def f(x, mode):
        return x if mode == "a" else -x

    g = safe_jit(functools.partial(f, mode="b"), contract={"x": spec("f32[]")})

    assert g(np.float32(1)) == -1
    assert refused(g, np.int32(1)) == [("x", "dtype")]


def test_each_static_value_is_a_program():
    f = safe_jit(
        lambda x, n: x * n, static_argnums=1, contract={}, limits=Limits(max_compiles=2)
    )

    f(1.0, 1)
    f(1.0, 2)
    f(1.0, 1)

    assert f.stats().live == 2


def test_refused_calls_do_not_keep_their_static_values_alive():
    class Large:
        pass

    def f(static, x):
        return x

    g = safe_jit(f, static_argnums=0, limits=Limits(max_compiles=2))
    g(1, 1.0)
    g(2, 1.0)
    alive = []
    for _ in range(400):
        value = Large()
        alive.append(weakref.ref(value))
        with pytest.raises(CompileLimitError):
            g(value, 1.0)
        del value
    gc.collect()

    assert sum(one() is not None for one in alive) <= 66
