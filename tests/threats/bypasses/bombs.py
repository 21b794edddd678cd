"""T15: programs that take forever to make, or to run."""

# A lambda around a function is another function, and a frame of the attacker's:
# ruff: noqa: PLW0108

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from threats.bypasses._kit import Trial, answering, bypass
from threats.bypasses._programs import (
    Model,
    nested,
)

EQUATIONS = 200


def counting_lines(trial: Trial, model: Model, more_than: int) -> Model:
    """The model, of whose module we look whether it has more lines."""

    def through(jitted: Any) -> Any:
        def call(*args: Any) -> Any:
            program = jitted.lower(*args).as_text()
            trial.saw(program.count("\n") > more_than)

        return call

    trial.through = through
    return model


def multiplying(trial: Trial, model: Model) -> Model:
    """The model, of whose compiled program we look how often it multiplies."""

    def through(jitted: Any) -> Any:
        def call(*args: Any) -> Any:
            text = jitted.lower(*args).compile().as_text()
            trial.saw(text.count(" multiply(") > EQUATIONS)

        return call

    trial.through = through
    return model


@bypass("T15", "review", max_equations=EQUATIONS)
def python_loop(trial: Trial) -> Model:
    """A loop of Python: each step is an equation."""
    steps = 3 * EQUATIONS

    def model(x: Any) -> Any:
        for step in range(steps):
            trial.saw(step == steps - 1)
            x = x + 1
        return x

    return model


@bypass("T15", "review", max_equations=EQUATIONS)
def loop_in_an_inner_function(trial: Trial) -> Model:
    """The same in a jitted function inside: the outer one has one equation."""

    @jax.jit
    def inner(x: Any) -> Any:
        for step in range(3 * EQUATIONS):
            trial.saw(step == 3 * EQUATIONS - 1)
            x = x + 1
        return x

    return lambda x: inner(x)


