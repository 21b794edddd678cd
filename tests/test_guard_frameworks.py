"""What people do with JAX every day raises no false alarm."""

from __future__ import annotations

import importlib

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.optimize
import jax.scipy.signal
import jax.scipy.sparse.linalg
import jax.scipy.stats
import numpy as np
import pytest
from jax.experimental import checkify, ode, sparse
from jax.sharding import PartitionSpec

from safejax import Policy
from safejax.guard import _scope
from safejax.guard._scope import guard

eqx = pytest.importorskip("equinox")
nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

X = jnp.ones((16, 4))
Y = jnp.ones((16, 1))


@pytest.fixture(autouse=True)
def judged():
    seen = []
    _scope.observers.append(seen.append)
    yield seen
    _scope.observers.remove(seen.append)


def squared(prediction):
    return ((prediction - Y) ** 2).mean()


# --- training steps under Policy.serving() ----------------------------------------


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def train_nnx():
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda m: squared(m(X)))(model)
        optimizer.update(model, gradients)
        return loss

    step(model, optimizer)
    return step(model, optimizer)


def nnx_transforms():
    attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))
    nnx.jit(attention)(X[None])
    nnx.eval_shape(lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    nnx.remat(nnx.vmap(lambda x: x))(jnp.ones(3))
    return nnx.merge(*nnx.split(attention))


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(8)(x)))


def train_linen():
    model = Dense()
    parameters = model.init(jax.random.key(0), X)
    rule = optax.adamw(1e-3)

    @jax.jit
    def step(parameters, state):
        gradients = jax.grad(lambda p: squared(model.apply(p, X)))(parameters)
        updates, state = rule.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    return step(parameters, rule.init(parameters))


def train_equinox():
    model = eqx.nn.MLP(4, 1, 8, 2, key=jax.random.key(0))
    rule = optax.sgd(1e-2)

    @eqx.filter_jit
    def step(model, state):
        loss = eqx.filter_value_and_grad(lambda m: squared(jax.vmap(m)(X)))
        gradients = loss(model)[1]
        updates, state = rule.update(gradients, state)
        return eqx.apply_updates(model, updates), state

    return step(model, rule.init(eqx.filter(model, eqx.is_array)))


def equinox_layers():
    attention = eqx.nn.MultiheadAttention(2, 4, key=jax.random.key(0))
    eqx.filter_jit(attention)(X, X, X)
    eqx.filter_checkpoint(jnp.sin)(X)
    return eqx.filter_jit(jax.vmap(eqx.nn.LayerNorm(4)))(X)


def optax_rules():
    parameters = {"w": X}
    for rule in (
        optax.adafactor(),
        optax.lamb(1e-3),
        optax.lion(1e-3),
        optax.MultiSteps(optax.sgd(1.0), 2),
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adam(optax.cosine_decay_schedule(1.0, 10)),
        ),
    ):
        jax.jit(rule.update)(parameters, rule.init(parameters), parameters)


STEPS = [
    train_nnx,
    nnx_transforms,
    train_linen,
    train_equinox,
    equinox_layers,
    optax_rules,
]


@pytest.mark.parametrize("step", STEPS)
def test_frameworks_run_under_the_serving_policy(step, judged):
    with guard(Policy.serving()):
        step()

    assert judged == []


@pytest.mark.parametrize("step", STEPS)
def test_frameworks_run_under_the_strict_policy_when_trusted(step):
    trusted = ("flax", "equinox", "optax")
    with guard(Policy.strict().replace(trusted_modules=trusted)):
        step()


# --- JAX itself under Policy.strict() ---------------------------------------------

V = jnp.arange(1.0, 5.0)
M = jnp.eye(4) * 2
KEY = jax.random.key(0)


def sharded():
    mesh = jax.make_mesh((1,), ("i",))
    spec = PartitionSpec("i")
    placed = jax.device_put(V, jax.sharding.NamedSharding(mesh, spec))
    mapped = jax.shard_map(
        lambda x: jax.lax.psum(x, "i"),
        mesh=mesh,
        in_specs=spec,
        out_specs=PartitionSpec(),
    )
    return jax.jit(mapped)(placed)


def custom_rules():
    @jax.custom_vjp
    def f(x):
        return x

    f.defvjp(lambda x: (x, None), lambda _, g: (g,))

    @jax.custom_jvp
    def g(x):
        return x

    g.defjvp(lambda p, t: (p[0], t[0]))
    h = jax.custom_gradient(lambda x: (x, lambda t: t))
    return jax.grad(lambda x: f(x) + g(x) + h(x))(1.0)


