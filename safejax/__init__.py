"""``jax.jit`` for arrays, shapes and programs that were not all made by you."""

from safejax._version import __version__ as __version__
from safejax.compile._process import ProcessStats as ProcessStats
from safejax.compile._process import process_stats as process_stats
from safejax.compile._process import set_process_limits as set_process_limits
from safejax.contract._spec import Spec as Spec
from safejax.contract._spec import spec as spec
from safejax.errors import CompileLimitError as CompileLimitError
from safejax.errors import ContractError as ContractError
from safejax.errors import SafeJaxError as SafeJaxError
from safejax.errors import Violation as Violation
from safejax.jit._safe_jit import SafeJitFunction as SafeJitFunction
from safejax.jit._safe_jit import safe_jit as jit
from safejax.jit._safe_jit import safe_jit as safe_jit
from safejax.jit._stats import Stats as Stats
from safejax.limits import Limits as Limits
from safejax.limits import ProcessLimits as ProcessLimits

__all__ = [
    "CompileLimitError",
    "ContractError",
    "Limits",
    "ProcessLimits",
    "ProcessStats",
    "SafeJaxError",
    "SafeJitFunction",
    "Spec",
    "Stats",
    "Violation",
    "__version__",
    "jit",
    "process_stats",
    "safe_jit",
    "set_process_limits",
    "spec",
]
