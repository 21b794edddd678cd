"""A jitted function behind buckets: calls are padded, answers are cut back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from safejax import _jax
from safejax.buckets._layout import Call, Layouts, Plan, read_places, vector_of
from safejax.buckets._mask import with_mask
from safejax.buckets._padding import cut
from safejax.buckets._sizes import read_buckets
from safejax.contract._contract import Contract
from safejax.jit import _evict, _serving
from safejax.jit._padding_options import Padding
from safejax.jit._plain import plain_jit
from safejax.jit._proving import Prover, proving
from safejax.jit._settings import Settings


class Bucketed:
    """Serves calls of any admitted size from the programs of the buckets.

    Two jitted functions share one account: the answers of one bring their proof; the
    other is bare, for whoever traces it as a part of a program, or looks at it.

    Attributes:
        contract: The contract, bounded by the largest buckets.
        ledger: Whose account it is.
        bare: The jitted function without padding.
        layouts: Where the bucketed arguments are.
        mask: The parameter that is told which rows are real.
        prover: Tries the programs.
        statics: Positions and names of the static arguments.

    Raises:
        ContractError: ``SJ102``: buckets that don't suit the contract.
        ValueError: An option that can't be used with buckets.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        contract: Contract,
        padding: Padding,
        settings: Settings,
        options: dict[str, Any],
    ) -> None:
        padding.check_options(settings, options)
        limits = settings.limits
        most = limits.max_compiles if limits.on_limit == "raise" else None
        buckets = read_buckets(contract, padding.buckets, most)
        places = read_places(contract, buckets, padding.pad_value)
        self.contract = buckets.bounding(contract)
        self.layouts = Layouts(buckets, places)
        self.mask = padding.mask
        plain = self._told(fun)
        self._jitted, self.ledger = _serving.jitted(proving(plain), settings, options)
        self.bare, _ = plain_jit(plain, settings, options, self.ledger)
        self.freeze = self.bare.freeze
        self.statics = _jax.static_arguments(self.bare)
        self._call = _serving.with_room(self._jitted, self.ledger, limits, self.statics)
        self.prover = Prover(
            contract=self.contract,
            layouts=self.layouts,
            mask=self.mask,
            plain=plain,
            call=self._call,
            settings=settings,
            options=options,
            statics=self.statics,
        )

    def _told(self, fun: Callable[..., Any]) -> Any:
        def inner(fun: Callable[..., Any]) -> Any:
            return _serving.sanitised(fun, self.contract)

        if self.mask is None:
            return inner(fun)
        return with_mask(fun, self.layouts, self.mask, inner)

    def compile_one(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the program of one padded signature."""
        if isinstance(self._jitted, _evict.Slots):
            return self._jitted.method("precompile")(*args, **kwargs)
        return self._jitted.precompile(*args, **kwargs)

    def call_known(self, *args: Any, **kwargs: Any) -> Any:
        """Serves a call that the contract has let in before."""
        plan = self.layouts.fitting(args, kwargs)
        if plan is None or _jax.jit_disabled():
            return self._serve(args, kwargs, is_new=False)
        # Nothing to pad or to cut, as for most requests. What traces us gets the same
        # answer, once the program was tried.
        named = kwargs if self.mask is None else {**kwargs, self.mask: plan.vector}
        ((proof, answer),) = self._call(*args, **named).items()
        if proof.axes is None:
            if not _jax.at_top_level():
                return self._serve(args, kwargs, is_new=False)
            self.prover.settle(proof, (args, kwargs), plan.bucket)
        return answer

    def call_new(self, *args: Any, **kwargs: Any) -> Any:
        """The same for the first call with its sizes.

        Raises:
            CompileLimitError: Its bucket has no program, and may not get one.
            ContractError: ``SJ103``: the padding shows in the answer.
        """
        return self._serve(args, kwargs, is_new=True)

    def _serve(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_new: bool
    ) -> Any:
        if not _jax.at_top_level() or _jax.jit_disabled():
            # What traces us makes its own program, of this size: nothing to save.
            args, kwargs = self._as_it_is((args, kwargs))
            return self.bare(*args, **kwargs)
        plan, grown, named = self.grown(args, kwargs)
        if is_new:
            key = _jax.signature(grown, named, *self.statics)
            if key is not None:
                self.ledger.refuse_if_full(key)
        ((proof, answer),) = self._call(*grown, **named).items()
        if proof.axes is None:
            self.prover.settle(proof, (args, kwargs), plan.bucket)
        if not plan.grows:
            return answer
        leaves, structure = jax.tree.flatten(answer)
        pairs = zip(leaves, proof.cuts(plan), strict=True)
        return jax.tree.unflatten(
            structure,
            [leaf if keep is None else cut(leaf, keep) for leaf, keep in pairs],
        )

    def grown(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Plan, tuple[Any, ...], dict[str, Any]]:
        """A call padded to its bucket."""
        plan, args, kwargs = self.layouts.grown(args, kwargs)
        if self.mask is not None:
            kwargs = {**kwargs, self.mask: plan.vector}
        return plan, args, kwargs

    def _as_it_is(self, call: Call) -> Call:
        args, kwargs = call
        if self.mask is not None:
            leaves, keys = self.layouts.taken_out(args, kwargs)
            layout = self.layouts.of(keys)
            kwargs = {**kwargs, self.mask: vector_of(layout.sizes_in(leaves))}
        return args, kwargs

    # --- the methods of a jitted function -----------------------------------------

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).eval_shape``."""
        args, kwargs = self._as_it_is((args, kwargs))
        return self.bare.eval_shape(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).lower``, of the bucket that these arguments fall into."""
        _, args, kwargs = self.grown(args, kwargs)
        return self.bare.lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """As ``jax.jit(f).trace``, of the bucket that these arguments fall into."""
        _, args, kwargs = self.grown(args, kwargs)
        return self.bare.trace(*args, **kwargs)

    def review(self, *args: Any, **kwargs: Any) -> Any:
        """What the program of the bucket contains and would cost, not compiled."""
        _, args, kwargs = self.grown(args, kwargs)
        return self.bare.review(*args, **kwargs)

    def clear_cache(self) -> None:
        """Frees the programs and traces of this function."""
        self.prover.forget()
        self._jitted.clear_cache()
        self.bare.clear_cache()
