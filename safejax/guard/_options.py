"""Rows that depend on the arguments of the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Options of XLA that decide how a program computes, and nothing else. Others write
# files (xla_dump_to), load files or run tools.
COMPILER_OPTIONS = frozenset(
    {
        "exec_time_optimization_effort",
        "memory_fitting_effort",
        "optimization_level",
        "memory_fitting_level",
        "xla_allow_excess_precision",
        "xla_backend_optimization_level",
        "xla_cpu_enable_fast_math",
        "xla_cpu_enable_fast_min_max",
        "xla_cpu_fast_math_honor_division",
        "xla_cpu_fast_math_honor_functions",
        "xla_cpu_fast_math_honor_infs",
        "xla_cpu_fast_math_honor_nans",
        "xla_cpu_use_thunk_runtime",
        "xla_embed_ir_in_executable",
        "xla_gpu_autotune_level",
        "xla_gpu_deterministic_ops",
        "xla_gpu_enable_fast_min_max",
        "xla_gpu_enable_latency_hiding_scheduler",
        "xla_gpu_enable_triton_gemm",
        "xla_gpu_exclude_nondeterministic_ops",
        "xla_llvm_disable_expensive_passes",
        "xla_tpu_enable_latency_hiding_scheduler",
    }
)


def _has_other_options(arguments: Mapping[str, Any]) -> bool:
    options = arguments.get("compiler_options")
    if options is None:
        nested = arguments.get("kwargs")
        options = nested.get("compiler_options") if isinstance(nested, dict) else None
    if options is None:
        return False
    # Others could show other keys when they are looked at again.
    if type(options) is not dict:
        return True
    return not all(type(key) is str and key in COMPILER_OPTIONS for key in options)


def _unpickles(arguments: Mapping[str, Any]) -> bool:
    return arguments.get("allow_pickle", False) is not False


# Ways of computing that a library sets around its own operations.
_HARMLESS_SETTINGS = frozenset(
    {
        "jax_default_matmul_precision",
        "jax_numpy_dtype_promotion",
        "jax_numpy_rank_promotion",
    }
)


def _is_setting_of_the_process(arguments: Mapping[str, Any]) -> bool:
    state = getattr(arguments.get("self"), "state", None)
    return getattr(state, "_name", None) not in _HARMLESS_SETTINGS


CONDITIONS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "jax.jit(compiler_options)": _has_other_options,
    "jax.stages.Lowered.compile(compiler_options)": _has_other_options,
    "jax.config.State": _is_setting_of_the_process,
    "numpy.load": _unpickles,
    "numpy.lib.format.read_array": _unpickles,
}
