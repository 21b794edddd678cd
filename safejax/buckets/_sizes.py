"""The sizes that named dimensions are padded to, and those they are tried with."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from safejax.contract._contract import Contract, axis_names, leaves_of, malformed
from safejax.contract._dims import Constraint, DimError, parse_constraint

Sizes = tuple[int, ...]

_MAX_SIZES = 64
_MAX_TRIES = 4096
# Odd first: a function that works on pairs or blocks of rows must meet a broken one.
_FEW = (3, 5, 7, 2, 1, 4, 6, *range(8, 65))


def powers_of_two(smallest: int, largest: int) -> tuple[int, ...]:
    """The powers of two from one to another, both included: sizes for ``buckets=``.

    Args:
        smallest: The first, a power of two.
        largest: The last, a power of two.

    Raises:
        ValueError: One is no power of two, or they are in the wrong order.

    Example:
        >>> import safejax
        >>> safejax.powers_of_two(16, 128)
        (16, 32, 64, 128)
    """
    for size in (smallest, largest):
        if not _is_size(size) or size & (size - 1):
            raise ValueError(f"powers_of_two() takes powers of two, got {size!r}")
    if smallest > largest:
        raise ValueError(f"powers_of_two() goes upwards, got {smallest} to {largest}")
    return tuple(1 << n for n in range(smallest.bit_length() - 1, largest.bit_length()))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclasses.dataclass(frozen=True, slots=True)
class Buckets:
    """The admitted sizes of the bucketed names.

    Attributes:
        names: The bucketed names.
        sizes: For each name its buckets, ascending.
        constraints: What the contract demands of these names alone.
    """

    names: tuple[str, ...]
    sizes: tuple[Sizes, ...]
    constraints: tuple[Constraint, ...]

    def bounding(self, contract: Contract) -> Contract:
        """The contract with the largest bucket of each name as a bound."""
        bounds = [
            parse_constraint(f"{name}<={sizes[-1]}")
            for name, sizes in zip(self.names, self.sizes, strict=True)
        ]
        constraints = (*contract.constraints, *bounds)
        return dataclasses.replace(contract, constraints=constraints)

    def holding(self, real: Sizes) -> Sizes:
        """The smallest buckets that hold these sizes, which the contract has let in."""
        return tuple(
            sizes[bisect.bisect_left(sizes, size)]
            for sizes, size in zip(self.sizes, real, strict=True)
        )

    def combinations(self) -> list[Sizes]:
        """Every bucket that a call could fall into, the smallest first."""
        every = sorted(itertools.product(*self.sizes), key=math.prod)
        return [bucket for bucket in every if self.fullest(bucket) is not None]

    def fewest(self, bucket: Sizes) -> Sizes | None:
        """A few real rows in a bucket, which do not fill it if possible."""
        ranges = [[*(n for n in _FEW if n < size), size] for size in bucket]
        return self._first_admitted(ranges)

    def variations(self, few: Sizes) -> list[Sizes]:
        """A few rows, then for each name the same with its largest bucket."""
        largest = [sizes[-1] for sizes in self.sizes]
        more = [(*few[:i], n, *few[i + 1 :]) for i, n in enumerate(largest)]
        return [few, *more]

    def fullest(self, bucket: Sizes) -> Sizes | None:
        """Real sizes that leave as little padding as possible, but some."""
        ranges = []
        for sizes, size in zip(self.sizes, bucket, strict=True):
            at = sizes.index(size)
            least = sizes[at - 1] + 1 if at else 1
            below = range(size - 1, max(least, size - _MAX_SIZES) - 1, -1)
            ranges.append([*below, *([least] if least < size else []), size])
        return self._first_admitted(ranges)

    def _first_admitted(self, ranges: Iterable[Sequence[int]]) -> Sizes | None:
        tries = itertools.islice(itertools.product(*ranges), _MAX_TRIES)
        return next(filter(self._is_admitted, tries), None)

    def _is_admitted(self, sizes: Sizes) -> bool:
        env = dict(zip(self.names, sizes, strict=True))
        try:
            return all(constraint.holds(env) for constraint in self.constraints)
        except DimError:
            return False


def read_buckets(
    contract: Contract, given: Mapping[str, Iterable[int]], max_compiles: int | None
) -> Buckets:
    """Understands ``buckets=``, or says what is wrong with it.

    Raises:
        ContractError: ``SJ102``: a name is none of the contract's, a size is none, or
            there are more buckets than programs allowed.
    """
    function = contract.function
    if not isinstance(given, Mapping) or not given:  # type: ignore[redundant-expr]
        raise malformed(
            function,
            "buckets= takes a dict of sizes by the name of a dimension",
            'for example buckets={"b": (1, 8, 64)}',
        )
    used: frozenset[str] = frozenset().union(
        *(
            axis_names(spec)
            for name, tree in contract.trees.items()
            if name not in contract.statics
            for _, spec in leaves_of(tree)
            if spec is not None
        )
    )
    for name in given:
        if name not in used:
            raise malformed(function, f"buckets names {name!r}, which no leaf uses")
    names = tuple(given)
    sizes = tuple(_read_sizes(function, name, given[name]) for name in names)
    count = math.prod(map(len, sizes))
    if max_compiles is not None and count > max_compiles:
        raise malformed(
            function,
            f"its buckets make {count} programs, max_compiles={max_compiles}",
            "take fewer sizes, or raise Limits(max_compiles=...)",
        )
    within = frozenset(names)
    constraints = tuple(c for c in contract.constraints if c.names <= within)
    buckets = Buckets(names, sizes, constraints)
    if not buckets.combinations():
        raise malformed(
            function, "no size within its buckets satisfies its constraints"
        )
    return buckets


def _read_sizes(function: str, name: str, given: Iterable[int]) -> Sizes:
    try:
        sizes = tuple(itertools.islice(given, _MAX_SIZES + 1))
    except TypeError:
        sizes = ()
    ascending = all(map(_is_size, sizes)) and sorted(set(sizes)) == list(sizes)
    if not ascending or not 0 < len(sizes) <= _MAX_SIZES:
        raise malformed(
            function,
            f"buckets[{name!r}] must be ascending sizes of at least 1, "
            f"{_MAX_SIZES} at most",
            f"for example buckets={{{name!r}: (1, 8, 64)}}",
        )
    return sizes


# The name users know it by.
powers_of_two.__module__ = "safejax"
