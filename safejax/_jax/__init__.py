"""The only package that touches what JAX does not promise.

Everything here is checked once, on first use, against the JAX that is installed
(:func:`check`), so that a JAX release which changes one of these breaks with one clear
sentence instead of quietly switching a limit off. Importing it changes nothing in JAX;
the compile hook is installed by the first ``safe_jit``.
"""

from safejax._jax._checks import check as check
from safejax._jax._dispatch import GENERATED as GENERATED
from safejax._jax._dispatch import ArrayImpl as ArrayImpl
from safejax._jax._dispatch import Signature as Signature
from safejax._jax._dispatch import Tracer as Tracer
from safejax._jax._dispatch import add_methods as add_methods
from safejax._jax._dispatch import array_aval as array_aval
from safejax._jax._dispatch import at_top_level as at_top_level
from safejax._jax._dispatch import cache_miss as cache_miss
from safejax._jax._dispatch import dispatch_cache as dispatch_cache
from safejax._jax._dispatch import explicit_constraints as explicit_constraints
from safejax._jax._dispatch import jitted as jitted
from safejax._jax._dispatch import module_name as module_name
from safejax._jax._dispatch import signature as signature
from safejax._jax._dispatch import static_arguments as static_arguments
from safejax._jax._dispatch import trace as trace
from safejax._jax._dispatch import tracing_forbidden as tracing_forbidden
from safejax._jax._dispatch import with_cache_miss as with_cache_miss
from safejax._jax._dispatch import without_own_frames as without_own_frames
from safejax._jax._dispatch import x64_enabled as x64_enabled
from safejax._jax._programs import CompileOwner as CompileOwner
from safejax._jax._programs import CompileTask as CompileTask
from safejax._jax._programs import Program as Program
from safejax._jax._programs import compiling_for as compiling_for
from safejax._jax._programs import install_compile_hook as install_compile_hook
from safejax._jax._programs import jaxlib_version as jaxlib_version
from safejax._jax._programs import live_program_ids as live_program_ids
from safejax._jax._programs import owned_traced as owned_traced
from safejax._jax._programs import program_bytes as program_bytes
