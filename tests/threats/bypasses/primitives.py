"""T14: foreign code in the program: primitives, lowerings, kernels, FFI."""

# A lambda around a function is another function, and a frame of the attacker's:
# ruff: noqa: PLW0108

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.experimental.pallas as pl
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jax._src.interpreters import mlir
from jax.experimental import hijax
from jax.experimental.custom_partitioning import custom_partitioning
from jaxlib.mlir import ir
from threats.bypasses._kit import F32, Trial, answering, bypass
from threats.bypasses._programs import (
    Model,
    calling,
    equation_of,
    in_scan,
    nested,
)

COUNTER = itertools.count()
LEGACY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
# JAX 0.12 has a new name for it.
HIGHER = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive
# What XLA may call as long as the process lives must live as long.
KEPT: list[Any] = []


def lowering_of(f: Model) -> Callable[..., Any]:
    """A lowering rule that puts this function in the place of a primitive."""
    return mlir.lower_fun(lambda x, **_: f(x), multiple_results=False)


def primitive(name: str, f: Model, *, kind: Any = jex.core.Primitive) -> Any:
    """A new primitive that becomes this function when it is lowered."""
    made = kind(name)
    made.def_abstract_eval(lambda aval, **_: aval)
    mlir.register_lowering(made, lowering_of(f))
    return made


def foreign_target(trial: Trial) -> str:
    """Registers a C function with XLA. Returns the name of the target."""

    @LEGACY
    def kernel(out: Any, operands: Any) -> None:
        trial.saw("foreign function called")
        ctypes.memmove(out, operands[0], 4)

    KEPT.append(kernel)
    name = f"threats_target_{next(COUNTER)}"
    jax.ffi.register_ffi_target(
        name, jax.ffi.pycapsule(kernel), platform="cpu", api_version=0
    )
    return name


def foreign_call(name: str) -> Model:
    """A call of a target with XLA's old calling convention."""
    return jax.ffi.ffi_call(name, F32, custom_call_api_version=1)


@bypass("T14", "guard and review")
def new_primitive(trial: Trial) -> Model:
    """A primitive made in the scope, with a lowering that calls back."""

    def model(x: Any) -> Any:
        return primitive("threats_new", calling(trial)).bind(x)

    return model


@bypass("T14", "review")
def primitive_made_before(trial: Trial) -> Model:
    """The same, made before the scope: only `bind` is in it."""
    made = primitive("threats_before", calling(trial))
    return lambda x: made.bind(x)


@bypass("T14", "review")
def primitive_made_before_at_depth_5(trial: Trial) -> Model:
    """A primitive made before the scope, bound inside five programs."""
    made = primitive("threats_deep", calling(trial))
    return nested(lambda x: made.bind(x), 5)


@bypass("T14", "review")
def primitive_with_a_known_name(trial: Trial) -> Model:
    """A primitive named `sin`: an allow-list of names admits it."""
    made = primitive("sin", calling(trial))
    return lambda x: made.bind(x)


@bypass("T14", "review")
def primitive_that_equals_another(trial: Trial) -> Model:
    """A primitive with the hash of `sin` that says it equals it: an allow-list of
    objects admits it."""

    class Sly(jex.core.Primitive):  # type: ignore[misc]
        def __eq__(self, other: object) -> bool:
            return self is other or other is jax.lax.sin_p

        def __hash__(self) -> int:
            return hash(jax.lax.sin_p)

    made = Sly("sin")
    made.def_abstract_eval(lambda aval: aval)
    known = mlir._lowerings.pop(jax.lax.sin_p)
    trial.undo(mlir._lowerings.__setitem__, jax.lax.sin_p, known)
    mlir.register_lowering(made, lowering_of(calling(trial)))
    trial.undo(lambda: mlir._lowerings.pop(made, None))
    return lambda x: made.bind(x)


@bypass("T14", "guard and review")
def lowering_registered_anew(trial: Trial) -> Model:
    """`register_lowering(sin_p, rule)` while tracing: `jnp.sin` now calls back."""
    known = mlir._lowerings[jax.lax.sin_p]
    trial.undo(mlir._lowerings.__setitem__, jax.lax.sin_p, known)

    def model(x: Any) -> Any:
        mlir.register_lowering(jax.lax.sin_p, lowering_of(calling(trial)))
        return jnp.sin(x)

    return model


@bypass("T14", "review")
def lowering_table_written(trial: Trial) -> Model:
    """JAX's table of lowerings is a dictionary; writing to it is no call."""
    known = mlir._lowerings[jax.lax.sin_p]
    trial.undo(mlir._lowerings.__setitem__, jax.lax.sin_p, known)
    sly = type(known)(lowering_of(calling(trial)), known.inline)

    def model(x: Any) -> Any:
        mlir._lowerings[jax.lax.sin_p] = sly
        return jnp.sin(x)

    return model


@bypass("T14", "guard and review")
def foreign_call_plainly(trial: Trial) -> Model:
    """`jax.ffi.ffi_call` of a target that was registered before."""
    name = foreign_target(trial)
    return lambda x: foreign_call(name)(x)


@bypass("T14", "review")
def foreign_call_made_before(trial: Trial) -> Model:
    """`call = jax.ffi.ffi_call(name, spec)` before the scope, `call(x)` in it."""
    return in_scan(foreign_call(foreign_target(trial)))


