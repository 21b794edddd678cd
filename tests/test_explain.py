"""A refusal at the cap shows the difference to the nearest known call and a way out."""

from __future__ import annotations

import numpy as np
import pytest

from safejax import CompileLimitError, Limits, safe_jit, spec
from safejax.compile._explain import buckets

f32 = np.float32


def refusal(f, *args, **kwargs):
    with pytest.raises(CompileLimitError) as caught:
        f(*args, **kwargs)
    return caught.value


def capped(limit=1, **options):
    def serve(x, n=1):
        return x

    return safe_jit(serve, limits=Limits(max_compiles=limit), **options)


CONTRACTS = [None, {"x": spec("[...]")}]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_shape_is_shown_beside_the_nearest_known_one(contract):
    f = capped(2, contract=contract)
    f(np.ones((2, 3), f32))
    f({"a": np.ones(3, f32)} if contract is None else np.ones(9, np.int32))

    error = refusal(f, np.ones((2, 4), f32))

    assert "x  float32[2,4] (nearest known: float32[2,3])" in error.message
    assert error.details["live"] == 2
    assert len(error.details["difference"]) == 1


def test_a_dtype_a_weak_type_and_a_missing_argument_are_shown():
    f = capped()
    f(f32(1))

    assert "int32[]" in refusal(f, np.int32(1)).message
    assert "weak type" in refusal(f, 1.0).message
    assert "absent" in refusal(f, f32(1), f32(1)).message


def test_a_static_value_is_shown_by_its_type():
    f = capped(static_argnames="n")
    f(1.0, 3)

    error = refusal(f, 1.0, 4)

    assert "n  another static int value" in error.message


def test_what_is_not_in_the_signature_is_said_to_be_so():
    import jax

    f = capped()
    f(np.ones(2, f32))

    error = refusal(f, jax.device_put(np.ones(2, f32), jax.devices()[1]))

    assert "another sharding or setting" in error.message


def test_sizes_seen_lead_to_buckets():
    f = capped(3)
    for size in (12, 100, 200):
        f(np.ones(size, f32))

    hint = refusal(f, np.ones(400, f32)).hint

    assert "argument x axis 0 took 4 sizes in 12..400" in hint
    assert "pad to 16, 32, 64, 128, 256, 512" in hint


def test_dtypes_seen_lead_to_a_conversion():
    f = capped(2)
    f(np.ones(2, f32))
    f(np.ones(2, np.int32))

    hint = refusal(f, np.ones(2, np.int8)).hint

    assert "x came as float32, int32, int8" in hint


def test_a_flood_of_refusals_is_remembered_in_a_bounded_way():
    f = capped()
    f(np.ones(0, f32))
    error = None
    for size in range(1, 2000):
        error = refusal(f, np.broadcast_to(f32(1), (size,)))

    assert error is not None
    assert "took 256 sizes" in error.hint or "took 257 sizes" in error.hint


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (1, 1, [1]),
        (0, 0, [1]),
        (0, 5, [1, 2, 4, 8]),
        (12, 400, [16, 32, 64, 128, 256, 512]),
        (5, 8, [8]),
        (1, 10**6, None),
    ],
)
def test_buckets_cover_the_range_with_few_powers_of_two(low, high, wanted):
    found = buckets(low, high)

    assert wanted is None or found == wanted
    assert len(found) <= 6
    assert found[-1] >= high
    assert found == sorted(set(found))
