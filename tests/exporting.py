"""Exported programs as nobody's compiler writes them, and files signed around them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import flatbuffers
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax._src.export import serialization_generated as generated
from jax._src.interpreters import mlir
from jax._src.lib import _jax
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import hlo

import safejax
from safejax._file_errors import FormatError
from safejax.export._facts import facts_of
from safejax.export._flat import read_program
from safejax.signing._blob import seal
from safejax.signing._canonical import encode
from safejax.signing._origin import new_origin

RING = safejax.KeyRing.generate(id="tests")
F32 = jnp.float32
TERMS = {"trees": {}, "constraints": [], "on_dtype": "error"}
X = jax.ShapeDtypeStruct((4,), F32)


def exported(fun: Any = lambda x: x + 1, *specs: Any, **options: Any) -> Any:
    return export.export(jax.jit(fun), **options)(*(specs or (X,)))


def artifact(text: str) -> bytes:
    """The StableHLO text as JAX writes modules."""
    version = hlo.get_version_from_compatibility_requirement(
        hlo.StablehloCompatibilityRequirement.WEEK_4
    )
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        return _jax.mlir.serialize_portable_artifact(module, version, True)


def bytecode(text: str) -> bytes:
    """The text as MLIR writes it, with whatever dialects are in it."""
    with mlir.make_ir_context():
        return bytes(mlir.module_to_bytecode(ir.Module.parse(text)))


def with_module(one: Any, module: bytes) -> bytes:
    """The bytes of an exported program, around another module."""
    changed = dataclasses.replace(one, mlir_module_serialized=module)
    return bytes(changed.serialize())


def main_of(body: str, kind: str = "tensor<4xf32>") -> str:
    """A module whose main function takes an array and gives one."""
    return (
        f"module @m {{ func.func public @main(%x: {kind}) -> ({kind}) {{ {body} }} }}"
    )


def hostile(text: str) -> bytes:
    """A program of one array in and out, whose module is this text."""
    return with_module(exported(), artifact(text))


def forged(path: Path, payload: bytes, *, fallback: Any = None, **changes: Any) -> Path:
    """A file that a key holder has signed, whatever is in it, consistent in itself."""
    try:
        facts = facts_of(read_program(payload))
    except FormatError:
        facts = fallback or facts_of(read_program(bytes(exported().serialize())))
    description = {
        **facts.as_data(),
        "parameters": [f"arg{i}" for i in range(facts.positional)] + facts.named,
        "contract": TERMS,
        "jax": jax.__version__,
        "jaxlib": "",
        **changes,
    }
    fields = new_origin("", None, "", {}).fields()
    fields["program"] = encode(description).decode()
    path.write_bytes(seal(payload, purpose="program", ring=RING, fields=fields))
    return path


def load(path: Path, **options: Any) -> Any:
    return safejax.signed_import(path, key=RING, **options)


def mutated(data: bytes, seed: int) -> bytes:
    """The bytes with a few changes, of one of five kinds."""
    rng = random.Random(seed)
    found = bytearray(data)
    kind = rng.randrange(5)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(found))
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del found[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            found[at:at] = rng.randbytes(rng.randrange(1, 5))
        else:
            start, length = rng.randrange(len(found)), rng.randrange(1, 32)
            found[at : at + length] = found[start : start + length]
    return bytes(found)


def tree_bomb(doublings: int) -> bytes:
    """A program of a few kilobytes whose argument is a tree of 2**doublings nodes."""
    builder = flatbuffers.Builder(1024)
    text = builder.CreateString("f")
    platform = builder.CreateString("cpu")
    node = tree(builder, [], 1)
    for _ in range(doublings):
        node = tree(builder, [node, node], 2)
    empty = tree(builder, [], 4)
    in_tree = tree(builder, [node, empty], 2)
    leaf = tree(builder, [], 1)
    kept = builder.CreateNumpyVector(np.array([], np.uint16))
    # Not one that JAX traced: it would hold the names of all callers' files.
    module = builder.CreateByteVector(artifact(main_of("return %x : tensor<4xf32>")))
    generated.ExportedStartPlatformsVector(builder, 1)
    builder.PrependUOffsetTRelative(platform)
    platforms = builder.EndVector()
    generated.ExportedStart(builder)
    generated.ExportedAddFunctionName(builder, text)
    generated.ExportedAddInTree(builder, in_tree)
    generated.ExportedAddOutTree(builder, leaf)
    generated.ExportedAddModuleKeptVarIdx(builder, kept)
    generated.ExportedAddPlatforms(builder, platforms)
    generated.ExportedAddMlirModuleSerialized(builder, module)
    generated.ExportedAddCallingConventionVersion(builder, 10)
    builder.Finish(generated.ExportedEnd(builder))
    return bytes(builder.Output())


def tree(builder: Any, children: list[Any], kind: int) -> Any:
    generated.PyTreeDefStartChildrenVector(builder, len(children))
    for child in reversed(children):
        builder.PrependUOffsetTRelative(child)
    vector = builder.EndVector()
    generated.PyTreeDefStart(builder)
    generated.PyTreeDefAddKind(builder, kind)
    generated.PyTreeDefAddChildren(builder, vector)
    return generated.PyTreeDefEnd(builder)
