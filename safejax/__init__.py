"""``jax.jit`` for arrays, shapes and programs that were not all made by you."""

from safejax._version import __version__ as __version__
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
from safejax.errors import SafeJaxError as SafeJaxError
from safejax.errors import Violation as Violation
from safejax.errors import WorkerError as WorkerError
from safejax.jit._precompile import Precompiled as Precompiled
from safejax.jit._precompile import precompile as precompile
from safejax.jit._safe_jit import SafeJitFunction as SafeJitFunction
from safejax.jit._safe_jit import safe_jit as jit
from safejax.jit._safe_jit import safe_jit as safe_jit
from safejax.jit._stats import Stats as Stats
from safejax.limits import CompileRate as CompileRate
from safejax.limits import Limits as Limits
from safejax.limits import ProcessLimits as ProcessLimits

__all__ = [
    "CompileLimitError",
    "CompileMemoryError",
    "CompilePendingError",
    "CompileRate",
    "CompileTimeoutError",
    "ContractError",
    "Event",
    "Limits",
    "Precompiled",
    "ProcessLimits",
    "ProcessStats",
    "SafeJaxError",
    "SafeJitFunction",
    "Spec",
    "Stats",
    "Violation",
    "WorkerError",
    "__version__",
    "compile_status",
    "current_tenant",
    "freeze",
    "jit",
    "on_event",
    "precompile",
    "process_stats",
    "safe_jit",
    "set_compile_workers",
    "set_process_limits",
    "spec",
    "tenant",
    "unsafe_unfreeze",
]
