"""Who called: the user, or JAX for itself."""

from __future__ import annotations

import functools
import importlib.machinery
import os
import pathlib
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from safejax import _jax

Owner = Literal["jax", "library", "user"]

# Their frames say nothing about who wanted the call: JAX uses them, and users do.
# From this length on a name is found in an alias of it, too.
_DISTINCTIVE = 8
LIBRARIES = ("ml_dtypes", "numpy", "opt_einsum", "scipy")
# safejax's modules that act for whoever called them, or play the user.
_ON_BEHALF = tuple(
    f"{_jax.PACKAGE}{os.sep}{name}{os.sep}" for name in ("jit", "demo", "cli")
)
_HANDLER = f"{_jax.PACKAGE}{os.sep}jit{os.sep}_miss.py"
_DIRECTORIES = (*_jax.JAX_DIRECTORIES, f"{_jax.PACKAGE}{os.sep}")
_SITE = tuple({*site.getsitepackages(), site.getusersitepackages()})
_STDLIB = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


@functools.cache
def _library_directories() -> tuple[str, ...]:
    find = importlib.machinery.PathFinder.find_spec
    specs = (find(name) for name in LIBRARIES)
    files = (spec.origin for spec in specs if spec is not None)
    return tuple(f"{pathlib.Path(file).parent}{os.sep}" for file in files if file)


def _is_stdlib(file: str) -> bool:
    if file.startswith("<frozen "):
        return True
    return file.startswith(_STDLIB) and not file.startswith(_SITE)


# --- JAX's own code ---------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _codes_of(file: str) -> frozenset[types.CodeType]:
    """All code that a source file compiles to, from its cache where it has one."""
    loader = importlib.machinery.SourceFileLoader("safejax_reads", file)
    try:
        module = loader.get_code("safejax_reads")
    except (OSError, SyntaxError, ImportError):
        return frozenset()
    return frozenset(_nested(module)) if module is not None else frozenset()


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _module_of(file: str) -> str | None:
    for directory in _DIRECTORIES:
        if file.startswith(directory):
            root = pathlib.Path(directory)
            parts = [root.name, *pathlib.Path(file[len(directory) :]).parts]
            parts[-1] = parts[-1].removesuffix(".py")
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return None


