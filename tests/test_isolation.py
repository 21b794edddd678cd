"""Where programs are compiled, and that it makes no difference to their results."""

from __future__ import annotations

import logging
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import (
    PATIENT,
    SQUARE,
    WAIT_S,
    busy,
    endless,
    events,
    outcome,
    pids,
    python,
    slow,
    unrolled,
    until,
)
from jax.sharding import NamedSharding, PartitionSpec

import safejax
from safejax import (
    CompileLimitError,
    CompileTimeoutError,
    Limits,
    WorkerError,
    safe_jit,
)

M = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
V = M[0]
IMAGE = np.random.default_rng(1).normal(size=(1, 8, 8, 2)).astype(np.float32)
KERNEL = np.random.default_rng(2).normal(size=(3, 3, 2, 4)).astype(np.float32)


def symmetric(x):
    return x @ x.T + 6 * jnp.eye(6)


def conv(x, k, strides=(1, 1)):
    words = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, k, strides, "SAME", dimension_numbers=words)


def scan(step, x):
    return jax.lax.scan(step, x, jnp.arange(5.0))


LINALG = {
    "dot": lambda x: x @ x,
    "solve": lambda x: jnp.linalg.solve(symmetric(x), x),
    "inv": lambda x: jnp.linalg.inv(symmetric(x)),
    "cholesky": lambda x: jnp.linalg.cholesky(symmetric(x)),
    "qr": jnp.linalg.qr,
    "svd": lambda x: jnp.linalg.svd(x, compute_uv=True),
    "eigh": lambda x: jnp.linalg.eigh(symmetric(x)),
    "eig": jnp.linalg.eigvals,
    "lu": jax.scipy.linalg.lu,
    "det": jnp.linalg.det,
    "einsum": lambda x: jnp.einsum("ij,kj,kl->il", x, x, x),
    "expm": jax.scipy.linalg.expm,
    "triangular": lambda x: jax.scipy.linalg.solve_triangular(symmetric(x), x),
    "bf16": lambda x: (x.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)).astype("f"),
}
ARRAYS = {
    "conv": lambda x: conv(IMAGE * x[0, 0], KERNEL),
    "strides": lambda x: conv(IMAGE * x[0, 0], KERNEL, (2, 2)),
    "pool": lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (2, 2), (1, 1), "VALID"
    ),
    "sort": lambda x: jnp.sort(x, axis=0),
    "argsort": jnp.argsort,
    "topk": lambda x: jax.lax.top_k(x, 3),
    "unique": lambda x: jnp.unique(jnp.round(x), size=8),
    "median": jnp.median,
    "fft": jnp.fft.fft,
    "rfft2": jnp.fft.rfft2,
    "irfft": lambda x: jnp.fft.irfft(jnp.fft.rfft(x)),
    "cumsum": lambda x: jnp.cumsum(x, axis=1),
    "cumprod": jnp.cumprod,
    "gather": lambda x: x[jnp.array([3, 1, 1])][:, ::2],
    "scatter": lambda x: x.at[jnp.array([0, 0, 2])].add(1.5),
    "slices": lambda x: jax.lax.dynamic_slice(x, (1, 2), (3, 3)),
    "where": lambda x: jnp.where(x > 0, jnp.sqrt(jnp.abs(x)), x),
    "softmax": jax.nn.softmax,
    "logsumexp": jax.scipy.special.logsumexp,
    "special": lambda x: jax.scipy.special.erf(x) + jax.lax.lgamma(jnp.abs(x) + 1),
    "ints": lambda x: jnp.bitwise_xor((x * 100).astype(jnp.int32), 77) // 3,
    "complex": lambda x: jnp.abs(x + 1j * x.T),
    "histogram": lambda x: jnp.histogram(x, bins=5),
}
CONTROL = {
    "scan": lambda x: scan(lambda c, i: (jnp.tanh(c @ c + i), c.sum()), x),
    "while": lambda x: jax.lax.while_loop(
        lambda c: jnp.abs(c).sum() > 1, lambda c: c / 2, x
    ),
    "fori": lambda x: jax.lax.fori_loop(0, 7, lambda i, c: jnp.sin(c) + i, x),
    "cond": lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "switch": lambda x: jax.lax.switch(2, [jnp.sin, jnp.cos, jnp.tan], x),
    "map": lambda x: jax.lax.map(lambda r: r @ r, x),
    "associative": lambda x: jax.lax.associative_scan(jnp.add, x),
    "vmap": jax.vmap(lambda r: jnp.outer(r, r)),
    "remat": jax.grad(jax.checkpoint(lambda x: jnp.sin(x @ x).sum())),
    "nested jit": lambda x: jax.jit(jnp.sin)(x) + jax.jit(jnp.cos)(x),
}
RANDOM = {
    "normal": lambda x: x + jax.random.normal(jax.random.key(1), x.shape),
    "uniform": lambda x: x * jax.random.uniform(jax.random.key(2), x.shape),
    "permutation": lambda x: jax.random.permutation(jax.random.key(3), x),
    "categorical": lambda x: jax.random.categorical(jax.random.key(4), x),
    "gamma": lambda x: jax.random.gamma(jax.random.key(5), 2.0, (3,)) + x[0, :3],
    "rbg": lambda x: x + jax.random.bits(jax.random.key(6, impl="rbg"), (6,), "uint32"),
}
GRADIENTS = {
    "mlp": jax.grad(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ M) @ M) ** 2)),
    "of conv": jax.grad(lambda x: conv(IMAGE * x[0, 0], KERNEL).sum()),
    "of scan": jax.grad(lambda x: scan(lambda c, i: (jnp.sin(c * i), 0.0), x)[0].sum()),
    "of solve": jax.grad(lambda x: jnp.linalg.solve(symmetric(x), x).sum()),
    "of sort": jax.grad(lambda x: (jnp.sort(x, axis=0) * M).sum()),
    "jacobian": jax.jacfwd(lambda x: jnp.sin(x[0])),
    "hessian": lambda x: jax.hessian(lambda r: jnp.prod(jnp.cos(r)))(x[0, :3]),
}
CORPUS = {
    "linalg": LINALG,
    "arrays": ARRAYS,
    "control": CONTROL,
    "random": RANDOM,
    "gradients": GRADIENTS,
}