@bypass("T15", "review", max_equations=EQUATIONS)
def many_inner_functions(trial: Trial) -> Model:
    """Twenty jitted functions of which each is within the budget."""

    def inner(x: Any) -> Any:
        for _ in range(EQUATIONS // 5):
            x = x + 1
        return x

    def model(x: Any) -> Any:
        for _ in range(20):
            x = jax.jit(lambda v: inner(v))(x)
        trial.saw("traced")
        return x

    return model


@bypass("T15", "review", max_equations=EQUATIONS)
def loop_in_a_loop_body(trial: Trial) -> Model:
    """In a `scan` body at depth 5."""

    def leaf(x: Any) -> Any:
        for _ in range(3 * EQUATIONS):
            x = x + 1
        trial.saw("traced")
        return x

    return nested(leaf, 5)


@bypass("T15", "review", max_equations=EQUATIONS)
def unrolled_scan(trial: Trial) -> Model:
    """`scan(unroll=True)`: one equation, written out when it is lowered."""

    def body(carry: Any, _: Any) -> Any:
        return carry * carry + 1, None

    def model(x: Any) -> Any:
        return jax.lax.scan(body, x, None, length=2 * EQUATIONS, unroll=True)[0]

    return multiplying(trial, model)


@bypass("T15", "review", max_equations=EQUATIONS)
def unrolled_scan_in_an_unrolled_scan(trial: Trial) -> Model:
    """Two of them, one inside the other: their lengths multiply."""

    def inner(carry: Any, _: Any) -> Any:
        return carry * carry + 1, None

    def outer(carry: Any, _: Any) -> Any:
        return jax.lax.scan(inner, carry, None, length=20, unroll=20)

    def model(x: Any) -> Any:
        return jax.lax.scan(outer, x, None, length=20, unroll=20)[0]

    return multiplying(trial, model)


def doubled(leaf: Model, times: int, wrap: Any) -> Model:
    """A function that calls the one before twice, and so on."""
    for _ in range(times):
        leaf = wrap(functools.partial(lambda f, x: f(f(x)), leaf))
    return leaf


@bypass("T15", "review", max_equations=EQUATIONS)
def doubling_calls(trial: Trial) -> Model:
    """Nine jitted functions that each call the one before twice: nineteen equations,
    and 512 times the first when XLA writes the calls out."""
    return multiplying(trial, doubled(lambda x: x * x + 0.5, 9, jax.jit))


@bypass("T15", "review", max_equations=EQUATIONS)
def doubling_checkpoints(trial: Trial) -> Model:
    """The same with `jax.checkpoint`, which is written out when it is lowered."""
    model = doubled(lambda x: x * x + 0.5, 9, jax.checkpoint)
    return counting_lines(trial, lambda x: model(x), 2 * EQUATIONS)


@bypass("T15", "review", max_equations=EQUATIONS)
def gradient_of_a_gradient(trial: Trial) -> Model:
    """`jax.grad` of `jax.grad`, and so on: the program grows with each."""

    def f(x: Any) -> Any:
        return jnp.sin(x) * x**5

    for _ in range(5):
        f = jax.grad(f)
    return counting_lines(trial, f, EQUATIONS)


@bypass("T15", "review", max_equations=EQUATIONS)
def equations_thrown_away(trial: Trial) -> Model:
    """A body that raises at the end of its trace, and is tried again: the program
    stays empty, and the time is gone."""

    def body(carry: Any, _: Any) -> Any:
        for _ in range(EQUATIONS // 2):
            carry = carry + 1
        trial.evidence.append("traced")
        raise KeyError

    def model(x: Any) -> Any:
        for attempt in range(6):
            trial.evidence.clear()
            try:
                jax.lax.scan(body, x, None, length=2)
            except KeyError:
                trial.saw(attempt == 5)
        return x

    return model


@bypass("T15", "review", max_equations=EQUATIONS)
def equations_never_used(trial: Trial) -> Model:
    """A jitted function inside whose answer nobody uses: its trace is dropped."""

    def model(x: Any) -> Any:
        for i in range(20):
            jax.jit(lambda v, i=i: functools.reduce(jnp.add, [v] * 40, i))(x)
        trial.saw("traced")
        return x

    return model


@bypass("T15", "review", trace_timeout_s=0.05)
def slow_trace(trial: Trial) -> Model:
    """Few equations, and a lot of waiting between them."""

    def model(x: Any) -> Any:
        for step in range(30):
            time.sleep(0.005)
            x = x + 1
            trial.saw(step == 29)
        return x

    return model


@bypass("T15", "guard", max_equations=EQUATIONS)
def work_while_tracing(trial: Trial) -> Model:
    """`jax.ensure_compile_time_eval`: the steps are run one by one, and none of them
    is in the program."""

    def model(x: Any) -> Any:
        with jax.ensure_compile_time_eval():
            value = jnp.float32(0)
            for step in range(3 * EQUATIONS):
                value = value + 1
                trial.saw(step == 3 * EQUATIONS - 1)
        return x

    return model


@bypass(
    "T15",
    "not defended",
    max_equations=EQUATIONS,
    trace_timeout_s=0.05,
    reason="A Python loop that binds no primitive is never looked at. Only a process "
    "of its own, which can be killed, bounds it.",
)
def python_without_primitives(trial: Trial) -> Model:
    """Work of Python, or of NumPy, between two equations."""

    def model(x: Any) -> Any:
        start = time.monotonic()
        while time.monotonic() < start + 0.1:
            pass
        trial.saw("worked")
        return x

    return model


@bypass("T15", "review", max_loop_nesting=2)
def loops_in_loops(trial: Trial) -> Model:
    """Four loops, one inside the other: four steps each, 256 together."""

    def around(f: Model) -> Model:
        return lambda x: jax.lax.fori_loop(0, 4, lambda _, c: f(c), x)

    model: Model = lambda x: x + 1
    for _ in range(4):
        model = around(model)
    trial.through = answering(trial, 257)
    return model


@bypass("T15", "review", max_flops=1000.0)
def long_loop(trial: Trial) -> Model:
    """A `scan` of ten thousand steps: a small program that computes for long."""

    trial.through = answering(trial, 10_001)
    return lambda x: jax.lax.scan(lambda c, _: (c + 1, None), x, None, 10_000)[0]


@bypass(
    "T15",
    "not defended",
    max_flops=1000.0,
    reason="How often a `while_loop` runs is decided by values, when it runs. Run the "
    "program where it can be ended.",
)
def endless_loop(trial: Trial) -> Model:
    """A `while_loop` whose end depends on the argument."""

    def model(x: Any) -> Any:
        return jax.lax.while_loop(lambda c: c < 10_000, lambda c: c + 1, x)

    trial.through = answering(trial, 10_000)
    return model
