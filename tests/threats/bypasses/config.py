"""T18: settings of JAX, and options that write files where they are told."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.profiler
import numpy as np
from jax._src import config as private_config
from jax.experimental.compilation_cache import compilation_cache
from threats.bypasses._kit import F32, Trial, bypass
from threats.bypasses.bound import evaluating

Model = Callable[[Any], Any]
OPTION = "jax_numpy_rank_promotion"


def restored(trial: Trial, name: str = OPTION) -> None:
    """The setting as it was, when the trial is over."""
    trial.undo(jax.config.update, name, jax.config.values[name])


@bypass("T18", "guard")
def config_update(trial: Trial) -> Model:
    """`jax.config.update`, for the whole process."""
    restored(trial)
    trial.afterwards(lambda: jax.config.jax_numpy_rank_promotion == "raise")

    def model(x: Any) -> Any:
        jax.config.update(OPTION, "raise")
        return x

    return model


@bypass("T18", "guard")
def value_holder(trial: Trial) -> Model:
    """`jax.config._value_holders[name]._set(value)`: what `update` itself calls."""
    restored(trial)
    trial.afterwards(lambda: jax.config.jax_numpy_rank_promotion == "raise")

    def model(x: Any) -> Any:
        jax.config._value_holders[OPTION]._set("raise")
        return x

    return model


@bypass(
    "T18",
    "not defended",
    reason="The settings that JAX keeps in C++ have setters without a code object, "
    "and without an audit event.",
)
def setter_in_c(trial: Trial) -> Model:
    """`set_global` of the C++ object behind a setting."""
    restored(trial)
    trial.afterwards(lambda: jax.config.jax_numpy_rank_promotion == "raise")

    def model(x: Any) -> Any:
        private_config.numpy_rank_promotion.set_global("raise")
        return x

    return model


@bypass("T18", "guard")
def disable_jit(trial: Trial) -> Model:
    """`jax.disable_jit()`: loops inside run as Python, step by step."""
    steps: list[Any] = []
    trial.afterwards(lambda: len(steps) > 2)

    def model(x: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            steps.append(carry)
            return carry, None

        with jax.disable_jit():
            return jax.lax.scan(body, x, None, length=5)[0]

    return model


@bypass("T18", "guard")
def enable_x64(trial: Trial) -> Model:
    """`jax.enable_x64()`: a program with other types than everywhere else."""

    def model(x: Any) -> Any:
        with jax.enable_x64(True):
            wide = jnp.arange(2, dtype="float64").dtype
            trial.saw(str(wide) if wide == np.float64 else "")
        return x

    return model


@bypass("T18", "guard")
def debug_nans(trial: Trial) -> Model:
    """`jax.debug_nans()` decides how programs are run."""

    def model(x: Any) -> Any:
        with jax.debug_nans(True):
            trial.saw(jax.config.jax_debug_nans)
        return x

    return model


@bypass("T18", "guard")
def transfer_guard_relaxed(trial: Trial) -> Model:
    """`jax.transfer_guard("allow")` lifts a guard that somebody else set."""
    guard = jax.transfer_guard_device_to_host("disallow")
    trial.cleanup.enter_context(guard)

    def model(x: Any) -> Any:
        with jax.transfer_guard("allow"):
            trial.saw(jax.config.jax_transfer_guard_device_to_host == "allow")
        return x

    return model


@bypass("T18", "guard")
def setting_taken_before(trial: Trial) -> Model:
    """A context manager of a setting, made before the scope and entered in it."""
    manager = jax.debug_infs(True)

    def model(x: Any) -> Any:
        with manager:
            trial.saw(jax.config.jax_debug_infs)
        return x

    return model


@bypass("T18", "guard")
def trace_of_the_profiler(trial: Trial) -> Model:
    """`jax.profiler.start_trace(folder)` writes files and records all threads."""

    def model(x: Any) -> Any:
        jax.profiler.start_trace(str(trial.folder))
        jax.profiler.stop_trace()
        return x

    return model


@bypass("T18", "guard")
def profiler_server(trial: Trial) -> Model:
    """`jax.profiler.start_server(port)` opens a port, from C++."""

    def model(x: Any) -> Any:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        jax.profiler.start_server(port)
        trial.undo(jax.profiler.stop_server)
        with socket.create_connection(("localhost", port)):
            trial.saw(f"port {port}")
        return x

    return model


@bypass("T18", "guard")
def memory_profile(trial: Trial) -> Model:
    """`jax.profiler.save_device_memory_profile(file)`."""

    def model(x: Any) -> Any:
        jax.profiler.save_device_memory_profile(str(trial.folder / "memory"))
        return x

    return model


@bypass("T18", "guard")
def compiler_options_of_a_lowered_program(trial: Trial) -> Model:
    """`lowered.compile(compiler_options={"xla_dump_to": folder})`."""
    lowered = jax.jit(lambda v: v + 1).lower(F32)

    def model(x: Any) -> Any:
        lowered.compile(compiler_options={"xla_dump_to": str(trial.folder)})
        return x

    return model


@bypass("T18", "guard")
def compiler_options_of_an_inner_function(trial: Trial) -> Model:
    """`jax.jit(f, compiler_options={"xla_dump_to": folder})` run during the trace,
    under `jax.ensure_compile_time_eval`."""

    def model(x: Any) -> Any:
        options = {"xla_dump_to": str(trial.folder)}
        with jax.ensure_compile_time_eval():
            jax.jit(lambda v: v + 1, compiler_options=options)(np.float32(1))
        return x

    return model


@bypass("T18", "guard")
def compiler_options_with_two_faces(trial: Trial) -> Model:
    """The same with a mapping that shows others when it is looked at a second time,
    where tracing was suspended by a C++ object."""
    folder = str(trial.folder)

    class Sly(dict[str, Any]):
        def __iter__(self) -> Any:
            return iter(())

    def model(x: Any) -> Any:
        options = Sly(xla_dump_to=folder)
        with evaluating():
            jax.jit(lambda v: v + 1, compiler_options=options)(np.float32(1))
        return x

    return model


@bypass("T18", "guard")
def jitted_with_options_before(trial: Trial) -> Model:
    """The same with a function that was jitted before the scope."""
    options = {"xla_dump_to": str(trial.folder)}
    jitted = jax.jit(lambda v: v + 1, compiler_options=options)

    def model(x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            jitted(np.float32(1))
        return x

    return model


@bypass("T18", "guard")
def dump_of_modules(trial: Trial) -> Model:
    """The setting `jax_dump_ir_to`: every program lowered from now on is a file."""
    restored(trial, "jax_dump_ir_to")

    def model(x: Any) -> Any:
        jax.config.update("jax_dump_ir_to", str(trial.folder))
        return x + 1

    return model


@bypass("T18", "guard")
def compilation_cache_folder(trial: Trial) -> Model:
    """`compilation_cache.set_cache_dir`: programs of all functions are written to,
    and loaded from, a folder of the attacker's choice."""
    restored(trial, "jax_compilation_cache_dir")
    trial.undo(compilation_cache.reset_cache)
    folder = str(trial.folder)
    trial.afterwards(lambda: jax.config.jax_compilation_cache_dir == folder)

    def model(x: Any) -> Any:
        compilation_cache.set_cache_dir(folder)
        return x

    return model