def as_bytes(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("group", CORPUS)
def test_results_are_the_same_bit_for_bit(group):
    fun = lambda x: {name: f(x) for name, f in CORPUS[group].items()}
    there = safe_jit(fun, limits=PATIENT, isolation="process")
    here = jax.jit(fun)
    before = safejax.compile_status().get("outcomes", {}).get("ok", 0)

    got, wanted = there(M), here(M)

    assert safejax.compile_status()["outcomes"]["ok"] == before + 1
    differ = [n for n in wanted if as_bytes(got[n]) != as_bytes(wanted[n])]
    assert differ == []


@pytest.mark.parametrize("spec", [("d",), (None, "d"), ()])
def test_programs_over_several_devices_travel(spec, caplog):
    assert len(jax.devices()) >= 2
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
    x = jax.device_put(M, NamedSharding(mesh, PartitionSpec(*spec)))
    fun = lambda x: (x @ x.T, x.sum(), jnp.sort(x, axis=0))
    f = safe_jit(fun, limits=PATIENT)
    with caplog.at_level(logging.WARNING, "safejax.compile"):
        got, wanted = f(x), jax.jit(fun)(x)

    assert as_bytes(got) == as_bytes(wanted)
    assert [g.sharding for g in got] == [w.sharding for w in wanted]
    assert caplog.records == []


def test_donated_and_static_arguments_mean_what_they_mean():
    f = safe_jit(lambda x, n: x * n, limits=PATIENT, donate_argnums=0, static_argnums=1)
    given = jnp.ones(3)

    assert f(given, 3).tolist() == [3, 3, 3]
    assert given.is_deleted()


def test_memory_and_cost_of_a_travelled_program_can_be_asked_for():
    compiled = safe_jit(unrolled(2), limits=PATIENT).lower(SQUARE).compile()

    assert compiled(SQUARE).shape == (8, 8)
    assert "HloModule" in compiled.as_text()
    assert compiled.cost_analysis()


def test_host_callbacks_stay_here_and_it_is_said_once(caplog):
    def talk(x):
        jax.debug.callback(lambda _: None, x)
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    f = safe_jit(talk, limits=PATIENT)
    with caplog.at_level(logging.WARNING, "safejax.compile"):
        for n in (1, 2, 3):
            assert np.allclose(f(np.ones(n, np.float32)), np.sin(1))

    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1
    assert "talk()" in said[0]
    assert "Python" in said[0]


def test_a_crash_of_the_worker_is_an_error_with_the_name_of_its_signal():
    f = safe_jit(endless(), limits=Limits(compile_timeout_s=60, retry_backoff_s=300))
    results = []
    thread = threading.Thread(target=lambda: results.append(outcome(f, SQUARE)))
    with events("failed") as failed:
        thread.start()
        until(lambda: busy() == 1)
        for pid in pids():
            os.kill(pid, signal.SIGSEGV)
        thread.join(WAIT_S)

    assert isinstance(results[0], WorkerError)
    assert results[0].details["signal"] == "SIGSEGV"
    assert "SIGSEGV" in str(results[0])
    assert [event.code for event in failed] == [results[0].code]
    assert outcome(f, SQUARE).code == "SJ205"
    assert safe_jit(unrolled(1), limits=PATIENT)(SQUARE).shape == (8, 8)


def test_a_refusal_of_xla_is_jaxs_error_and_not_tried_again_at_once():
    def unknown(x):
        return jax.ffi.ffi_call("sj_nowhere", jax.ShapeDtypeStruct((3,), "f"))(x)

    f = safe_jit(unknown, limits=Limits(compile_timeout_s=60, retry_backoff_s=300))
    x = jnp.ones(3, jnp.float32)

    with pytest.raises(jax.errors.JaxRuntimeError, match="sj_nowhere"):
        f(x)
    assert outcome(f, x).code == "SJ205"
    assert f.stats().live == 0


def test_a_thread_releases_its_caller_and_orphans_are_capped(caplog):
    limits = Limits(compile_timeout_s=1.0, max_orphans=2)
    f = safe_jit(unrolled(150), limits=limits, isolation="thread")
    before = safejax.compile_status()["orphans"]

    def work(n):
        return outcome(f, SQUARE[:n, :n])

    with caplog.at_level(logging.WARNING, "safejax.compile"):
        errors = [work(n) for n in (5, 6)]

    assert all("can't exit before" in r.getMessage() for r in caplog.records)
    assert len(caplog.records) == 2
    assert [type(error) for error in errors] == [CompileTimeoutError] * 2
    assert safejax.compile_status()["orphans"] - before == 2
    g = safe_jit(lambda x: x + 9, limits=limits, isolation="thread")
    refused = outcome(g, SQUARE)
    assert isinstance(refused, CompileLimitError)
    assert refused.code == "SJ208"
    assert g.stats().refusals["SJ208"] == 1
    until(lambda: safejax.compile_status()["orphans"] == 0)
    # What was only released can be asked for again.
    assert f.stats().kills == 0


def test_threads_that_race_leave_no_more_orphans_than_the_cap():
    limits = Limits(compile_timeout_s=0.2, max_orphans=1)
    f = safe_jit(slow(), limits=limits, isolation="thread")
    until(lambda: safejax.compile_status()["orphans"] == 0)
    threads = [
        threading.Thread(target=outcome, args=(f, SQUARE[:n, :n])) for n in (5, 6, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)

    assert safejax.compile_status()["orphans"] <= 1
    until(lambda: safejax.compile_status()["orphans"] == 0)


@pytest.mark.parametrize("isolation", ["process", "thread", "none", None])
def test_every_isolation_serves(isolation):
    f = safe_jit(lambda x: x + 1, limits=PATIENT, isolation=isolation)

    assert f(SQUARE).sum() == 128
    assert f.stats().live == 1


@pytest.mark.parametrize("wrong", ["fork", "", 1])
def test_unknown_isolation_is_refused(wrong):
    with pytest.raises(ValueError, match="isolation"):
        safe_jit(lambda x: x, isolation=wrong)


QUIET = """
import threading, os
import safejax
from pathlib import Path
def children():
    tasks = Path("/proc/self/task").glob("*/children")
    return [pid for path in tasks for pid in path.read_text().split()]
assert "pids" not in safejax.compile_status()
f = safejax.safe_jit(lambda x: x + 1)
assert type(f).__name__ == "PjitFunction"
f(1.0)
assert "pids" not in safejax.compile_status(), safejax.compile_status()
assert not [t for t in threading.enumerate() if "safejax" in t.name]
assert children() == []
g = safejax.safe_jit(lambda x: x - 1, limits=safejax.Limits(compile_timeout_s=60.0))
assert type(g).__name__ == "PjitFunction"
assert children() == []
g(1.0)
assert children()
"""


def test_nothing_is_started_before_a_program_has_to_be_compiled_apart():
    process = python(QUIET)
    _, err = process.communicate(timeout=WAIT_S)

    assert process.returncode == 0, err
