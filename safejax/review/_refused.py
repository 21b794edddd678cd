"""What in a program is not admitted, where it stands and who wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from safejax import _jax
from safejax.guard._policy import Decision, Policy
from safejax.review import _sources
from safejax.review._admitted import ADMITTED, is_admitted, verdict_on
from safejax.review._sources import NOWHERE, Source
from safejax.review._walk import Nest, Walk, path_to

# How much of a long path is shown at each end.
_ENDS = 3
KEY_TYPE = "random key type"
# What is no primitive, and admitted by these names.
_METADATA = "xla_metadata"
_REFERENCE = "captured reference"
_ATTRIBUTE = "composite attribute"


class Refused(NamedTuple):
    """Something in a program that is not admitted without a word.

    Attributes:
        name: The primitive, the class of an effect, or what else it is.
        verdict: ``"disallow"``, or ``"log"`` where a policy admits and tells.
        path: The primitives around it, as in ``scan > cond > pure_callback``.
        depth: How many there are around it.
        source: The line that it comes from.
    """

    name: str
    verdict: Decision
    path: str
    depth: int
    source: Source

    def as_data(self) -> dict[str, Any]:
        """The same for a machine to read."""
        return {
            "primitive": self.name,
            "path": self.path,
            "depth": self.depth,
            "file": self.source.file,
            "line": self.source.line,
        }


def refused_in(found: Walk, policies: Sequence[Policy]) -> list[Refused]:
    """All that the policies, taken together, don't admit without a word."""
    items = []
    for name, shown, nest, equation in _strange(found):
        verdict = verdict_on(name, policies)
        if verdict != "allow":
            items.append(_placed(found, name, shown, nest, equation, verdict))
    others = _strange_effects(found)
    if any(map(_has_strange_keys, found.nests)):
        others.append(KEY_TYPE)
    # Whoever holds it reads what the program writes there: an output that is not
    # among the results.
    if any(_jax.is_reference(constant.atom) for constant in found.constants):
        others.append(_REFERENCE)
    for name in others:
        verdict = verdict_on(name, policies)
        if verdict != "allow":
            items.append(Refused(name, verdict, name, 0, NOWHERE))
    return sorted(items, key=lambda item: (item.verdict, item.name, item.path))


def _strange(found: Walk) -> Iterator[tuple[str, str, Nest, Any]]:
    """What is not admitted: its name, what to show, and one place of it."""
    seen: set[Any] = set()
    for nest in reversed(found.nests):
        strange = {p for p in nest.primitives - seen if not is_admitted(p)}
        seen |= nest.primitives
        for primitive in strange:
            name = primitive.name
            shown = f"{name} (not JAX's own)" if name in ADMITTED else name
            equations = nest.jaxpr.eqns
            yield (
                name,
                shown,
                nest,
                next(e for e in equations if e.primitive is primitive),
            )
    yield from _first(found, _METADATA, _has_metadata, _jax.metadata_of)
    yield from _first(found, _ATTRIBUTE, _has_composite, _has_strange_attributes)


def _first(
    found: Walk,
    name: str,
    concerns: Callable[[Nest], bool],
    is_it: Callable[[Any], bool],
) -> Iterator[tuple[str, str, Nest, Any]]:
    for nest in filter(concerns, reversed(found.nests)):
        for equation in filter(is_it, nest.jaxpr.eqns):
            yield name, f"{equation.primitive.name} with {name}", nest, equation
            return


def _has_metadata(nest: Nest) -> bool:
    # A context is shared by all equations that were made in it.
    contexts = {id(e.ctx): e for e in nest.jaxpr.eqns}
    return any(map(_jax.metadata_of, contexts.values()))


def _has_composite(nest: Nest) -> bool:
    return any(primitive.name == "composite" for primitive in nest.primitives)


def _has_strange_attributes(equation: Any) -> bool:
    if equation.primitive.name != "composite":
        return False
    try:
        return _jax.attributes_of(equation)[1]
    except (TypeError, ValueError, AttributeError):
        return True  # not the primitive of JAX, whatever its name is


def _strange_effects(found: Walk) -> list[str]:
    kinds = {type(effect) for effect in found.root.jaxpr.effects}
    return [kind.__name__ for kind in kinds if not _jax.is_own_class(kind)]


def _has_strange_keys(nest: Nest) -> bool:
    # A key type brings functions that JAX traces when it lowers: nothing of them can
    # be seen in the traced program.
    jaxpr = nest.jaxpr
    if _jax.has_foreign_keys((*jaxpr.invars, *jaxpr.constvars)):
        return True
    names = {primitive.name for primitive in nest.primitives}
    if not any(n.startswith("random_") or n.endswith("_edtype") for n in names):
        return False
    return any(
        _jax.has_foreign_keys(equation.outvars, equation.params.get("impl"))
        for equation in jaxpr.eqns
    )


def _placed(
    found: Walk, name: str, shown: str, nest: Nest, equation: Any, verdict: Decision
) -> Refused:
    path = path_to(found, nest, equation)
    names = _shortened(tuple(e.primitive.name for e in path[:-1]))
    return Refused(
        name=name,
        verdict=verdict,
        path=" > ".join((*names, shown)),
        depth=len(path) - 1,
        source=_sources.source_of_first(reversed(path)),
    )


def _shortened(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) <= 2 * _ENDS + 1:
        return names
    left_out = len(names) - 2 * _ENDS
    return (*names[:_ENDS], f"({left_out} more)", *names[-_ENDS:])
