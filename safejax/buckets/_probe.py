"""Tries whether the padding shows in an answer, before the first one is given.

The same program gets the same real rows twice, with different elements in the padding:
its answers must be the same to the bit. And it gets them beside the function itself,
which has no padding: their answers must be the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from safejax.buckets._layout import Call, Layouts
from safejax.buckets._outputs import Axes, UnclearError, env_of
from safejax.buckets._padding import kept
from safejax.buckets._samples import RANGES, Part, real_rows, with_padding
from safejax.buckets._sizes import Sizes
from safejax.buckets._verdict import differing, far_apart, is_blind
from safejax.contract._dtypes import kind_of

# The arrays that a call with these real sizes is answered with.
Run = Callable[[Call, Sizes], Sequence[Any]]
Span = tuple[float, float]
Answer = Sequence[Any]


class Fault(NamedTuple):
    """How the padding shows.

    Attributes:
        kind: ``"padding"``: the answer depends on what stands there; ``"size"``: on
            how much of it there is; ``"blind"``: no trial could tell.
        output: The index of the array that shows it.
        names: The names whose padding it is.
        real: The sizes of the trial.
        bucket: Those it was padded to.
    """

    kind: str
    output: int
    names: tuple[str, ...]
    real: Sizes
    bucket: Sizes


class Expected(NamedTuple):
    """What the function itself answers for a few rows.

    Attributes:
        call: Arguments, those with bucketed axes of any size.
        axes: The axes of an answer that follow from the bucketed names.
        real: How many rows.
        span: The range that their elements come from.
        answer: The answer.
    """

    call: Call
    axes: Axes
    real: Sizes
    span: Span
    answer: Sequence[Any]


def expect(
    run: Run,
    layouts: Layouts,
    calls: Callable[[Span], Call],
    axes: Axes,
    real: Sizes,
) -> Expected | None:
    """Calls the function without padding; ``None``: no answer is finite.

    Raises:
        UnclearError: The answer has other sizes than the symbolic trace said.
    """
    for span in RANGES:
        call = calls(span)
        leaves = run(rows(layouts, call, real, span, "middle"), real)
        check_shapes(axes, leaves, real)
        answer = [_on_host(leaf) for leaf in leaves]
        if not is_blind(answer):
            return Expected(call, axes, real, span, answer)
    return None


def rows(layouts: Layouts, call: Call, real: Sizes, span: Span, part: Part) -> Call:
    """The call with a few rows of ours in the place of its own."""
    env = dict(zip(layouts.buckets.names, real, strict=True))
    seeds = iter(range(1 << 20))
    return layouts.changed(
        call, lambda leaf, meant: real_rows(leaf, meant, env, span, part, next(seeds))
    )


class _Rows(NamedTuple):
    """How many real rows, from which part of the range."""

    real: Sizes
    part: Part


class Trials:
    """The trials of one program."""

    def __init__(
        self, run: Run, layouts: Layouts, expected: Expected, bucket: Sizes
    ) -> None:
        self._run = run
        self._layouts = layouts
        self._expected = expected
        self._bucket = bucket

    def fault(self) -> Fault | None:
        """The first trial in which the padding shows.

        Raises:
            UnclearError: An answer has other sizes than the symbolic trace said.
        """
        few = self._expected.real
        most = self._layouts.buckets.fullest(self._bucket) or few
        most = few if most == self._bucket else most
        answer = self._answer(_Rows(few, "middle"))
        wrong = (
            self._shows(_Rows(few, "middle"), answer, "lower")
            or self._shows(_Rows(few, "middle"), answer, "upper")
            or self._shows_between(_Rows(few, "smallest"))
            or self._shows_between(_Rows(most, "largest"))
        )
        if wrong is None:
            output = far_apart(self._expected.answer, answer)
            if output is not None:
                wrong = Fault("size", output, (), few, self._bucket)
        return wrong

    def _shows_between(self, given: _Rows) -> Fault | None:
        names = self._layouts.buckets.names
        return self._shows(given, self._answer(given, "lower", names), "upper")

    def _shows(self, given: _Rows, answer: Answer, padding: Part) -> Fault | None:
        """Whether an answer changes with this padding, and that of which names."""
        names = self._layouts.buckets.names
        output = self._differs(given, answer, padding, names)
        if output is None:
            return None
        usual = self._answer(given)
        alone = tuple(
            name
            for name in names
            for part in (padding, "lower")
            if self._differs(given, usual, part, (name,)) is not None
        )
        culprits = tuple(dict.fromkeys(alone)) or names
        return Fault("padding", output, culprits, given.real, self._bucket)

    def _differs(
        self, given: _Rows, answer: Answer, padding: Part, names: Collection[str]
    ) -> int | None:
        other = self._answer(given, padding, names)
        output = differing(answer, other)
        if (
            output is None
            or differing(other, self._answer(given, padding, names)) is None
        ):
            return output
        # The program does not even repeat itself, as some do on GPUs.
        return far_apart(answer, other)

    def _answer(
        self, given: _Rows, padding: Part = "upper", names: Collection[str] = ()
    ) -> Answer:
        """The real part of an answer; only the padding of ``names`` is made up."""
        span = self._expected.span
        call = rows(self._layouts, self._expected.call, given.real, span, given.part)
        leaves, keys = self._layouts.taken_out(*call)
        layout = self._layouts.of(keys)
        plan = layout.plan_to(given.real, self._bucket)
        grown = [
            with_padding(leaf, target, meant, span, padding, names)
            if target and meant
            else leaf
            for leaf, target, meant in zip(
                leaves, plan.targets, layout.leaves, strict=True
            )
        ]
        padded = self._layouts.put_back(*call, grown, keys)
        return self._cut(self._run(padded, given.real), given.real)

    def _cut(self, leaves: Answer, real: Sizes) -> Answer:
        before, after = env_of(real), env_of(self._bucket)
        check_shapes(self._expected.axes, leaves, self._bucket)
        cut = []
        for leaf, carried in zip(leaves, self._expected.axes, strict=True):
            index = kept(carried, before, after)
            host = _on_host(leaf)
            cut.append(host if index is None else host[index])
        return cut


def check_shapes(axes: Axes, leaves: Sequence[Any], sizes: Sizes) -> None:
    """Compares the sizes of an answer with what they are said to follow from.

    Raises:
        UnclearError: They differ, or what would have to be cut can't be.
    """
    env = env_of(sizes)
    if len(axes) != len(leaves):
        raise UnclearError
    for leaf, carried in zip(leaves, axes, strict=True):
        if any(leaf.shape[axis] != expr.run(env) for axis, expr in carried):
            raise UnclearError
        if carried and kind_of(leaf.dtype) == "key":
            raise UnclearError


def _on_host(leaf: Any) -> Any:
    if kind_of(leaf.dtype) == "key":
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
