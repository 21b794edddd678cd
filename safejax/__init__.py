"""``jax.jit`` for arrays, shapes and programs that were not all made by you."""

from __future__ import annotations

import importlib
import sys
import types

from typing_extensions import override as _override

from safejax._version import __version__ as __version__

# Where each public name comes from; `__init__.pyi` says the same to type checkers.
_NAMES = {
    "_file_errors": (
        "FormatError RollbackError SignatureError SigningKeyError StorageError"
    ),
    "buckets._sizes": "powers_of_two",
    "cache._cache": "CompileCache compile_cache",
    "cache._tally": "CacheStats",
    "checkpoint._directory": "latest",
    "checkpoint._load": "signed_load",
    "checkpoint._pending": "PendingSave",
    "checkpoint._save": "signed_save signed_save_async",
    "compile._events": "Event on_event",
    "compile._process": (
        "ProcessStats freeze process_stats set_process_limits unsafe_unfreeze"
    ),
    "compile._service": "compile_status set_compile_workers",
    "compile._tenant": "current_tenant tenant",
    "contract._spec": "Spec spec",
    "errors": (
        "CompileLimitError CompileMemoryError CompilePendingError "
        "CompileTimeoutError ContractError GuardError "
        "ProgramRejectedError SafeJaxError Violation WorkerError"
    ),
    "export._load": "signed_import",
    "export._save": "signed_export",
    "guard._policy": "Policy",
    "guard._scope": "guard",
    "jit._function": "SafeJitFunction",
    "jit._precompile": "Precompiled precompile",
    "jit._safe_jit": "safe_jit",
    "jit._stats": "Stats",
    "keys": "Key KeyRing",
    "limits": "CompileRate Limits LoadLimits ProcessLimits",
    "review._records": "ProgramReport",
    "signing._data": "signed_dump",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
_HOMES["jit"] = "jit._safe_jit"
_OTHER_NAMES = {"jit": "safe_jit"}
_MODULES = ("errors", "keys", "limits", "signing")

__all__ = sorted([*_HOMES, "__version__"])  # noqa: PLE0605  the stub lists them


class _Package(types.ModuleType):
    """This package: what it exports is loaded when it is first asked for.

    Nobody pays for checkpoints who only compiles, and signatures can be checked in a
    process that never imports JAX.
    """

    def __getattr__(self, name: str) -> object:
        home = _HOMES.get(name)
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if home is None:
            text = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(text, name=name, obj=self)
        if name == "guard":
            # In its scope files may not be read, not even ours.
            importlib.import_module(f"{__name__}.jit._safe_jit")
        module = importlib.import_module(f"{__name__}.{home}")
        value = getattr(module, _OTHER_NAMES.get(name, name))
        setattr(self, name, value)
        return value

    @_override
    def __setattr__(self, name: str, value: object) -> None:
        # Python hangs the folders `jit` and `guard` on their package when they are
        # loaded; these names are functions.
        if name not in _HOMES or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)

    @_override
    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *__all__})


sys.modules[__name__].__class__ = _Package
