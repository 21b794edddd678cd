"""Runs a snippet with ``jax.jit`` and with ``safe_jit``, and compares all that shows.

A snippet is a function of one argument, ``jit``. What shows is its result, the error it
raises with the frames of its traceback, the warnings and JAX's log records it causes,
and what it prints. A difference in any of them fails the comparison.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax._src import test_util as jtu

import safejax

Snippet = Callable[[Any], Any]

# What differs between two runs of the same program: addresses, times, fresh names.
_VOLATILE = [
    (re.compile(r"0x[0-9a-fA-F]+"), "0x"),
    (re.compile(r"\d+(\.\d+)?(e-?\d+)? (seconds|sec|ms)\b"), "T"),
    (re.compile(r"\b1\d{14}\b"), "0x"),
]


class Snippets(list[Any]):
    """The snippets of one test, in the order in which they are written."""

    def __call__(self, snippet: Snippet) -> Snippet:
        self.append(pytest.param(snippet, id=snippet.__name__))
        return snippet


@dataclasses.dataclass(frozen=True)
class Observation:
    """All that one run of a snippet shows."""

    result: Any = None
    error: Any = None
    frames: tuple[tuple[str, str, int | None], ...] = ()
    warned: tuple[tuple[str, str, str], ...] = ()
    logged: tuple[tuple[str, str], ...] = ()
    printed: str = ""


def assert_same(snippet: Snippet) -> Observation:
    """Fails where safe_jit shows anything that jax.jit does not; returns what it is."""
    for attempt in range(2):
        reference, subject = (observe(snippet, jit) for jit in _jits())
        # Functions of JAX's own that a snippet calls are compiled in the first attempt.
        if subject == reference or attempt:
            break
    for field in dataclasses.fields(Observation):
        theirs, ours = getattr(reference, field.name), getattr(subject, field.name)
        assert ours == theirs, f"{field.name} differs from that under jax.jit"
    return reference


def _jits() -> tuple[Any, Any]:
    return jax.jit, safejax.safe_jit


def observe(snippet: Snippet, jit: Any) -> Observation:
    """Runs a snippet and writes down what it shows."""
    handler = _Records()
    printed = io.StringIO()
    result: Any = None
    error: BaseException | None = None
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(printed),
        _listening(handler),
    ):
        warnings.simplefilter("always")
        try:
            result = normal(snippet(jit))
        except Exception as raised:  # noqa: BLE001  the error is what is compared
            error = raised
    return Observation(
        result=result,
        error=error and _described(error),
        frames=_frames(error) if error else (),
        warned=tuple(
            (w.category.__name__, plain(str(w.message)), w.filename) for w in caught
        ),
        logged=tuple(handler.records),
        printed=plain(printed.getvalue()),
    )


def normal(value: Any) -> Any:  # noqa: PLR0911  one case, one line
    """A value as plain data in which equal means the same in every respect."""
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        return _normal_array(value)
    if isinstance(value, np.ndarray | np.generic):
        kind = type(value).__name__
        return (kind, value.shape, str(value.dtype), value.tobytes())
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return (type(value).__name__, *map(normal, value))
    if isinstance(value, bool | int | bytes | type) or value is None:
        return value
    return (type(value).__name__, plain(repr(value)))


def plain(text: str) -> str:
    """A text without what differs between two runs of the same program."""
    for pattern, replacement in _VOLATILE:
        text = pattern.sub(replacement, text)
    return text


@dataclasses.dataclass
class Misses:
    """How often JAX left its fast path, traced, lowered and compiled."""

    dispatch: int = 0
    traces: int = 0
    lowerings: int = 0
    compiles: int = 0

    def __iter__(self) -> Iterator[int]:
        return iter(dataclasses.astuple(self))


@contextlib.contextmanager
def counting() -> Iterator[Misses]:
    """Counts, as JAX's own tests do, what happens while the block runs."""
    misses = Misses()
    with (
        jtu.count_pjit_cpp_cache_miss() as dispatch,
        jtu.count_jit_tracing_cache_miss() as traces,
        jtu.count_jit_and_pmap_lowerings() as lowerings,
        jtu.count_jit_compilation_cache_miss() as compiles,
    ):
        yield misses
    misses.dispatch, misses.traces = dispatch(), traces()
    misses.lowerings, misses.compiles = lowerings(), compiles()


def _normal_array(value: jax.Array) -> Any:
    if value.is_deleted():
        return ("deleted", value.shape, str(value.dtype))
    data = value
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(value)
    return (
        "array",
        value.shape,
        str(value.dtype),
        value.aval.weak_type,
        value.committed,
        str(value.sharding),
        np.asarray(data).tobytes(),
    )


def _described(error: BaseException) -> Any:
    cause = error.__cause__
    return (
        type(error),
        plain(str(error)),
        tuple(map(plain, getattr(error, "__notes__", ()))),
        cause and (type(cause), plain(str(cause))),
        error.__suppress_context__,
    )


def _frames(error: BaseException) -> tuple[tuple[str, str, int | None], ...]:
    frames = traceback.extract_tb(error.__traceback__)
    return tuple((frame.name, frame.filename, frame.lineno) for frame in frames)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.levelname, plain(record.getMessage())))


@contextlib.contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