@bypass("T14", "guard and review")
def target_registered_while_tracing(trial: Trial) -> Model:
    """`jax.ffi.register_ffi_target` in the scope."""

    def model(x: Any) -> Any:
        return foreign_call(foreign_target(trial))(x)

    return model


@bypass("T14", "review")
def foreign_call_in_a_lowering(trial: Trial) -> Model:
    """The rule of a known primitive, changed before the scope, emits a custom call:
    the traced program is innocent."""
    known = mlir._lowerings[jax.lax.tan_p]
    trial.undo(mlir._lowerings.__setitem__, jax.lax.tan_p, known)
    call = foreign_call(foreign_target(trial))
    mlir.register_lowering(jax.lax.tan_p, lowering_of(call))
    return lambda x: jnp.tan(x)


@bypass("T14", "review")
def module_text_in_a_lowering(trial: Trial) -> Model:
    """The same with a custom call written by hand as an operation of the module."""
    known = mlir._lowerings[jax.lax.tan_p]
    trial.undo(mlir._lowerings.__setitem__, jax.lax.tan_p, known)
    name = foreign_target(trial)

    def rule(ctx: Any, x: Any, **_: Any) -> Any:
        i32 = ir.IntegerType.get_signless(32)
        made = ir.Operation.create(
            "stablehlo.custom_call",
            results=[x.type],
            operands=[x],
            attributes={
                "call_target_name": ir.StringAttr.get(name),
                "api_version": ir.IntegerAttr.get(i32, 1),
            },
        )
        return [made.result]

    mlir.register_lowering(jax.lax.tan_p, rule)
    return lambda x: jnp.tan(x)


@bypass("T14", "guard and review")
def partitioning_rule(trial: Trial) -> Model:
    """`custom_partitioning`: XLA calls Python while it partitions the program."""

    def model(x: Any) -> Any:
        @custom_partitioning
        def f(v: Any) -> Any:
            return jax.pure_callback(trial.report, F32, v)

        f.def_partition(
            partition=lambda mesh, args, out: (mesh, f, out.sharding, (out.sharding,)),
            infer_sharding_from_operands=lambda mesh, args, out: args[0].sharding,
            sharding_rule="->",
        )
        return f(x)

    return model


@bypass("T14", "guard and review")
def pallas_kernel(trial: Trial) -> Model:
    """`pallas_call`: on devices a kernel addresses memory as it likes."""
    trial.through = answering(trial, 2)

    def kernel(x: Any, out: Any) -> None:
        out[...] = x[...] + 1

    return lambda x: pl.pallas_call(kernel, out_shape=F32, interpret=True)(x)


@bypass("T14", "review")
def pallas_kernel_made_before(trial: Trial) -> Model:
    """`call = pallas_call(kernel)` before the scope; the scope only calls it."""
    trial.through = answering(trial, 2)

    def kernel(x: Any, out: Any) -> None:
        out[...] = x[...] + 1

    call = pl.pallas_call(kernel, out_shape=F32, interpret=True)
    return lambda x: call(x)


def random_numbers(bits: Callable[..., Any]) -> Model:
    """A model that takes a random number of a generator with these bits."""
    keep = lambda key, *_: key
    implementation = jex.random.define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jnp.zeros(2, np.uint32),
        split=keep,
        random_bits=bits,
        fold_in=keep,
        name=f"threats_{next(COUNTER)}",
    )
    key = jax.random.key(0, impl=implementation)
    return lambda x: x + jax.random.uniform(key)


@bypass("T14", "review")
def random_bits_of_ones_own(trial: Trial) -> Model:
    """A random number generator of the attacker's own. JAX asks it for its program
    when it lowers: the traced program has only the known primitive `random_bits`."""

    def bits(key: Any, width: int, shape: Any) -> Any:
        spec = jax.ShapeDtypeStruct(shape, np.uint32)

        def answer(_: Any) -> Any:
            trial.saw("called back")
            return np.zeros(shape, np.uint32)

        return jax.pure_callback(answer, spec, key)

    return random_numbers(bits)


@bypass("T19", "review")
def generator_asked_while_lowering(trial: Trial) -> Model:
    """The same generator reads a program when JAX asks it: the trace, and the scope
    with it, may have ended."""

    def bits(key: Any, width: int, shape: Any) -> Any:
        trial.saw(str(jax.make_jaxpr(lambda v: v + 1)(1.0)))
        return jnp.zeros(shape, np.uint32)

    return random_numbers(bits)


@bypass("T14", "review")
def program_with_two_faces(trial: Trial) -> Model:
    """A list of equations that shows the reviewer harmless ones and JAX others."""
    inner = jax.jit(calling(trial))
    call = equation_of(inner)
    program = call.params["jaxpr"].jaxpr
    empty: list[Any] = []

    class Sly(list[Any]):
        def __iter__(self) -> Any:
            asks = sys._getframe(1).f_globals.get("__name__", "")
            return iter(empty if asks.startswith("safejax") else list(self[:]))

    program._eqns = Sly(program.eqns)
    return lambda x: call.primitive.bind(x, **call.params)[0]


@bypass("T14", "guard and review")
def type_with_a_program_inside(trial: Trial) -> Model:
    """A primitive of `jax.experimental.hijax`: JAX asks it for its program when it
    lowers."""

    class Sly(HIGHER):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            self.in_avals = (jax.typeof(jnp.float32(1)),)
            self.out_aval = jax.typeof(jnp.float32(1))
            self.params = {}
            super().__init__()

        def expand(self, x: Any) -> Any:
            return calling(trial)(x)

    return lambda x: Sly()(x)
