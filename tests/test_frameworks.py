"""Flax NNX, Flax Linen, Equinox and Optax train the same with safe_jit, bit for bit.

The same script runs in two processes: with ``jax.jit``, and with ``jax.jit`` replaced
by ``safejax.safe_jit`` before any framework is imported, so that the frameworks' own
wrappers (``nnx.jit``, ``linen.jit``, ``eqx.filter_jit``) are built on it as well.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("flax")
pytest.importorskip("equinox")
pytest.importorskip("optax")

STEPS = 6

SCRIPT = """
import json, sys
import jax

REPLACED = sys.argv[1] == "safe_jit"
STEPS = int(sys.argv[2])
if REPLACED:
    import safejax
    jax.jit = safejax.safe_jit

import equinox as eqx
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training import train_state

rng = np.random.default_rng(0)
X = rng.normal(size=(16, 4)).astype(np.float32)
Y = (X @ rng.normal(size=(4, 1)).astype(np.float32))


def squared(prediction, y):
    return ((prediction - y) ** 2).mean()


def run(step, state):
    losses = []
    for _ in range(STEPS):
        state, loss = step(state, X, Y)
        losses.append(float(loss).hex())
    return losses


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(8)(x)))


class ScannedDense(nn.Module):
    @nn.compact
    def __call__(self, x):
        block = nn.jit(nn.remat(nn.Dense))(4)
        return nn.jit(nn.Dense)(1)(nn.tanh(block(x)))


def linen(module):
    model = module()
    state = train_state.TrainState.create(
        apply_fn=model.apply,
        params=jax.jit(model.init)(jax.random.key(0), X),
        tx=optax.adamw(1e-2),
    )

    @jax.jit
    def step(state, x, y):
        loss, grads = jax.value_and_grad(
            lambda p: squared(state.apply_fn(p, x), y)
        )(state.params)
        return state.apply_gradients(grads=grads), loss

    return run(step, state)


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def nnx_own_jit():
    model = NnxModel(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        loss, grads = nnx.value_and_grad(lambda m: squared(m(x), y))(model)
        optimizer.update(model, grads)
        return loss

    def stateful(state, x, y):
        return state, step(*state, x, y)

    return run(stateful, (model, optimizer))


def nnx_functional():
    model = NnxModel(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(1e-2, momentum=0.9), wrt=nnx.Param)
    graph, state = nnx.split((model, optimizer))

    def step(state, x, y):
        model, optimizer = nnx.merge(graph, state)
        loss, grads = nnx.value_and_grad(lambda m: squared(m(x), y))(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    return run(jax.jit(step, donate_argnums=0), state)


def equinox(jit):
    model = eqx.nn.MLP(4, 1, 8, 2, key=jax.random.key(0))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    arrays, static = eqx.partition(model, eqx.is_array)

    @jit
    def step(state, x, y):
        params, opt_state = state

        @eqx.filter_value_and_grad
        def loss(params):
            return squared(jax.vmap(eqx.combine(params, static))(x), y)

        value, grads = loss(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (eqx.apply_updates(params, updates), opt_state), value

    return run(step, (arrays, optimizer.init(arrays)))


def optax_lbfgs():
    params = jnp.zeros((4, 1))
    optimizer = optax.lbfgs()

    @jax.jit
    def step(state, x, y):
        params, opt_state = state
        loss = lambda p: squared(x @ p, y)
        value, grads = optax.value_and_grad_from_state(loss)(params, state=opt_state)
        updates, opt_state = optimizer.update(
            grads, opt_state, params, value=value, grad=grads, value_fn=loss
        )
        return (optax.apply_updates(params, updates), opt_state), value

    return run(step, (params, optimizer.init(params)))


def optax_accumulated():
    params = {"w": jnp.zeros((4, 1)), "b": jnp.zeros(1)}
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 20)
    optimizer = optax.MultiSteps(optax.lion(schedule), every_k_schedule=2)

    @jax.jit
    def step(state, x, y):
        params, opt_state = state
        value, grads = jax.value_and_grad(
            lambda p: squared(x @ p["w"] + p["b"], y)
        )(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return run(step, (params, optimizer.init(params)))


print(json.dumps({
    "linen": linen(Dense),
    "linen with its own jit and remat": linen(ScannedDense),
    "nnx with its own jit": nnx_own_jit(),
    "nnx, functional, donated": nnx_functional(),
    "equinox": equinox(jax.jit),
    "equinox with filter_jit": equinox(eqx.filter_jit),
    "optax lbfgs": optax_lbfgs(),
    "optax accumulated": optax_accumulated(),
    "replaced": [type(jax.jit(len)).__name__, hasattr(jax.jit(len), "stats")],
}))
"""

CASES = [
    "linen",
    "linen with its own jit and remat",
    "nnx with its own jit",
    "nnx, functional, donated",
    "equinox",
    "equinox with filter_jit",
    "optax lbfgs",
    "optax accumulated",
]


@pytest.fixture(scope="module")
def losses():
    """The losses of every case, as hexadecimal floats, by the jit that was used."""
    found = {}
    for jit in ("jax.jit", "safe_jit"):
        finished = subprocess.run(
            [sys.executable, "-c", SCRIPT, jit, str(STEPS)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr[-2000:]
        found[jit] = json.loads(finished.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES)
def test_losses_fall_and_are_those_under_jax_jit_bit_for_bit(losses, case):
    ours, theirs = losses["safe_jit"][case], losses["jax.jit"][case]

    assert ours == theirs
    assert float.fromhex(ours[-1]) < float.fromhex(ours[0])
    assert len(ours) == STEPS


def test_jax_jit_was_really_replaced_in_one_of_the_two(losses):
    assert losses["jax.jit"]["replaced"] == ["PjitFunction", False]
    assert losses["safe_jit"]["replaced"] == ["PjitFunction", True]
