"""The frames between the pool and its workers."""

from __future__ import annotations

import ast
import contextlib
import json
import pathlib
import struct
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safejax.compile import _protocol
from safejax.compile._protocol import (
    Answer,
    FrameReader,
    Hello,
    Kind,
    Order,
    ProtocolError,
)

LIMITS = _protocol.answer_limits(1 << 20)
HELLO = Hello("1.2.3", 42, {"open": "denied", "seccomp": True})
ALL = dict.fromkeys(Kind, 1 << 20)


def read_all(parts, limits=ALL):
    return FrameReader(limits).feed(b"".join(parts))


def header(magic=b"SJXC", version=_protocol.VERSION, kind=3, length=0):
    return struct.pack("<4sHHQ", magic, version, kind, length)


orders = st.builds(
    Order,
    st.integers(0, 2**64 - 1),
    st.binary(max_size=200),
    st.binary(max_size=50),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5).map(tuple),
    st.integers(0, 2**63),
)
answers = st.builds(
    Answer,
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.binary(max_size=200),
    st.floats(0, 1e9),
    st.integers(0, 2**63),
)


@given(orders)
def test_an_order_arrives_as_it_was_sent(order):
    ((kind, body),) = read_all(_protocol.order_frame(order))
    assert kind is Kind.COMPILE
    assert _protocol.parse_order(body) == order
    parts = order.module, order.options, order.devices
    assert _protocol.order_length(*parts) == len(body)


@given(answers)
def test_an_answer_arrives_as_it_was_sent(answer):
    ((kind, body),) = read_all(_protocol.answer_frame(answer))
    assert _protocol.parse_answer(kind, body) == answer


def test_a_hello_arrives_as_it_was_sent():
    ((kind, body),) = read_all(_protocol.hello_frame(HELLO))
    assert (kind, _protocol.parse_hello(body)) == (Kind.HELLO, HELLO)


@given(st.lists(answers, max_size=4), st.data())
def test_frames_survive_being_cut_anywhere(sent, data):
    stream = b"".join(part for a in sent for part in _protocol.answer_frame(a))
    reader = FrameReader(LIMITS)
    got = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert [_protocol.parse_answer(*frame) for frame in got] == sent
    assert not reader.midway


@given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
def test_rubbish_is_a_protocol_error_or_an_unfinished_frame(chunks, begins_well):
    reader = FrameReader(LIMITS)
    try:
        if begins_well:
            reader.feed(header(length=30))
        for chunk in chunks:
            for kind, body in reader.feed(chunk):
                _protocol.parse_answer(kind, body)
    except ProtocolError:
        pass


@given(st.binary(max_size=100))
def test_no_body_makes_the_parsers_raise_anything_else(body):
    for parse in (_protocol.parse_order, _protocol.parse_hello):
        with contextlib.suppress(ProtocolError):
            parse(body)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (header(magic=b"HTTP"), "does not begin"),
        (header(version=99), "protocol version 99"),
        (header(kind=2), "unexpected kind"),
        (header(kind=77), "unexpected kind"),
        (header(length=2**63), "limit"),
        (header(kind=1, length=_protocol.MAX_HELLO_BYTES + 1), "limit"),
    ],
)
def test_a_wrong_header_is_refused_before_its_body_is_read(bad, words):
    with pytest.raises(ProtocolError, match=words):
        FrameReader(LIMITS).feed(bad)


def test_a_claimed_length_takes_no_memory():
    reader = FrameReader(_protocol.answer_limits(1 << 30))
    tracemalloc.start()
    try:
        assert reader.feed(header(length=1 << 30)) == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()
    assert reader.midway


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 16000,
        b"[]",
        json.dumps({"jaxlib": "1", "pid": 1}).encode(),
        json.dumps({"jaxlib": 1, "pid": 1, "confinement": {}}).encode(),
        json.dumps({"jaxlib": "1", "pid": True, "confinement": {}}).encode(),
        json.dumps({"jaxlib": "1", "pid": 1, "confinement": {"a": None}}).encode(),
    ],
)
def test_a_hello_of_another_form_is_refused(body):
    with pytest.raises(ProtocolError):
        _protocol.parse_hello(body)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_an_answer_with_an_impossible_time_is_refused(seconds):
    body = struct.pack("<QdQ", 1, seconds, 0)
    with pytest.raises(ProtocolError, match="impossible"):
        _protocol.parse_answer(Kind.EXECUTABLE, body)


def test_lengths_in_an_order_that_do_not_add_up_are_refused():
    body = struct.pack("<QQII", 1, 0, 2**32 - 1, 2**32 - 1) + b"x" * 100
    with pytest.raises(ProtocolError, match="add up"):
        _protocol.parse_order(body)


def test_the_words_of_an_error_are_cut():
    long = Answer(1, False, b"x" * 100_000, 0.0, 0)
    ((kind, body),) = read_all(_protocol.answer_frame(long))
    payload = _protocol.parse_answer(kind, body).payload
    assert len(payload) == _protocol.MAX_ERROR_BYTES


def test_only_a_worker_that_was_denied_everything_counts_as_confined():
    report = dict.fromkeys(_protocol.PROBES, "denied")
    report |= dict.fromkeys(_protocol.MEASURES, True)
    assert Hello("1", 1, report).unconfined == []
    assert Hello("1", 1, report | {"exec": "allowed"}).unconfined == ["exec"]
    assert Hello("1", 1, report | {"seccomp": False}).unconfined == ["seccomp"]
    # What is not reported, or not in the expected words, was not proven.
    assert len(Hello("1", 1, {"open": True}).unconfined) == len(report)


@pytest.mark.parametrize("name", ["_protocol", "_confine", "_worker"])
def test_what_the_worker_loads_imports_the_standard_library_only(name):
    source = pathlib.Path(_protocol.__file__).with_name(f"{name}.py").read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= set(sys.stdlib_module_names)
