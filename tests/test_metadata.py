"""Plain data in signed files: what comes back equals what was saved, or is refused."""

from __future__ import annotations

import enum
import json
import math
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import safejax
from safejax.signing import _data
from safejax.signing._blob import seal
from safejax.signing._origin import new_origin

RING = safejax.KeyRing.generate()
PLAIN = {
    "name": "digits",
    "labels": {"0": "zero", "ü": "\n\x01\u2028"},
    "sizes": [1, -(2**63), 2**64 - 1, 0.1, -0.0, 1e300, True, None, [], {}],
}


def dump(path: Path, data: Any, **options: Any) -> Path:
    safejax.signed_dump(path, data, key=RING, **options)
    return path


def load(path: Path, **options: Any) -> Any:
    return safejax.signed_load(path, key=RING, **options)


def forged(path: Path, payload: bytes, purpose: str = _data.PURPOSE) -> Path:
    """A file that a key holder has signed, whatever is in it."""
    fields = new_origin("", None, "", {}).fields()
    path.write_bytes(seal(payload, purpose=purpose, ring=RING, fields=fields))
    return path


def same(a: Any, b: Any) -> bool:
    """Equal, types and signs of zero included."""
    return repr(a) == repr(b)


def test_plain_data_comes_back_as_it_was(tmp_path: Path):
    assert same(load(dump(tmp_path / "a", PLAIN)), PLAIN)


def test_the_order_of_keys_is_kept(tmp_path: Path):
    assert list(load(dump(tmp_path / "a", {"b": 1, "a": 2}))) == ["b", "a"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_any_plain_data_comes_back(tmp_path_factory: Any, value: Any):
    path = tmp_path_factory.mktemp("any") / "a"

    assert same(load(dump(path, value)), value)


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": math.nan}, "data['a']"),
        ([0, math.inf], "data[1]"),
        ((1, 2), "data"),
        ({1: "a"}, "data"),
        ({"a": {None: 1}}, "data['a']"),
        (OrderedDict(a=1), "data"),
        ([Colour.RED], "data[0]"),
        (np.float64(1.0), "data"),
        (np.ones(3), "data"),
        (b"bytes", "data"),
        ({1, 2}, "data"),
        (2**64, "data"),
        (-(2**63) - 1, "data"),
        pytest.param(10**5000, "data", id="long"),
        (type("Text", (str,), {})("a"), "data"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(
    tmp_path: Path, value: Any, path: str
):
    with pytest.raises(safejax.FormatError) as caught:
        dump(tmp_path / "a", value)

    assert caught.value.code == "SJ507"
    assert caught.value.details["path"] == path
    assert not (tmp_path / "a").exists()


def test_a_lone_surrogate_is_refused(tmp_path: Path):
    with pytest.raises(safejax.FormatError):
        dump(tmp_path / "a", "\ud800")


def test_data_that_holds_itself_is_refused(tmp_path: Path):
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(safejax.FormatError, match="max_depth"):
        dump(tmp_path / "a", endless)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"NaN",
        b"[1,Infinity]",
        b'{"a":1,"a":2}',
        b'{"a": 1}',
        b"1e400",
        b"1.0e0",
        b"[" * 100_000,
        b"1" * 5000,
        b'"\xff"',
        b"18446744073709551616",
        b"\x80\x04N.",
    ],
)
def test_signed_text_with_another_spelling_is_refused(tmp_path: Path, payload: bytes):
    path = forged(tmp_path / "a", payload)

    with pytest.raises(safejax.FormatError) as caught:
        load(path)

    assert caught.value.code == "SJ503"


def test_limits_count_values_depth_and_bytes(tmp_path: Path):
    path = dump(tmp_path / "a", [[1, 2], [3]])

    assert load(path, limits=safejax.LoadLimits(max_leaves=6, max_depth=2))
    for limits in (
        safejax.LoadLimits(max_leaves=5),
        safejax.LoadLimits(max_depth=1),
        safejax.LoadLimits(max_data_bytes=5),
    ):
        with pytest.raises(safejax.FormatError):
            load(path, limits=limits)


def test_too_much_data_is_refused_before_it_is_written(tmp_path: Path):
    with pytest.raises(safejax.FormatError, match="as JSON"):
        dump(tmp_path / "a", "x" * (_data.DEFAULTS.max_data_bytes + 1))


def test_no_more_is_read_than_the_signed_header_admits(tmp_path: Path):
    path = dump(tmp_path / "a", PLAIN)
    with path.open("ab") as file:
        file.truncate(2**40)

    with pytest.raises(safejax.SignatureError):
        load(path)


def test_every_changed_byte_is_noticed(tmp_path: Path):
    path = dump(tmp_path / "a", {"admin": False})
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises((safejax.SignatureError, safejax.FormatError)):
            load(path)


@pytest.mark.parametrize(
    ("saved", "wanted", "field"),
    [
        ({}, {"context": "other"}, "context"),
        ({"step": 3}, {"min_step": 4}, "step"),
        ({"run_id": "a"}, {"expect_run_id": "b"}, "run_id"),
        ({}, {"max_age_s": -1.0}, "age"),
    ],
)
def test_another_file_than_the_one_asked_for_is_refused(
    tmp_path: Path, saved: Any, wanted: Any, field: str
):
    with pytest.raises(safejax.RollbackError) as caught:
        load(dump(tmp_path / "a", PLAIN, **saved), **wanted)

    assert caught.value.details["field"] == field


def test_expired_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = dump(tmp_path / "a", PLAIN, expires_in_s=60.0)
    assert load(path) == PLAIN
    late = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: late)

    with pytest.raises(safejax.RollbackError) as caught:
        load(path)

    assert caught.value.details["field"] == "expiry"


def test_an_expiry_in_the_past_is_no_expiry(tmp_path: Path):
    for seconds in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="expires_in_s"):
            dump(tmp_path / "a", PLAIN, expires_in_s=seconds)


def test_one_kind_does_not_pass_for_another(tmp_path: Path):
    data = dump(tmp_path / "data", {"w": 1.0})
    saved = tmp_path / "saved"
    safejax.signed_save(saved, {"w": 1.0}, key=RING)

    assert load(data, kind="data") == load(saved, kind="checkpoint") == {"w": 1.0}
    for path, kind in ((data, "checkpoint"), (saved, "data")):
        with pytest.raises(safejax.SignatureError):
            load(path, kind=kind)
    with pytest.raises(safejax.SignatureError):
        load(data, like={"w": 1.0})


def test_a_file_that_only_says_it_is_data_does_not_verify(tmp_path: Path):
    path = tmp_path / "a"
    safejax.signed_save(path, {"w": 1.0}, key=RING)
    path.write_bytes(path.read_bytes().replace(b'"checkpoint"', b'"data"', 1))

    with pytest.raises((safejax.SignatureError, safejax.FormatError)):
        load(path)


def test_an_unknown_kind_is_no_kind(tmp_path: Path):
    with pytest.raises(ValueError, match="kind"):
        load(dump(tmp_path / "a", 1), kind="program")


def test_an_existing_file_can_be_kept(tmp_path: Path):
    path = dump(tmp_path / "a", 1)
    with pytest.raises(safejax.StorageError):
        dump(path, 2, overwrite=False)

    assert load(path) == 1


def test_the_message_names_the_place_and_not_the_value(tmp_path: Path):
    with pytest.raises(safejax.FormatError) as caught:
        dump(tmp_path / "a", {"key": [b"hunter2"]})

    assert "data['key'][0]" in str(caught.value)
    assert "hunter2" not in str(caught.value) + json.dumps(caught.value.details)
