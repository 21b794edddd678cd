"""What the policies say about one call, and who is told."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import types
from collections.abc import Callable, Iterator
from typing import NamedTuple

from safejax.errors import GuardError
from safejax.guard import _callers, _state
from safejax.guard._policy import CATEGORIES, Category, Decision, Policy
from safejax.guard._row import Row
from safejax.guard._table import ROWS

_log = logging.getLogger("safejax.guard")
# What was refused raises; what was not must be seen.
_LEVELS = {"allow": logging.DEBUG, "log": logging.WARNING, "disallow": logging.INFO}
_NOT_CALLED = ("import", "ctypes", "function.__code__")


class Judgement(NamedTuple):
    """What was decided about one call.

    Attributes:
        api: What was called.
        category: The field of the policy that decided.
        decision: ``"allow"`` (by name, or for a trusted module), ``"log"`` or
            ``"disallow"``.
        file: The caller's file.
        line: The caller's line.
        policy: The policy that decided, in words.
    """

    api: str
    category: Category
    decision: Decision
    file: str
    line: int
    policy: str


_BY_API = {row.api: row for row in ROWS}

# Told of every judgement, in the thread where it is made.
observers: list[Callable[[Judgement], object]] = []


class _Busy(threading.local):
    """Whether this thread is judging: what that does itself is not judged."""

    def __init__(self) -> None:
        self.judging = False
        self.telling = False
        # For each trace that is under way, the first refusal in it.
        self.refused: list[GuardError | None] = []


_busy = _Busy()


@contextlib.contextmanager
def unjudged() -> Iterator[None]:
    """What this thread does in the block is the guard's own work."""
    before = _busy.judging
    _busy.judging = True
    try:
        yield
    finally:
        _busy.judging = before


def is_in_scope() -> bool:
    """Whether calls of this thread are to be judged now."""
    return bool(_state.active()) and not _busy.judging


def switched_off() -> GuardError:
    """What is raised where a scope ends without its guard."""
    return GuardError(
        "the guard was switched off inside of its scope",
        details={"api": "sys.monitoring", "category": "codegen", "file": "", "line": 0},
        hint="what ran in the scope is not to be trusted",
    )


def judge(
    row: Row,
    caller: types.FrameType | None,
    stops: Callable[[types.CodeType], bool],
    wanted: frozenset[str] | None = None,
) -> None:
    """Raises where a policy disallows a call; logs where one says so.

    Args:
        row: What was called.
        caller: The frame that called it.
        stops: Whether everything below a frame of this code is admitted.
        wanted: The names by which code mentions it, where they are not the row's.

    Raises:
        GuardError: ``SJ301``.
    """
    policies = _state.active()
    if not policies or _busy.judging:
        return
    _busy.judging = True
    try:
        decided = _decide(row, policies, caller, stops, wanted or _names(row))
    finally:
        _busy.judging = False
    if decided is None:
        return
    # Not as our own work: filters and handlers may be anybody's.
    if not _busy.telling:
        _busy.telling = True
        try:
            _tell(decided)
        finally:
            _busy.telling = False
    if decided.decision == "disallow":
        raise _remembered(_refusal(decided))


def begin_trace() -> None:
    """From now on refusals are remembered, in this thread."""
    _busy.refused.append(None)


def end_trace() -> GuardError | None:
    """The first refusal since the trace began."""
    return _busy.refused.pop() if _busy.refused else None


def _remembered(error: GuardError) -> GuardError:
    _busy.refused = [
        GuardError(error.message, details=error.details, hint=error.hint)
        if refused is None
        else refused
        for refused in _busy.refused
    ]
    return error


@functools.cache
def _names(row: Row) -> frozenset[str]:
    return row.names


def _decide(
    row: Row,
    policies: tuple[Policy, ...],
    caller: types.FrameType | None,
    stops: Callable[[types.CodeType], bool],
    names: frozenset[str],
) -> Judgement | None:
    """The strictest judgement, or ``None`` where there is nothing to judge."""
    if all(getattr(policy, row.category) == "allow" for policy in policies):
        return None
    wanted = _callers.wanted_by(caller, names, (), stops)
    if wanted.frame is None:
        return None
    row = _BY_API.get(wanted.api, row)
    found = {}
    for policy in policies:
        word: Decision = getattr(policy, row.category)
        if word == "allow":
            continue
        if row.api in policy.allow or _is_trusted(policy, caller, names, stops):
            word = "allow"
        found[word] = Judgement(
            row.api,
            row.category,
            word,
            str.__str__(wanted.frame.f_code.co_filename),
            wanted.frame.f_lineno,
            describe(policy),
        )
    return found.get("disallow") or found.get("log") or found.get("allow")


def _is_trusted(
    policy: Policy,
    caller: types.FrameType | None,
    names: frozenset[str],
    stops: Callable[[types.CodeType], bool],
) -> bool:
    trusted = policy.trusted_modules
    if not trusted:
        return False
    return _callers.wanted_by(caller, names, trusted, stops).frame is None


def _tell(judgement: Judgement) -> None:
    text = "%s: %s, %s, called at %s:%d under %s"
    one = judgement
    values = (one.decision, one.api, one.category, one.file, one.line, one.policy)
    # A broken log must not decide what runs.
    with contextlib.suppress(Exception):
        _log.log(_LEVELS[one.decision], text, *values)
    for observer in tuple(observers):
        try:
            observer(judgement)
        except Exception:  # noqa: BLE001  the same
            _log.debug("an observer raised", exc_info=True)


def _refusal(judgement: Judgement) -> GuardError:
    is_whole = judgement.api.endswith(")") or judgement.api in _NOT_CALLED
    called = judgement.api if is_whole else f"{judgement.api}()"
    return GuardError(
        f"{called} refused: {judgement.category} is disallowed in this scope\n"
        f"  called at {judgement.file}:{judgement.line}, under {judgement.policy}",
        details=judgement._asdict(),
        hint=(
            f'call it before the scope, or allow it: policy.replace(allow={{"'
            f'{judgement.api}"}})'
        ),
    )


@functools.lru_cache(maxsize=64)
def describe(policy: Policy) -> str:
    """A policy in words: the ready-made one it is nearest to, and what differs."""
    best = ""
    for name in ("strict", "serving", "permissive"):
        known: Policy = getattr(Policy, name)()
        changes = [
            f"{field}={getattr(policy, field)!r}"
            for field in CATEGORIES
            if getattr(policy, field) != getattr(known, field)
        ]
        text = f"Policy.{name}()"
        if changes:
            text += f".replace({', '.join(changes)})"
        if not best or len(text) < len(best):
            best = text
    return best
