"""The only package that touches what JAX does not promise.

Everything here is checked once, on first use, against the JAX that is installed
(:func:`check`), so that a JAX release which changes one of these breaks with one clear
sentence instead of quietly switching a limit off. Importing it changes nothing in JAX;
the compile hook is installed by the first ``safe_jit``.
"""

from safejax._jax._budget import Overspent as Overspent
from safejax._jax._budget import TraceBudget as TraceBudget
from safejax._jax._budget import tracing_within as tracing_within
from safejax._jax._caching import ProgramFacts as ProgramFacts
from safejax._jax._caching import ProgramStore as ProgramStore
from safejax._jax._caching import StoredTask as StoredTask
from safejax._jax._caching import install_store as install_store
from safejax._jax._caching import installed_store as installed_store
from safejax._jax._caching import jaxlib_version as jaxlib_version
from safejax._jax._caching import remove_store as remove_store
from safejax._jax._checks import check as check
from safejax._jax._dispatch import BEHIND_CONTRACT as BEHIND_CONTRACT
from safejax._jax._dispatch import GENERATED as GENERATED
from safejax._jax._dispatch import PACKAGE as PACKAGE
from safejax._jax._dispatch import ArrayImpl as ArrayImpl
from safejax._jax._dispatch import Signature as Signature
from safejax._jax._dispatch import Tracer as Tracer
from safejax._jax._dispatch import add_methods as add_methods
from safejax._jax._dispatch import array_aval as array_aval
from safejax._jax._dispatch import at_top_level as at_top_level
from safejax._jax._dispatch import cache_miss as cache_miss
from safejax._jax._dispatch import dispatch_cache as dispatch_cache
from safejax._jax._dispatch import eval_shape as eval_shape
from safejax._jax._dispatch import explicit_constraints as explicit_constraints
from safejax._jax._dispatch import function_name as function_name
from safejax._jax._dispatch import jit_disabled as jit_disabled
from safejax._jax._dispatch import jitted as jitted
from safejax._jax._dispatch import module_name as module_name
from safejax._jax._dispatch import signature as signature
from safejax._jax._dispatch import static_arguments as static_arguments
from safejax._jax._dispatch import trace as trace
from safejax._jax._dispatch import tracing_forbidden as tracing_forbidden
from safejax._jax._dispatch import with_cache_miss as with_cache_miss
from safejax._jax._dispatch import without_own_frames as without_own_frames
from safejax._jax._dispatch import x64_enabled as x64_enabled
from safejax._jax._distributed import Meeting as Meeting
from safejax._jax._guarding import JAX_DIRECTORIES as JAX_DIRECTORIES
from safejax._jax._guarding import install_scope_key as install_scope_key
from safejax._jax._guarding import set_scope_key as set_scope_key
from safejax._jax._guarding import without_inner_frames as without_inner_frames
from safejax._jax._inspect import OPAQUE as OPAQUE
from safejax._jax._inspect import PROGRAMS as PROGRAMS
from safejax._jax._inspect import Literal as Literal
from safejax._jax._inspect import Primitive as Primitive
from safejax._jax._inspect import argument_names as argument_names
from safejax._jax._inspect import array_in as array_in
from safejax._jax._inspect import attributes_of as attributes_of
from safejax._jax._inspect import custom_calls_of as custom_calls_of
from safejax._jax._inspect import donated_of as donated_of
from safejax._jax._inspect import has_foreign_keys as has_foreign_keys
from safejax._jax._inspect import is_of_gradient as is_of_gradient
from safejax._jax._inspect import is_own_class as is_own_class
from safejax._jax._inspect import is_own_primitive as is_own_primitive
from safejax._jax._inspect import is_reference as is_reference
from safejax._jax._inspect import metadata_of as metadata_of
from safejax._jax._inspect import out_shardings_of as out_shardings_of
from safejax._jax._inspect import program_of as program_of
from safejax._jax._inspect import shardings_of as shardings_of
from safejax._jax._inspect import source_of as source_of
from safejax._jax._programs import CompileOwner as CompileOwner
from safejax._jax._programs import Needs as Needs
from safejax._jax._programs import Program as Program
from safejax._jax._programs import backends as backends
from safejax._jax._programs import compile_nothing as compile_nothing
from safejax._jax._programs import compiling_for as compiling_for
from safejax._jax._programs import install_compile_hook as install_compile_hook
from safejax._jax._programs import live_program_ids as live_program_ids
from safejax._jax._programs import owned_traced as owned_traced
from safejax._jax._programs import program_bytes as program_bytes
from safejax._jax._settings import profiler_listens as profiler_listens
from safejax._jax._settings import settings as settings
from safejax._jax._task import CompileTask as CompileTask
from safejax._jax._transfer import all_from_host as all_from_host
from safejax._jax._transfer import explicit_transfers as explicit_transfers
from safejax._jax._transfer import from_host as from_host