EVERYDAY = {
    "grad of grad": lambda: jax.grad(jax.grad(jnp.sin))(1.0),
    "jacobians": lambda: (jax.jacfwd(jnp.sin)(V), jax.jacrev(jnp.sin)(V)),
    "hessian": lambda: jax.hessian(lambda x: (x**3).sum())(V),
    "linearize": lambda: jax.linearize(jnp.sin, V)[1](V),
    "vjp, jvp": lambda: (jax.vjp(jnp.sin, V)[1](V), jax.jvp(jnp.sin, (V,), (V,))),
    "transpose": lambda: jax.linear_transpose(lambda x: 2 * x, V)(V),
    "vmap of jit of grad": lambda: jax.vmap(jax.jit(jax.grad(jnp.sin)))(V),
    "checkpoint": lambda: jax.grad(jax.checkpoint(lambda x: jnp.sin(x).sum()))(V),
    "policies of checkpoint": lambda: jax.checkpoint(
        jnp.sin, policy=jax.checkpoint_policies.dots_saveable
    )(V),
    "scan": lambda: jax.lax.scan(lambda c, x: (c + x, c), 0.0, V),
    "grad of scan": lambda: jax.grad(
        lambda x: jax.lax.scan(lambda c, v: (c * v, c), x, V)[0]
    )(1.0),
    "while": lambda: jax.lax.while_loop(lambda c: c < 3, lambda c: c + 1, 0),
    "fori": lambda: jax.lax.fori_loop(0, 3, lambda i, c: c + i, 0),
    "cond": lambda: jax.lax.cond(V[0] > 0, lambda: 1, lambda: 2),
    "switch": lambda: jax.lax.switch(1, [lambda: 1, lambda: 2]),
    "map": lambda: jax.lax.map(jnp.sin, V),
    "associative scan": lambda: jax.lax.associative_scan(jnp.add, V),
    "reduce": lambda: jax.lax.reduce(V, 0.0, jax.lax.add, (0,)),
    "windows": lambda: jax.lax.reduce_window(V, 0.0, jax.lax.add, (2,), (1,), "VALID"),
    "top k": lambda: (jax.lax.top_k(V, 2), jax.lax.approx_max_k(V, 2)),
    "custom solve": lambda: jax.lax.custom_linear_solve(
        lambda v: 2 * v, V, lambda _, b: b / 2
    ),
    "custom root": lambda: jax.lax.custom_root(
        lambda x: x - 1, 0.0, lambda _, x: x + 1, lambda g, y: y / g(1.0)
    ),
    "custom rules": custom_rules,
    "decompositions": lambda: (
        jnp.linalg.eigh(M),
        jnp.linalg.qr(M),
        jnp.linalg.svd(M),
        jnp.linalg.eig(M),
        jax.scipy.linalg.expm(M),
        jax.scipy.linalg.cho_factor(M),
    ),
    "solvers": lambda: (
        jnp.linalg.solve(M, V),
        jnp.linalg.inv(M),
        jnp.linalg.pinv(M),
        jax.scipy.sparse.linalg.cg(lambda v: v, V),
        jax.scipy.sparse.linalg.gmres(lambda v: v, V),
    ),
    "fft": lambda: jnp.fft.irfft(jnp.fft.rfft(V)),
    "einsum": lambda: jnp.einsum("ij,jk,kl->il", M, M, M),
    "numpy functions": lambda: (
        jnp.sort(V),
        jnp.unique(V, size=2),
        jnp.convolve(V, V),
        jnp.histogram(V),
        jnp.interp(V, V, V),
        jnp.polyfit(V, V, 1),
        jnp.vectorize(jnp.sin)(V),
        jnp.apply_along_axis(jnp.sum, 0, V),
        jnp.piecewise(V, [V > 0], [1.0, 2.0]),
        V.at[0].set(1.0),
    ),
    "nn": lambda: (
        jax.nn.gelu(V),
        jax.nn.softmax(V),
        jax.nn.one_hot(1, 3),
        jax.nn.logsumexp(V),
        jax.grad(lambda x: jax.nn.relu(x).sum() + jax.nn.silu(x).sum())(V),
    ),
    "attention": lambda: jax.nn.dot_product_attention(*3 * [jnp.ones((1, 4, 2, 4))]),
    "random": lambda: (
        jax.random.categorical(KEY, V),
        jax.random.gamma(KEY, 1.0, (3,)),
        jax.random.permutation(KEY, 4),
        jax.random.choice(KEY, 4, (2,)),
        jax.random.multivariate_normal(KEY, V, M),
        jax.random.truncated_normal(KEY, 0.0, 1.0),
        jax.random.poisson(KEY, 1.0),
        jax.random.split(KEY),
    ),
    "scipy": lambda: (
        jax.scipy.special.gammaln(V),
        jax.scipy.stats.norm.pdf(V),
        jax.scipy.signal.convolve(V, V),
        jax.scipy.optimize.minimize(lambda x: (x**2).sum(), V, method="BFGS"),
    ),
    "image": lambda: jax.image.resize(M, (8, 8), "bilinear"),
    "trees": lambda: (
        jax.tree.map(jnp.sin, {"a": V}),
        jax.tree_util.tree_flatten_with_path({"a": 1}),
        jax.flatten_util.ravel_pytree({"a": V}),
    ),
    "placement": lambda: (jax.device_put(V), jax.device_get(V), np.asarray(V)),
    "names": lambda: jax.named_call(jnp.sin)(V),
    "shard_map": sharded,
    "donation": lambda: jax.jit(lambda x: x, donate_argnums=0)(jnp.ones(2)),
    "checkify": lambda: checkify.checkify(jnp.log)(V),
    "sparse": lambda: sparse.BCOO.fromdense(M) @ V,
    "odeint": lambda: ode.odeint(lambda y, _: -y, 1.0, jnp.arange(2.0)),
    "printing": lambda: (str(V), repr(V), str(jax.typeof(V)), float(V[0])),
    "lazy modules": lambda: importlib.import_module("jax.experimental.jet"),
}


@pytest.mark.parametrize("use", EVERYDAY)
def test_everyday_jax_runs_under_the_strict_policy(use: str, judged):
    with guard():
        EVERYDAY[use]()

    assert judged == []


@pytest.mark.parametrize("use", ["nn", "einsum", "custom rules"])
def test_everyday_jax_is_traced_under_the_strict_policy(use: str, judged):
    with guard():
        jax.jit(lambda _: EVERYDAY[use]())(0)

    assert judged == []
