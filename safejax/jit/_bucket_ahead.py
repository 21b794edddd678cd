"""``f.precompile()`` of a function with buckets: all of them, tried one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from safejax import _jax
from safejax.buckets._layout import Call
from safejax.buckets._sizes import Sizes
from safejax.contract._contract import is_leaf
from safejax.contract._dims import DimError, Expr
from safejax.contract._spec import Spec
from safejax.jit._bucketed import Bucketed
from safejax.jit._gate import Gate
from safejax.jit._precompile import Precompiled, precompile


class Ahead:
    """Makes and tries the programs of buckets before the first call."""

    def __init__(self, made: Bucketed, gate: Gate) -> None:
        self._made = made
        self._gate = gate
        self._contract = made.contract
        self._layouts = made.layouts

    def precompile(self, *args: Any, **kwargs: Any) -> Precompiled:
        """Makes the programs of all buckets before their first call.

        Arguments with bucketed dimensions are left out, others may be where the
        contract says all of them. With all arguments: one bucket, theirs.
        """
        start = time.perf_counter()
        try:
            self._make(args, kwargs)
        except BaseException as error:
            _jax.without_own_frames(error)
            raise
        seconds = time.perf_counter() - start
        return Precompiled(function=self._contract.function, seconds=seconds)

    async def compile_async(self, *args: Any, **kwargs: Any) -> Precompiled:
        """As :meth:`precompile`, without blocking the event loop."""
        return await asyncio.to_thread(self.precompile, *args, **kwargs)

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(self._contract.signature.bind_partial(*args, **kwargs).arguments)
        wanted = self._required()
        if any(place.name in given for place in self._layouts.places) or not wanted:
            self._contract.signature.bind(*args, **kwargs)
            self._gate.examine(given)
            self._all([self._gate.forwarded(given)])
            return
        buckets = self._layouts.buckets
        full = [buckets.fullest(bucket) for bucket in buckets.combinations()]
        self._all([self._example(given, real) for real in full if real])
        self._made.prover.forget()

    def _required(self) -> list[str]:
        parameters = self._contract.signature.parameters
        return [
            place.name
            for place in self._layouts.places
            if parameters[place.name].default is parameters[place.name].empty
        ]

    def _all(self, calls: Sequence[Call]) -> None:
        # One alone first: a function that is refused makes no further program.
        for some in (calls[:1], calls[1:]):
            plans = [self._planned(call) for call in some]
            work = [_Work(self._made.compile_one, padded) for padded, _ in plans]
            for report in precompile([(one, ()) for one in work]):
                if report.error is not None:
                    raise report.error
            for call, (_, bucket) in zip(some, plans, strict=True):
                self._made.prover.settle(None, call, bucket)

    def _planned(self, call: Call) -> tuple[Call, Sizes]:
        plan, args, kwargs = self._made.grown(*call)
        return (args, kwargs), plan.bucket

    def _example(self, given: dict[str, Any], real: Sizes) -> Call:
        """A call with these sizes, made of what the contract says."""
        env = dict(zip(self._layouts.buckets.names, real, strict=True))
        arguments = dict(given)
        for name, parameter in self._contract.signature.parameters.items():
            if name in given or parameter.default is not parameter.empty:
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            tree = self._contract.trees.get(name)
            arguments[name] = jax.tree.map(
                lambda leaf, name=name: self._struct(name, leaf, env),
                tree,
                is_leaf=is_leaf,
            )
        self._gate.examine(arguments)
        return self._gate.forwarded(arguments)

    def _struct(self, name: str, spec: Any, env: dict[str, int]) -> Any:
        if isinstance(spec, Spec) and spec.axes is not None and spec.variadic is None:
            shape = [_size(axis, env) for axis in spec.axes]
            if None not in shape and len(spec.dtypes or ()) == 1:
                (dtype,) = spec.dtypes or ()
                return jax.ShapeDtypeStruct(  # type: ignore[no-untyped-call]
                    tuple(shape),
                    dtype,
                    sharding=spec.sharding,
                    weak_type=bool(spec.weak_type),
                )
        raise TypeError(
            f"{self._contract.function}.precompile() needs {name}: its contract does "
            "not say one shape and dtype for each bucket; give an array or its "
            "jax.ShapeDtypeStruct"
        )


class _Work:
    """One signature, for :func:`precompile`."""

    def __init__(self, compile_one: Callable[..., Any], call: Call) -> None:
        self._compile_one = compile_one
        self._call = call

    def precompile(self) -> Any:
        args, kwargs = self._call
        return self._compile_one(*args, **kwargs)


def _size(axis: Any, env: dict[str, int]) -> int | None:
    if isinstance(axis, int):
        return axis
    if not isinstance(axis, Expr):
        return None
    try:
        return axis.evaluate(env)
    except DimError:
        return None
