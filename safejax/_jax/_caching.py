"""Programs from disk: who is asked for them before XLA is, in place of JAX's own cache.

While a store is installed, JAX's persistent cache is off: it is neither read nor
written, whatever ``JAX_COMPILATION_CACHE_DIR`` says.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jaxlib.version
import numpy as np
from jax._src import compilation_cache
from jax._src.lib import (  # type: ignore[attr-defined]
    _jax,
    jaxlib_extension_version,
)

from safejax.errors import SafeJaxError

jaxlib_version: str = jaxlib.version.__version__

# Their code has addresses of this process in it, or depends on Python that it calls.
_BOUND_HERE = re.compile(rb"python_[a-z]+_callback|CustomSPMDPartitioning")
_KEY = re.compile(r".*-([0-9a-f]{64})", re.DOTALL)


class ProgramFacts(NamedTuple):
    """What decides whether one compiled program can stand for another.

    Attributes:
        program: JAX's digest of the StableHLO module without its source locations, the
            flags and the topology, with the features of the processor.
        jax: Version of JAX, which JAX's digest leaves out.
        jaxlib: Version of jaxlib.
        xla: Version of XLA, and what its backend says of itself.
        platform: Such as ``"cpu"``.
        device_kind: The kinds of the devices the program is for.
        options: Digest of the compile options, with all that JAX's leaves out.
    """

    program: str
    jax: str
    jaxlib: str
    xla: str
    platform: str
    device_kind: str
    options: str


class StoredTask(Protocol):
    """One compilation, as a store sees it."""

    @property
    def uncached_because(self) -> str | None:
        """Why the program must not come from disk, or ``None``."""
        ...

    @property
    def name(self) -> str:
        """Name of the module."""
        ...

    @property
    def platform(self) -> str:
        """The platform of the backend."""
        ...

    @property
    def facts(self) -> ProgramFacts | None:
        """What a program must agree in; ``None`` where JAX can't say."""
        ...

    def load(self, executable: bytes) -> Any:
        """Loads a serialized executable."""

    def serialized(self, executable: Any) -> tuple[bytes, bool]:
        """The bytes of an executable, and whether they were loaded here."""
        ...


class ProgramStore(Protocol):
    """Keeps compiled programs for other processes."""

    def find(self, task: StoredTask, patience_s: float | None) -> Any:
        """The loaded program of a compilation, or ``None``."""

    def keep(self, task: StoredTask, executable: Any, seconds: float) -> None:
        """Keeps a program that took XLA so long. Never raises."""


class _Installed:
    """The store of the process, and whether JAX's cache asks whether there is one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.store: ProgramStore | None = None
        self.routed = False


_installed = _Installed()
_asked = threading.local()


def installed_store() -> ProgramStore | None:
    """The store that this thread is to ask."""
    return None if getattr(_asked, "none", False) else _installed.store


@contextlib.contextmanager
def without_store() -> Iterator[None]:
    """Has this thread compile in the block, whatever the store has."""
    _asked.none = True
    try:
        yield
    finally:
        _asked.none = False


def install_store(store: ProgramStore) -> bool:
    """Has every compilation of the process ask ``store``; False if there is one."""
    with _installed.lock:
        if _installed.store is not None:
            return False
        if not _installed.routed:
            for name in ("is_cache_used", "is_persistent_cache_enabled"):
                original = getattr(compilation_cache, name)
                setattr(compilation_cache, name, _false_if_stored(original))
            _installed.routed = True
        _installed.store = store
        return True


def remove_store(store: ProgramStore) -> None:
    """Undoes :func:`install_store`; harmless if another or none is installed."""
    with _installed.lock:
        if _installed.store is store:
            _installed.store = None


def _false_if_stored(original: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(original)
    def answer(*args: Any, **kwargs: Any) -> bool:
        return _installed.store is None and original(*args, **kwargs)

    return answer


def ask() -> None:
    """Notes that the function this thread obtains a program from has come to us."""
    _asked.yes = True


@contextlib.contextmanager
def nothing_past_the_store() -> Iterator[None]:
    """Fails if the block obtains a program without asking.

    Raises:
        SafeJaxError: ``SJ001``: JAX got a program from elsewhere, such as its cache.
    """
    before = getattr(_asked, "yes", False)
    _asked.yes = False
    try:
        yield
        if not _asked.yes:
            raise SafeJaxError(
                f"safejax does not support JAX {jax.__version__}: a program came past "
                "the compile cache",
                code="SJ001",
                hint="install a JAX release that the documentation lists",
            )
    finally:
        _asked.yes = before


def uncached_because(backend: Any, bytecode: bytes, host_callbacks: Any) -> str | None:
    """Why a program must not come from disk, or ``None``."""
    if host_callbacks or _BOUND_HERE.search(bytecode):
        return "callback"
    if jax.process_count() > 1 or backend.process_index() != 0:
        return "processes"
    return None


def facts_of(
    backend: Any, module: Any, devices: Any, options: Any
) -> ProgramFacts | None:
    """What a program for this compilation must agree in.

    ``None`` where JAX can't make a key, as it can't where XLA has no fingerprint.
    """
    chosen = list(devices)
    array = np.empty(len(chosen), dtype=object)
    array[:] = chosen
    try:
        key = compilation_cache.get_cache_key(module, array, options, backend)
    except _jax.JaxRuntimeError:
        return None
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    return ProgramFacts(
        program=found[1],
        jax=jax.__version__,
        jaxlib=jaxlib_version,
        xla=f"{jaxlib_extension_version} {backend.platform_version}"[:200],
        platform=str(backend.platform),
        device_kind=",".join(sorted({str(d.device_kind) for d in chosen}))[:200],
        options=hashlib.sha256(options.SerializeAsString()).hexdigest(),
    )