@bypass("T18", "guard")
def flags_of_xla(trial: Trial) -> Model:
    """`os.environ["XLA_FLAGS"]`: read by each process that is started later."""
    before = os.environ.get("XLA_FLAGS", "")
    trial.undo(os.environ.__setitem__, "XLA_FLAGS", before)
    trial.afterwards(lambda: "xla_dump_to" in os.environ["XLA_FLAGS"])

    def model(x: Any) -> Any:
        os.environ["XLA_FLAGS"] = f"{before} --xla_dump_to={trial.folder}"
        return x

    return model


@bypass("T18", "guard")
def clear_caches(trial: Trial) -> Model:
    """`jax.clear_caches()`: every function of the process compiles anew."""
    other = jax.jit(lambda v: v - 1)
    other(np.float32(1))
    trial.afterwards(lambda: other._cache_size() == 0)

    def model(x: Any) -> Any:
        jax.clear_caches()
        return x

    return model


@bypass(
    "T18",
    "not defended",
    reason="Settings of Python that are neither JAX's nor have an audit event. They "
    "read and write nothing outside the process.",
)
def settings_of_python(trial: Trial) -> Model:
    """`gc.disable()`, `os.umask`, `sys.setswitchinterval`, `np.seterr` and the like."""
    assert gc.isenabled()
    trial.undo(gc.enable)
    trial.afterwards(lambda: not gc.isenabled())

    def model(x: Any) -> Any:
        gc.disable()
        return x

    return model