class _Verified:
    """Code that was compared with JAX's files, and the globals it belongs to.

    A file name or a module's name proves nothing: both can be chosen, with
    ``compile`` and with ``__globals__`` (T13).
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[types.CodeType, dict[str, Any]]] = {}

    def __contains__(self, frame: types.FrameType) -> bool:
        code = frame.f_code
        known = self._known.get(id(code))
        if known is None:
            known = self._compared(code)
            if known is None:
                return False
            self._known[id(code)] = known
        return known[1] is frame.f_globals

    def _compared(
        self, code: types.CodeType
    ) -> tuple[types.CodeType, dict[str, Any]] | None:
        name = _module_of(code.co_filename)
        module = None if name is None else sys.modules.get(name)
        if module is None or code not in _codes_of(code.co_filename):
            return None
        return code, vars(module)


verified = _Verified()


# Code that stands in for a watched function on Python 3.11.
stand_ins: set[int] = set()


def owner_of(frame: types.FrameType) -> Owner:
    """Whose code a frame runs."""
    code = frame.f_code
    file = code.co_filename
    if not type(file) is type(code.co_name) is type(code.co_qualname) is str:
        return "user"  # names with methods of their own
    if file.startswith(_DIRECTORIES):
        return _owner_in_packages(frame, file)
    if file.startswith((_jax.GENERATED, *_library_directories())) or _is_stdlib(file):
        return "library"
    if file == "<string>" and code.co_name.startswith("__"):
        return "library"  # what dataclasses write
    return "user"


def _owner_in_packages(frame: types.FrameType, file: str) -> Owner:
    if frame not in verified:
        return "user"
    if not file.startswith(_ON_BEHALF) or file == _HANDLER:
        return "jax"
    return "library" if file.startswith(_ON_BEHALF[0]) else "user"


# What a watched function of JAX has made acts for whoever calls it.
_MADE_BY = {
    "do_export": "jax.export.export",
    "make_jaxpr_f": "jax.make_jaxpr",
}


# --- who wanted it ----------------------------------------------------------------


def names_it(code: types.CodeType, wanted: frozenset[str]) -> bool:
    """Whether a function's own text mentions one of the names.

    JAX's functions that call what they are given (``jax.tree.map``, ``vmap``) do not
    mention what it is; those that use an API for themselves do.
    """
    if "" in wanted:
        return True
    mentioned = {name.lstrip("_") for name in (*code.co_names, *code.co_freevars)}
    return any(
        name.lstrip("_") in mentioned
        or (len(name) >= _DISTINCTIVE and any(name in other for other in mentioned))
        for name in wanted
    )


def is_within(frame: types.FrameType, modules: tuple[str, ...]) -> bool:
    """Whether a frame belongs to one of the modules, or to what is in them."""
    name = dict.get(frame.f_globals, "__name__")
    if type(name) is not str:
        return False
    module = sys.modules.get(name)
    if module is None or vars(module) is not frame.f_globals:
        return False
    return any(name == one or name.startswith(f"{one}.") for one in modules)


def _callee_names(frame: types.FrameType) -> frozenset[str]:
    parts = frame.f_code.co_qualname.split(".")
    if parts[-1].startswith("__"):
        # with X() and X() mention the class at most, and a hook not even that.
        return frozenset({""})
    return frozenset(part for part in parts if part != "<locals>")


class Wanted(NamedTuple):
    """Who wanted a call.

    Attributes:
        frame: The frame that did, or ``None`` where JAX did, for itself.
        api: What it has called, where that was made by an API of the table.
    """

    frame: types.FrameType | None
    api: str = ""


_NOBODY = Wanted(None)


def wanted_by(
    frame: types.FrameType | None,
    names: frozenset[str],
    trusted: tuple[str, ...],
    stops: Callable[[types.CodeType], bool],
) -> Wanted:
    """Who wanted a call.

    Args:
        frame: Who called.
        names: Those by which JAX's code mentions what was called.
        trusted: Modules whose own calls are admitted.
        stops: Whether everything below a frame of this code is admitted.
    """
    last, api = frame, ""
    while frame is not None:
        code = frame.f_code
        if stops(code):
            return _NOBODY
        if id(code) not in stand_ins:
            owner = owner_of(frame)
            is_trusted = bool(trusted) and is_within(frame, trusted)
            made_by = _MADE_BY.get(code.co_name) if owner == "jax" else None
            if made_by is not None:
                api, names = made_by, names | {made_by.rpartition(".")[2]}
            elif (owner == "jax" or is_trusted) and names_it(code, names):
                return _NOBODY
            elif owner == "user" and not is_trusted:
                return Wanted(frame, api)
            elif owner == "library":
                names = _callee_names(frame)
        last, frame = frame, frame.f_back
    return Wanted(last, api)


def is_harmless_module(name: str) -> bool:
    """Whether a module that is about to be loaded is Python's, JAX's or JAX needs it.

    Loading those does nothing. Where it lies decides, and not its name.
    """
    if name in sys.builtin_module_names:
        return True
    parts = name.split(".")
    if parts[0] not in _HARMLESS:
        return False
    path = None
    for end in range(1, len(parts) + 1):
        parent = sys.modules.get(".".join(parts[:end]))
        if parent is None or end == len(parts):
            spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), path)
            frozen = importlib.machinery.FrozenImporter.find_spec(parts[0])
            return _is_own_place(spec) or (spec is None and frozen is not None)
        path = getattr(parent, "__path__", None)
    return False


def _is_own_place(spec: importlib.machinery.ModuleSpec | None) -> bool:
    origin = None if spec is None else spec.origin
    if spec is None or origin is None:
        return False
    places = (*_DIRECTORIES, *_library_directories())
    return origin.startswith(places) or _is_stdlib(origin)


_HARMLESS = frozenset(
    {*sys.stdlib_module_names, *LIBRARIES, "jax", "jaxlib", "safejax"}
)
