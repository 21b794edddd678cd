"""Settles for each program of a bucket whether its padding shows, and what to cut.

A program answers with its arrays and with a proof. The proof is part of the structure
of the program's own output, so it can't be taken for that of another program.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
from typing_extensions import override

from safejax import _jax
from safejax.buckets import _refused
from safejax.buckets._layout import Call, Layouts, Plan, vector_of
from safejax.buckets._outputs import Axes, UnclearError, env_of, output_axes
from safejax.buckets._padding import kept
from safejax.buckets._probe import Expected, Trials, expect, rows
from safejax.buckets._samples import RANGES, stand_ins
from safejax.buckets._sizes import Sizes
from safejax.contract._contract import Contract
from safejax.errors import ContractError
from safejax.jit._plain import clone, plain_jit
from safejax.jit._settings import Settings
from safejax.review._conditions import Conditions

_MAX_CUTS = 4096
# Structures of calls whose function without padding is kept for the next bucket.
_MAX_REFERENCES = 8


class Proof:
    """What is known of one program. Made when it is traced.

    Attributes:
        axes: The axes to cut, once the padding was found not to show.
        refuse: Makes the error, where it was found to show.
    """

    def __init__(self) -> None:
        self.axes: Axes | None = None
        self.refuse: Callable[[], ContractError] | None = None
        self._cuts: dict[Sizes, Any] = {}

    @override
    def __repr__(self) -> str:
        # It is in the text of the program, and so in its key in a compile cache.
        return "proof"

    def cuts(self, plan: Plan) -> Any:
        """For each array of the answer what to keep of it."""
        cuts = self._cuts.get(plan.real)
        if cuts is None:
            before, after = env_of(plan.real), env_of(plan.bucket)
            cuts = tuple(kept(axes, before, after) for axes in self.axes or ())
            if len(self._cuts) >= _MAX_CUTS:
                self._cuts.clear()
            self._cuts[plan.real] = cuts
        return cuts


def proving(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a proof beside its answer: the key of a dict of one entry.

    To register a class of our own as a pytree would change JAX for everybody, and
    ``jax.tree_util.Partial`` costs 10 µs to make and to undo.
    """

    def proven(*args: Any, **kwargs: Any) -> Any:
        return {Proof(): fun(*args, **kwargs)}

    return functools.update_wrapper(proven, fun)


@dataclasses.dataclass(frozen=True, slots=True)
class _Reference:
    """The function without padding, for calls that are structured alike."""

    jitted: Any
    axes: Axes


class Prover:
    """Runs the trials of one function's programs, one program at a time."""

    def __init__(
        self,
        *,
        contract: Contract,
        layouts: Layouts,
        mask: str | None,
        plain: Callable[..., Any],
        call: Callable[..., Any],
        settings: Settings,
        options: dict[str, Any],
        statics: tuple[tuple[int, ...], tuple[str, ...]],
    ) -> None:
        self._contract = contract
        self._layouts = layouts
        self._mask = mask
        self._plain = plain
        self._call = call
        limits = dataclasses.replace(settings.limits, on_limit="raise")
        self._settings = dataclasses.replace(settings, limits=limits)
        self._options = options
        self._statics = statics
        self._conditions = Conditions(
            contract.function, settings.limits, settings.policy
        )
        self._references: dict[Any, _Reference] = {}
        self._lock = threading.RLock()

    def settle(self, proof: Proof | None, call: Call, bucket: Sizes) -> None:
        """Tries the program of a bucket, unless that is done.

        Args:
            proof: The proof that the program has brought, where it has run.
            call: Arguments of one call, not padded: arrays, or their specs.
            bucket: The bucket.

        Raises:
            ContractError: ``SJ103``: the padding shows, or no trial could tell.
        """
        with self._lock:
            if proof is not None and proof.axes is not None:
                return
            if proof is not None and proof.refuse is not None:
                raise proof.refuse()
            # The stand-ins are ours, and no transfer of the caller's.
            with _jax.explicit_transfers():
                self._tried(proof, call, bucket)

    def forget(self) -> None:
        """Drops the programs without padding."""
        with self._lock:
            self._references.clear()

    def _tried(self, proof: Proof | None, call: Call, bucket: Sizes) -> None:
        function = self._contract.function
        proofs = [] if proof is None else [proof]
        structures: list[Any] = []

        def run(call: Call, real: Sizes) -> Sequence[Any]:
            args, kwargs = self._told(call, real)
            ((proof, answer),) = self._call(*args, **kwargs).items()
            proofs.append(proof)
            leaves, structure = jax.tree.flatten(answer)
            structures.append(structure)
            return tuple(leaves)

        axes: Axes | None = None
        refuse: Callable[[], ContractError] | None = None
        try:
            expected = self._expected(call, bucket)
            if expected is None:  # may be due to these arguments: asked again
                raise _refused.blind(function)
            fault = Trials(run, self._layouts, expected, bucket).fault()
        except UnclearError:
            refuse = functools.partial(_refused.unclear, function)
        else:
            axes = expected.axes if fault is None else None
            if fault is not None:
                names, structure = self._layouts.buckets.names, structures[-1]
                refuse = functools.partial(
                    _refused.refusal, function, fault, structure, names
                )
        for one in proofs:
            one.axes, one.refuse = axes, refuse
        if refuse is not None:
            self._references.clear()
            raise refuse()

    def _told(self, call: Call, real: Sizes) -> Call:
        args, kwargs = call
        if self._mask is None:
            return call
        return args, {**kwargs, self._mask: vector_of(real)}

    # --- the function without padding ---------------------------------------------

    def _expected(self, call: Call, bucket: Sizes) -> Expected | None:
        few = self._layouts.buckets.fewest(bucket) or bucket
        names = self._layouts.buckets.names
        try:
            reference = self._reference(call, few)

            def run(call: Call, real: Sizes) -> Sequence[Any]:
                args, kwargs = self._told(call, real)
                return jax.tree.leaves(reference.jitted(*args, **kwargs))

            return expect(
                run,
                self._layouts,
                lambda span: stand_ins(self._contract, call, names, span),
                reference.axes,
                few,
            )
        except Exception as error:
            sizes = ", ".join(map("{}={}".format, names, few))
            error.add_note(
                f"{self._contract.function}() was tried without buckets at {sizes}, "
                "which its contract admits"
            )
            raise

    def _reference(self, call: Call, few: Sizes) -> _Reference:
        names = self._layouts.buckets.names
        call = stand_ins(self._contract, call, names, RANGES[0])
        args, kwargs = rows(self._layouts, call, few, RANGES[0], "middle")
        key = _jax.signature(args, kwargs, *self._statics)
        known = self._references.get(key)
        if known is not None:
            return known
        # A throwaway with an account of its own: it serves nobody.
        jitted, _ = plain_jit(clone(self._plain), self._settings, self._options)

        def trace(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            args, kwargs = self._told((args, kwargs), few)
            return _jax.trace(jitted, args, kwargs).out_info

        with self._conditions.tracing():
            tries = self._layouts.buckets.variations(few)
            axes = output_axes(trace, self._layouts, call, tries)
        if len(self._references) >= _MAX_REFERENCES:
            self._references.clear()
        self._references[key] = found = _Reference(jitted, axes)
        return found
