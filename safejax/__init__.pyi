"""``jax.jit`` for arrays, shapes and programs that were not all made by you."""

from safejax._file_errors import FormatError as FormatError
from safejax._file_errors import RollbackError as RollbackError
from safejax._file_errors import SignatureError as SignatureError
from safejax._file_errors import SigningKeyError as SigningKeyError
from safejax._file_errors import StorageError as StorageError
from safejax._version import __version__ as __version__
from safejax.buckets._sizes import powers_of_two as powers_of_two
from safejax.cache._cache import CompileCache as CompileCache
from safejax.cache._cache import compile_cache as compile_cache
from safejax.cache._tally import CacheStats as CacheStats
from safejax.checkpoint._directory import latest as latest
from safejax.checkpoint._load import signed_load as signed_load
from safejax.checkpoint._pending import PendingSave as PendingSave
from safejax.checkpoint._save import signed_save as signed_save
from safejax.checkpoint._save import signed_save_async as signed_save_async
from safejax.compile._events import Event as Event
from safejax.compile._events import on_event as on_event
from safejax.compile._process import ProcessStats as ProcessStats
from safejax.compile._process import freeze as freeze
from safejax.compile._process import process_stats as process_stats
from safejax.compile._process import set_process_limits as set_process_limits
from safejax.compile._process import unsafe_unfreeze as unsafe_unfreeze
from safejax.compile._service import compile_status as compile_status
from safejax.compile._service import set_compile_workers as set_compile_workers
from safejax.compile._tenant import current_tenant as current_tenant
from safejax.compile._tenant import tenant as tenant
from safejax.contract._spec import Spec as Spec
from safejax.contract._spec import spec as spec
from safejax.errors import CompileLimitError as CompileLimitError
from safejax.errors import CompileMemoryError as CompileMemoryError
from safejax.errors import CompilePendingError as CompilePendingError
from safejax.errors import CompileTimeoutError as CompileTimeoutError
from safejax.errors import ContractError as ContractError
from safejax.errors import GuardError as GuardError
from safejax.errors import ProgramRejectedError as ProgramRejectedError
from safejax.errors import SafeJaxError as SafeJaxError
from safejax.errors import Violation as Violation
from safejax.errors import WorkerError as WorkerError
from safejax.export._load import signed_import as signed_import
from safejax.export._save import signed_export as signed_export
from safejax.guard._policy import Policy as Policy
from safejax.guard._scope import guard as guard
from safejax.jit._function import SafeJitFunction as SafeJitFunction
from safejax.jit._precompile import Precompiled as Precompiled
from safejax.jit._precompile import precompile as precompile
from safejax.jit._safe_jit import safe_jit as jit
from safejax.jit._safe_jit import safe_jit as safe_jit
from safejax.jit._stats import Stats as Stats
from safejax.keys import Key as Key
from safejax.keys import KeyRing as KeyRing
from safejax.limits import CompileRate as CompileRate
from safejax.limits import Limits as Limits
from safejax.limits import LoadLimits as LoadLimits
from safejax.limits import ProcessLimits as ProcessLimits
from safejax.review._records import ProgramReport as ProgramReport
from safejax.signing._data import signed_dump as signed_dump

__all__ = [
    "CacheStats",
    "CompileCache",
    "CompileLimitError",
    "CompileMemoryError",
    "CompilePendingError",
    "CompileRate",
    "CompileTimeoutError",
    "ContractError",
    "Event",
    "FormatError",
    "GuardError",
    "Key",
    "KeyRing",
    "Limits",
    "LoadLimits",
    "PendingSave",
    "Policy",
    "Precompiled",
    "ProcessLimits",
    "ProcessStats",
    "ProgramRejectedError",
    "ProgramReport",
    "RollbackError",
    "SafeJaxError",
    "SafeJitFunction",
    "SignatureError",
    "SigningKeyError",
    "Spec",
    "Stats",
    "StorageError",
    "Violation",
    "WorkerError",
    "__version__",
    "compile_cache",
    "compile_status",
    "current_tenant",
    "freeze",
    "guard",
    "jit",
    "latest",
    "on_event",
    "powers_of_two",
    "precompile",
    "process_stats",
    "safe_jit",
    "set_compile_workers",
    "set_process_limits",
    "signed_dump",
    "signed_export",
    "signed_import",
    "signed_load",
    "signed_save",
    "signed_save_async",
    "spec",
    "tenant",
    "unsafe_unfreeze",
]
