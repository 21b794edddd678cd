"""Puts the table into effect: which function, once it starts, asks which row."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from safejax.errors import SafeJaxError
from safejax.guard import _audit, _callers, _decide, _inherit, _options, _resolve
from safejax.guard._monitor import Call, Monitor, OnEnd, OnStart
from safejax.guard._replace import Replacement
from safejax.guard._row import Row
from safejax.guard._table import ROWS

_IMPORT = "import"
_THREAD = "threading.Thread.start"


# A JAX that has moved one of these has moved others: better no guard than half of one.
_INDISPENSABLE = frozenset(
    {
        "import",
        "jax.config.update",
        "jax.experimental.io_callback",
        "jax.export.export",
        "jax.extend.core.Primitive",
        "jax.ffi.ffi_call",
        "jax.jit(f).lower",
        "jax.make_jaxpr",
        "jax.pure_callback",
        "threading.Thread.start",
    }
)


class _Source(NamedTuple):
    """A function to be watched once it is loaded, and what it is watched for."""

    path: str
    on_start: OnStart | None
    on_end: OnEnd | None
    api: str = ""


class _Watched:
    """What is to be asked when one function starts and ends."""

    def __init__(self) -> None:
        self.apis: set[str] = set()
        self.starts: list[OnStart] = []
        self.ends: list[OnEnd] = []

    def on_start(self, call: Call) -> None:
        for start in self.starts:
            start(call)

    def on_end(self, call: Call) -> None:
        for end in self.ends:
            end(call)


class Watch:
    """All rows: those that are in effect, and those whose modules are not loaded."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._backend = Replacement() if sys.version_info < (3, 12) else Monitor()
        self._functions: dict[int, tuple[types.FunctionType, _Watched]] = {}
        self._pending: list[_Source] | None = None
        # Modules with which more of them would come.
        self._awaited: frozenset[str] = frozenset()

    def install(self) -> None:
        """Puts in effect what is loaded; the first time everything else as well."""
        if self._pending is None:
            with self._lock, _decide.unjudged():
                if self._pending is None:
                    self._install_first()
            return
        if self._has_come():
            with self._lock, _decide.unjudged():
                self._install_pending()
        if not self.is_intact():
            self.restore()

    def is_intact(self) -> bool:
        """Whether nobody has switched the guard off."""
        with _decide.unjudged():
            return self._backend.is_intact()

    def restore(self) -> None:
        """Puts in effect again what was switched off."""
        with self._lock, _decide.unjudged():
            self._backend.restore()

    def _install_first(self) -> None:
        self._pending = [_Source(*hook) for hook in _inherit.HOOKS]
        for row in ROWS:
            end = self._on_import_end if row.api == _IMPORT else None
            start = _on_start(row)
            self._pending += [_Source(path, start, end, row.api) for path in row.paths]
        self._install_pending()
        _audit.install(ROWS)
        missing = sorted(_INDISPENSABLE - self.apis())
        if missing:
            raise SafeJaxError(
                f"safejax.guard() does not know this JAX: {', '.join(missing)} moved",
                code="SJ001",
                hint="install a JAX release that the documentation lists",
            )

    def _has_come(self) -> bool:
        return not self._awaited.isdisjoint(sys.modules)

    def _install_pending(self) -> None:
        waiting, found = [], []
        for source in self._pending or ():
            value = _resolve.loaded(source.path)
            if value is None:
                waiting.append(source)
                continue
            found += [(one, source) for one in _resolve.functions_of(value)]
        self._pending = waiting
        self._awaited = frozenset(
            name
            for source in waiting
            for name in _prefixes(source.path)
            if name not in sys.modules
        )
        # Before the first is watched: watching may change a function's code.
        copies = list(_resolve.copies_of([one for one, _ in found]))
        for function, source in (*found, *((c, found[i][1]) for i, c in copies)):
            self._watch(function, source)

    def _on_import_end(self, _: Call) -> None:
        # A module that comes while a scope is open is watched from its first call on.
        if _decide.is_in_scope() and self._has_come():
            with self._lock, _decide.unjudged():
                self._install_pending()

    def _watch(self, function: types.FunctionType, source: _Source) -> None:
        known = self._functions.get(id(function))
        watched = _Watched() if known is None else known[1]
        if source.api in watched.apis:
            return
        watched.apis.add(source.api)
        if source.on_start is not None:
            watched.starts.append(source.on_start)
        if source.on_end is not None:
            watched.ends.append(source.on_end)
        if known is None:
            self._functions[id(function)] = (function, watched)
            ends = watched.on_end if watched.ends else None
            self._backend.watch(function, watched.on_start, ends)

    def apis(self) -> frozenset[str]:
        """The APIs that are in effect."""
        return frozenset(
            api for _, watched in self._functions.values() for api in watched.apis
        )


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _on_start(row: Row) -> OnStart:
    applies = _options.CONDITIONS.get(row.api)
    if row.api == _IMPORT:
        return lambda call: _imported(row, call)
    if row.api == _THREAD:
        return lambda call: _started(row, call)
    if applies is None:
        return lambda call: _decide.judge(row, call.caller, _audit.never)

    def on_start(call: Call) -> None:
        if _decide.is_in_scope() and applies(call.arguments()):
            _decide.judge(row, call.caller, _audit.never)

    return on_start


def _imported(row: Row, call: Call) -> None:
    if not _decide.is_in_scope():
        return
    name: Any = call.arguments().get("name")
    if type(name) is not str:
        name = "a name with methods of its own"
    with _decide.unjudged():
        if _callers.is_harmless_module(name):
            return
    wanted = frozenset({*name.split("."), name, "import_module", "__import__"})
    _decide.judge(row, call.caller, _audit.is_import, wanted)


def _started(row: Row, call: Call) -> None:
    if not _decide.is_in_scope():
        return
    _decide.judge(row, call.caller, _audit.never)
    _inherit.hand_over(row, call)


_watch = Watch()
install = _watch.install
is_intact = _watch.is_intact
restore = _watch.restore
apis = _watch.apis
