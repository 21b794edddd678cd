"""Never run, only type-checked: the public signatures are a tested product.

A line that must be refused carries an ignore with its error code; `warn_unused_ignores`
makes an ignore that is not needed an error.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, assert_type

import jax
import jax.numpy as jnp

import safejax


# Both decorator forms keep the signature.
@safejax.safe_jit
def bare(x: jax.Array, times: int = 2) -> jax.Array:
    return x * times


@safejax.safe_jit(limits=safejax.Limits(max_compiles=8), static_argnames="times")
def with_options(x: jax.Array, times: int = 2) -> tuple[jax.Array, int]:
    return x * times, times


@safejax.jit(contract={"x": safejax.spec("f32[3]")})
def with_contract(x: jax.Array) -> dict[str, jax.Array]:
    return {"y": x}


x = jnp.ones(3)
assert_type(bare(x), jax.Array)
assert_type(bare(x, 3), jax.Array)
assert_type(bare(x, times=3), jax.Array)
assert_type(with_options(x, times=3), tuple[jax.Array, int])
assert_type(with_contract(x), dict[str, jax.Array])
assert_type(safejax.safe_jit(bare.__wrapped__)(x), jax.Array)

bare("x")  # type: ignore[arg-type]
bare(x, 1, 2)  # type: ignore[call-arg]
bare(x, tims=2)  # type: ignore[call-arg]
with_options()  # type: ignore[call-arg]
with_contract(x, x)  # type: ignore[call-arg]

# Options.
safejax.Limits(8)  # type: ignore[call-arg]
safejax.Limits(max_compiles=8, on_limit="evict")
safejax.Limits(on_limit="wait")  # type: ignore[arg-type]
safejax.spec("f32[b, 64]", minimum=0.0, maximum=1.0, finite=True, on_violation="clip")
safejax.spec(one_of=("train", "eval"))
safejax.spec("f32[b]", on_violation="drop")  # type: ignore[call-overload, unused-ignore, arg-type]
safejax.safe_jit(bare, contract={"x": safejax.spec("f32[b]")}, dims={"b": (1, 64)})
safejax.safe_jit(bare, contract=({"x": None}, None), on_dtype="cast")
safejax.safe_jit(bare, contract="annotations", donate_argnums=0)


# What a jitted object offers beside a call.
def use(state: jax.Array) -> None:
    assert_type(bare.stats(), safejax.Stats)
    assert_type(safejax.process_stats(), safejax.ProcessStats)
    assert_type(bare.stats().live, int)
    bare.clear_cache()
    bare.lower(state).compile()
    bare.eval_shape(state)
    bare.trace(state)


# Methods and partial objects.
class Model:
    @functools.partial(safejax.safe_jit, static_argnums=0)
    def apply(self, x: jax.Array) -> jax.Array:
        return x

    @safejax.safe_jit
    def bound(self, x: jax.Array) -> jax.Array:
        return x


assert_type(Model().bound(x), jax.Array)


def handle(request: dict[str, Any]) -> str:
    try:
        bare(request["x"])
    except safejax.ContractError as refused:
        assert_type(refused.violations, tuple[safejax.Violation, ...])
        return refused.violations[0].path
    except safejax.CompileLimitError as refused:
        assert_type(refused.retry_after_s, float | None)
        assert_type(refused.code, str)
        assert_type(refused.hint, str)
        assert_type(refused.details, dict[str, Any])
    except safejax.SafeJaxError:
        pass
    return ""


# Checkpoints.
ring = safejax.KeyRing.from_env("SAFEJAX_KEY", digest="blake3")
assert_type(ring, safejax.KeyRing)
assert_type(safejax.signed_save("model.ckpt", {"w": x}, key=ring, step=3), None)
saving = safejax.signed_save_async("model.ckpt", {"w": x}, key=ring, keep=3)
assert_type(saving, safejax.PendingSave)
assert_type(saving.result(timeout_s=1.0), None)
assert_type(safejax.latest("checkpoints", key=ring), Path)
assert_type(safejax.signed_load("model.ckpt", key=ring, select="w/**"), Any)
