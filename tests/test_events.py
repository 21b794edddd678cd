"""Events: what callbacks and the log are told, and that neither does any harm."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import threading

import pytest

from safejax.compile import _events
from safejax.compile._events import Event, emit, on_event

LOGGER = "safejax.compile"


@pytest.fixture
def listen():
    """Subscribe for the length of one test."""
    unsubscribes = []

    def subscribe(callback):
        unsubscribes.append(on_event(callback))
        return unsubscribes[-1]

    yield subscribe
    for unsubscribe in unsubscribes:
        unsubscribe()
    assert _events._listeners == ()


@pytest.fixture
def quiet():
    logger = logging.getLogger(LOGGER)
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


# --- the record ---------------------------------------------------------------------


def test_event_is_frozen_and_its_details_are_read_only():
    details = {"live": 3}
    event = Event(kind="refused", function="f", details=details)
    details["live"] = 4

    assert event.details == {"live": 3}
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.kind = "killed"
    with pytest.raises(TypeError):
        event.details["live"] = 5


def test_event_as_plain_data_goes_through_json():
    event = Event(kind="killed", function="f", code="SJ210", details={"pid": 1})
    data = json.loads(json.dumps(event.as_dict()))

    assert Event(**data) == event


@pytest.mark.parametrize(
    "through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy]
)
def test_event_survives_copying_and_pickling(through):
    event = Event(kind="killed", function="f", details={"a": [1]})

    assert through(event) == event
    assert hash(through(event)) == hash(event)


# --- callbacks ----------------------------------------------------------------------


def test_callback_gets_the_event(listen):
    seen = []
    listen(seen.append)
    emit("compiled", "f", tenant="t", phase="compile", seconds=0.5, details={"n": 1})

    (event,) = seen
    assert (event.kind, event.function, event.tenant) == ("compiled", "f", "t")
    assert (event.phase, event.seconds, event.details) == ("compile", 0.5, {"n": 1})
    assert event.time_s > 0


def test_callbacks_are_called_in_the_order_of_their_subscription(listen):
    seen = []
    for name in "abc":
        listen(lambda _, name=name: seen.append(name))
    emit("admitted", "f")

    assert seen == ["a", "b", "c"]


def test_unsubscribed_callback_is_not_called_and_others_are(listen):
    first, second = [], []
    unsubscribe = listen(first.append)
    listen(second.append)
    unsubscribe()
    unsubscribe()
    emit("admitted", "f")

    assert (len(first), len(second)) == (0, 1)


def test_each_subscription_of_one_callback_ends_by_itself(listen):
    seen = []
    unsubscribe = listen(seen.append)
    listen(seen.append)
    unsubscribe()
    emit("admitted", "f")

    assert len(seen) == 1


def test_details_are_not_made_where_nobody_listens(quiet):
    def build():
        raise NotImplementedError

    emit("compiled", "f", details=build)


def test_details_are_made_once_for_all_listeners(listen):
    built = []

    def build():
        built.append(1)
        return {"n": 1}

    listen(lambda event: None)
    listen(lambda event: None)
    emit("compiled", "f", details=build)

    assert built == [1]


@pytest.mark.parametrize("callback", [None, "print", 3])
def test_what_can_not_be_called_is_refused(callback):
    with pytest.raises(TypeError, match="takes a callable"):
        on_event(callback)


def test_coroutine_function_is_refused():
    async def callback(event):
        """Nobody would await it."""

    with pytest.raises(TypeError, match="coroutine"):
        on_event(callback)


# --- harm ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, SystemExit, GeneratorExit])
def test_callback_that_raises_is_logged_once_and_stops_nobody(listen, caplog, kind):
    seen = []

    def broken(event):
        raise kind("the secret 1234")

    listen(broken)
    listen(seen.append)
    with caplog.at_level(logging.ERROR, LOGGER):
        for _ in range(5):
            emit("admitted", "f")

    assert len(seen) == 5
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is None
    assert "broken" in record.getMessage()
    assert kind.__name__ in record.getMessage()
    assert "1234" not in record.getMessage()


def test_each_callback_that_raises_is_logged(listen, caplog):
    for _ in range(3):
        listen(lambda event: 1 / 0)
    with caplog.at_level(logging.ERROR, LOGGER):
        emit("admitted", "f")
        emit("admitted", "f")

    assert len(caplog.records) == 3


def test_interrupt_in_a_callback_goes_through(listen):
    seen = []

    def interrupted(event):
        raise KeyboardInterrupt

    unsubscribe = listen(interrupted)
    with pytest.raises(KeyboardInterrupt):
        emit("admitted", "f")
    unsubscribe()
    listen(seen.append)
    emit("admitted", "f")

    assert len(seen) == 1


def test_callback_is_not_called_for_what_it_causes_itself(listen):
    causing, watching = [], []

    def causes(event):
        causing.append(event.kind)
        emit("compiled", "g")

    listen(causes)
    listen(lambda event: watching.append(event.kind))
    emit("admitted", "f")

    assert causing == ["admitted"]
    assert watching == ["compiled", "admitted"]


def test_callbacks_that_cause_events_for_each_other_come_to_an_end(listen):
    calls = []
    for name in "abc":
        listen(lambda event, name=name: (calls.append(name), emit("compiled", name)))
    emit("admitted", "f")

    assert len(calls) < 20


def test_callback_may_unsubscribe_and_subscribe_while_it_runs(listen):
    seen = []

    def once(event):
        unsubscribe()
        listen(seen.append)

    unsubscribe = listen(once)
    emit("admitted", "f")
    assert seen == []
    emit("compiled", "f")

    assert [event.kind for event in seen] == ["compiled"]


def test_events_of_many_threads_all_arrive(listen):
    seen = []
    listen(seen.append)

    def work():
        for _ in range(100):
            on_event(seen.append)()
            emit("admitted", "f")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) >= 400
    assert len(_events._listeners) == 1


# --- the log ------------------------------------------------------------------------


def test_what_an_attacker_can_cause_for_free_is_logged_at_debug_only(caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        emit("refused", "f", code="SJ203")
    assert caplog.records == []

    with caplog.at_level(logging.DEBUG, LOGGER):
        emit("refused", "f", code="SJ203")
    assert caplog.records[0].levelno == logging.DEBUG


def test_log_line_says_what_happened(caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        emit(
            "killed", "f", code="SJ210", phase="compile", seconds=2.0, tenant="user-42"
        )

    assert caplog.messages == [
        "killed f() [SJ210] phase=compile seconds=2.000 tenant='user-42'"
    ]


def test_tenant_can_not_forge_a_log_line(caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        emit("compiled", "f", tenant="a\nERROR all is lost\u2028\x1b[2J")

    assert caplog.messages[0].isascii()
    assert "\n" not in caplog.messages[0]
    assert "\x1b" not in caplog.messages[0]
