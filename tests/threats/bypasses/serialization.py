"""T13: programs and objects turned into bytes, and bytes into those."""

# A lambda around a function is another function, and a frame of the attacker's:
# ruff: noqa: PLW0108

from __future__ import annotations

import copyreg
import io
import marshal
import pickle
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.experimental import serialize_executable
from threats.bypasses._kit import F32, Trial, answering, bypass
from threats.bypasses.aliases import reading

RAN: list[str] = []


def ran() -> str:
    """What a loaded pickle calls."""
    RAN.append("ran")
    return "ran"


class Calls:
    """An object whose pickle calls `ran`."""

    def __reduce__(self) -> Any:
        return ran, ()


def watched(trial: Trial) -> None:
    """Looks afterwards at whether `ran` was called."""
    RAN.clear()
    trial.afterwards(lambda: list(RAN))


@bypass("T13", "guard")
def export(trial: Trial) -> Callable[..., Any]:
    """`jax.export.export(f)(spec).serialize()`: the program leaves as bytes."""
    f = jax.jit(jnp.sin)
    return reading(trial, lambda: jax.export.export(f)(F32).serialize())


@bypass("T13", "guard")
def export_made_before(trial: Trial) -> Callable[..., Any]:
    """`exporter = jax.export.export(f)` before the scope, `exporter(spec)` in it."""
    exporter = jax.export.export(jax.jit(jnp.sin))
    return reading(trial, lambda: exporter(F32).mlir_module())


@bypass("T13", "guard")
def exported_made_before(trial: Trial) -> Callable[..., Any]:
    """`.serialize()` of an `Exported` object that was made before."""
    exported = jax.export.export(jax.jit(jnp.sin))(F32)
    return reading(trial, exported.serialize)


@bypass("T13", "guard")
def deserialized_program(trial: Trial) -> Callable[..., Any]:
    """`jax.export.deserialize(bytes).call(x)`: a program that came as bytes becomes
    part of the model."""
    blob = jax.export.export(jax.jit(jnp.sin))(F32).serialize()

    def model(x: Any) -> Any:
        exported = jax.export.deserialize(blob)
        trial.saw("deserialized")
        return exported.call(x)

    return model


@bypass("T14", "guard and review")
def exported_program_called(trial: Trial) -> Callable[..., Any]:
    """A program deserialized before the scope: only its call is in it. A program
    that nobody traced here hides in one primitive."""
    exported = jax.export.deserialize(
        jax.export.export(jax.jit(jnp.sin))(F32).serialize()
    )

    trial.through = answering(trial, float(np.sin(np.float32(1))))
    return lambda x: exported.call(x)


@bypass("T13", "guard")
def executable_serialized(trial: Trial) -> Callable[..., Any]:
    """`serialize_executable.serialize` of a program that was compiled before."""
    compiled = jax.jit(jnp.sin).lower(1.0).compile()
    return reading(trial, lambda: serialize_executable.serialize(compiled)[0])


@bypass("T13", "guard")
def executable_loaded(trial: Trial) -> Callable[..., Any]:
    """`serialize_executable.deserialize_and_load`: machine code from bytes."""
    devices = jax.devices()[:1]
    compiled = jax.jit(jnp.sin).lower(1.0).compile()
    parts = serialize_executable.serialize(compiled)
    return reading(
        trial,
        lambda: serialize_executable.deserialize_and_load(
            *parts, execution_devices=devices
        ),
    )


@bypass("T13", "guard")
def pickle_loads(trial: Trial) -> Callable[..., Any]:
    """`pickle.loads` of bytes that name a function."""
    watched(trial)
    blob = pickle.dumps(Calls())
    return reading(trial, lambda: pickle.loads(blob))


@bypass("T13", "guard")
def unpickler_in_python(trial: Trial) -> Callable[..., Any]:
    """`pickle._loads`: the unpickler written in Python."""
    watched(trial)
    blob = pickle.dumps(Calls())
    return reading(trial, lambda: pickle._loads(blob))


@bypass(
    "T13",
    "not defended",
    reason="Such an unpickler calls what its own `find_class` returns, which the model "
    "could call without it.",
)
def own_unpickler(trial: Trial) -> Callable[..., Any]:
    """A subclass of `pickle.Unpickler` with a `find_class` of its own."""
    watched(trial)
    blob = pickle.dumps(Calls())

    class Own(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return ran

    return reading(trial, lambda: Own(io.BytesIO(blob)).load())


@bypass("T13", "guard")
def copy_registry(trial: Trial) -> Callable[..., Any]:
    """`copyreg.pickle`: a class without `__reduce__` is given one."""
    watched(trial)

    class Plain:
        pass

    copyreg.pickle(Plain, lambda _: (ran, ()))  # type: ignore[arg-type]
    trial.undo(copyreg.dispatch_table.pop, Plain)
    blob = pickle.dumps(Plain())
    return reading(trial, lambda: pickle.loads(blob))


@bypass("T13", "guard")
def numpy_load(trial: Trial) -> Callable[..., Any]:
    """`np.load(buffer, allow_pickle=True)`: no file is opened."""
    watched(trial)
    buffer = io.BytesIO()
    np.save(buffer, np.array([Calls()], object), allow_pickle=True)
    blob = buffer.getvalue()
    return reading(trial, lambda: np.load(io.BytesIO(blob), allow_pickle=True))


@bypass("T13", "guard")
def jax_numpy_load(trial: Trial) -> Callable[..., Any]:
    """`jnp.load(buffer)`: an array that was not an argument becomes a constant."""
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2, np.float32))
    blob = buffer.getvalue()
    return reading(trial, lambda: jnp.load(io.BytesIO(blob)))


@bypass("T13", "guard")
def marshalled_code(trial: Trial) -> Callable[..., Any]:
    """`marshal.loads` makes a code object of bytes."""
    blob = marshal.dumps(compile("'ran'", "<before>", "eval"))

    def act() -> Any:
        return types.FunctionType(marshal.loads(blob), {})()

    return reading(trial, act)


@bypass(
    "T13",
    "not defended",
    reason="`pickle.loads` is written in C; Python's audit event comes only when a "
    "pickle names a class or function. One that names none can't call anything.",
)
def pickle_of_plain_data(trial: Trial) -> Callable[..., Any]:
    """`pickle.loads` of numbers and lists only."""
    blob = pickle.dumps([1, 2])
    return reading(trial, lambda: pickle.loads(blob))
