"""``compile_cache``: the cache that users open, one for the process."""

from __future__ import annotations

import functools
import os
from types import TracebackType
from typing import Self, get_args

from typing_extensions import override

from safejax import _jax
from safejax._files import remove_leftovers
from safejax.cache._entry import PURPOSE
from safejax.cache._place import open_place
from safejax.cache._store import Settings, Store, Verification
from safejax.cache._tally import CacheStats
from safejax.compile._process import process
from safejax.compile._service import service
from safejax.compile._trial import try_to_load
from safejax.keys import KeyRing
from safejax.limits import check_count, check_seconds

_open: dict[str, Store] = {}


class CompileCache:
    """An open compile cache; :func:`compile_cache` makes it.

    It is a context manager, which closes it at the end of the block. Usually it stays
    open as long as the process lives.

    Example:
        >>> import tempfile, safejax
        >>> folder, ring = tempfile.mkdtemp(), safejax.KeyRing.generate()
        >>> cache = safejax.compile_cache(folder, key=ring)
        >>> cache.stats().entries
        0
        >>> cache.close()
    """

    def __init__(self, *, store: Store) -> None:
        self._store = store

    @property
    def directory(self) -> str:
        """Its folder, with the links above it resolved."""
        return str(self._store.place.path)

    def stats(self) -> CacheStats:
        """What it has done for this process, and what the folder holds.

        Raises:
            OSError: The folder can't be listed.
        """
        tally, found = self._store.tally, list(self._store.place.entries())
        return CacheStats(
            hits=tally.counts["hits"],
            misses=tally.counts["misses"],
            stores=tally.counts["stores"],
            evicted=tally.counts["evicted"],
            rejects=dict(tally.rejects),
            skipped=dict(tally.skipped),
            seconds_saved=tally.seconds_saved,
            entries=len(found),
            bytes=sum(entry.size for entry in found),
            pinned=sum(entry.pinned for entry in found),
        )

    def pin(self) -> int:
        """Keeps all entries that this process has used from being removed for room.

        Call it once everything is warm. ``safejax cache prune --unpin`` undoes it.

        Returns:
            How many entries were pinned.
        """
        return sum(self._store.place.pin(key) for key in list(self._store.used))

    def close(self) -> None:
        """Ends it: compilations no longer look here. Idempotent.

        Programs that were loaded stay. JAX's own cache, if it is configured, is used
        again.
        """
        _jax.remove_store(self._store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @override
    def __repr__(self) -> str:
        return f"CompileCache({self.directory!r})"


def compile_cache(
    directory: str | os.PathLike[str],
    *,
    key: KeyRing,
    max_bytes: int = 1 << 30,
    verification: Verification = "on",
    max_age_s: float | None = None,
) -> CompileCache:
    """Keeps compiled programs in a folder, and loads none that was not signed.

    It serves every compilation of the process from now on, those of plain ``jax.jit``
    too, and takes the place of JAX's own persistent cache, which is neither read nor
    written while it is open.

    Args:
        directory: The folder; made, with mode 0700, if it is not there. Nobody else
            may be able to write to it, or to replace it.
        key: Signs and verifies the entries. A ring that only verifies makes a cache
            that is only read.
        max_bytes: How much the folder may hold. Entries that were used longest ago
            are removed for new ones, except pinned ones.
        verification: What an entry that does not verify does. ``"on"``: it is set
            aside, and the program is compiled. ``"strict"``: the call fails.
        max_age_s: How old an entry may be, in seconds; ``None``: any age.

    Returns:
        The open cache.

    Raises:
        SafeJaxError: ``SJ001``: JAX has changed.
        SigningKeyError: A key that is fetched is none.
        StorageError: The folder is a link, another user's, or others can write there.
        TypeError: ``key`` is no :class:`KeyRing`, or a number is none.
        ValueError: A number is too small, ``verification`` is another word, or a
            cache is open already.

    Calls that compile raise ``SignatureError`` where an entry does not verify and
    ``verification`` is ``"strict"``.

    Example:
        >>> import tempfile, jax, safejax
        >>> folder, ring = tempfile.mkdtemp(), safejax.KeyRing.generate()
        >>> with safejax.compile_cache(folder, key=ring) as cache:
        ...     y = jax.jit(lambda x: 3 * x + 1)(2.0)
        ...     cache.stats().stores > 0
        True
    """
    if not isinstance(key, KeyRing):
        raise TypeError(
            f"compile_cache(key=...) takes a KeyRing, got {type(key).__name__}"
        )
    check_count("compile_cache", "max_bytes", max_bytes, least=1)
    if verification not in get_args(Verification):
        raise ValueError('compile_cache(verification=...) must be "on" or "strict"')
    if max_age_s is not None:
        check_seconds("compile_cache", "max_age_s", max_age_s)
    _jax.check()
    _fetch(key)
    place = open_place(directory, create=True)
    remove_leftovers(place.path)
    settings = Settings(max_bytes, verification == "strict", max_age_s)
    try_elsewhere = functools.partial(try_to_load, service.submit)
    store = Store(place, key, settings, try_elsewhere)
    _jax.install_compile_hook(process.forget)
    if not _jax.install_store(store):
        raise ValueError("compile_cache(): one is open already; close() it first")
    _open["store"] = store
    return CompileCache(store=store)


def misses() -> int:
    """How many programs were not in the cache that was opened last."""
    store = _open.get("store")
    return 0 if store is None else store.tally.counts["misses"]


def _fetch(ring: KeyRing) -> None:
    """Has every key fetched now: a key service that fails must not fail a compilation.

    Raises:
        SigningKeyError: One of them is no key.
    """
    for name in ring.ids:
        key = ring.find(name)
        if key is not None:
            key.mac(PURPOSE, ())


def _forget_threads() -> None:
    for store in _open.values():
        store.tally.forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)

CompileCache.__module__ = compile_cache.__module__ = "safejax"
