"""What a review found, for people and for machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from safejax.review import _html, _text

# The curve is thinned out to this many points, each the highest of its stretch.
POINTS = 400


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportedArray:
    """An argument, a result or a captured array of a program.

    Attributes:
        name: Its name, such as ``params['w']``, or the line that captured it.
        dtype: Its dtype.
        shape: Its shape; named dimensions are texts.
        nbytes: Its bytes, or ``None`` where a dimension is a name.
        donated: Whether the program may overwrite it.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    nbytes: int | None
    donated: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportedBuffer:
    """An array that is alive at the peak.

    Attributes:
        nbytes: Its bytes, on one device.
        kind: ``"argument"``, ``"output"``, ``"constant"``, ``"temporary"``, or
            ``"copy"`` for what an operation needs beside its operands and results.
        name: Of an argument, or the primitive that made it.
        dtype: Its dtype.
        shape: Its shape.
        source: The line that made it, such as ``model.py:31``; may be empty.
    """

    nbytes: int
    kind: str
    name: str
    dtype: str
    shape: tuple[int | str, ...]
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportedLoop:
    """A loop of a program.

    Attributes:
        kind: ``"scan"`` or ``"while"``.
        trips: How often it runs, or ``None`` where nobody knows before.
        nesting: How many loops there are around it, itself included.
        equations: The equations in it.
        source: The line that it comes from.
    """

    kind: str
    trips: int | None
    nesting: int
    equations: int
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportedItem:
    """Something that a policy does not admit.

    Attributes:
        name: The primitive.
        verdict: ``"disallow"``, or ``"log"`` where a policy admits and tells.
        path: The primitives around it, as in ``scan > cond > pure_callback``.
        source: The line that it comes from.
    """

    name: str
    verdict: str
    path: str
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramReport:
    """What a traced program would cost, and what in it a policy would refuse.

    All figures are estimates, made without compiling. ``str()`` is a table,
    :meth:`to_json` the same for a machine, :meth:`to_html` a page with a plot.

    Attributes:
        function: The name of the function.
        equations: How many equations XLA gets, calls written out.
        primitives: How often each primitive stands in them.
        inputs: The arguments.
        outputs: The results.
        constants: The arrays that the function captured.
        peak_bytes: The estimated peak of memory, on one device.
        held_bytes: How much of it is arguments, results and constants.
        alive: The buffers at the peak, the largest first.
        curve: Bytes alive over the program, in order.
        flops: The estimated floating-point operations of one call.
        flops_are_exact: Whether all trips are known; a ``while`` loop counts once.
        loops: The loops.
        loop_nesting: How many of them stand inside one another.
        depth: How many programs stand inside one another.
        refused: What the policy would not admit without a word.
        uncounted: How many shapes had a name in them and were not counted.
        advice: What could be done about memory, in sentences.

    Example:
        >>> import jax, jax.numpy as jnp, safejax
        >>> x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
        >>> report = safejax.safe_jit(lambda x: x @ x).review(x)
        >>> report.equations, report.flops, report.peak_bytes
        (1, 33554432.0, 524288)
    """

    function: str
    equations: int
    primitives: Mapping[str, int]
    inputs: tuple[ReportedArray, ...]
    outputs: tuple[ReportedArray, ...]
    constants: tuple[ReportedArray, ...]
    peak_bytes: int
    held_bytes: int
    alive: tuple[ReportedBuffer, ...]
    curve: tuple[int, ...]
    flops: float
    flops_are_exact: bool
    loops: tuple[ReportedLoop, ...]
    loop_nesting: int
    depth: int
    refused: tuple[ReportedItem, ...]
    uncounted: int
    advice: tuple[str, ...]

    @override
    def __str__(self) -> str:
        return _text.table(self)

    def to_json(self) -> str:
        """The report as one JSON document."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)

    def to_html(self) -> str:
        """The report as a page of its own, without scripts or links."""
        return _html.page(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return _html.fragment(self)


# The name users know it by.
ProgramReport.__module__ = "safejax"


def plain(value: Any) -> Any:
    """A dimension as a number, or as the text of its name."""
    return value if isinstance(value, int) else str(value)
