"""A contract as given becomes one tree of specs per parameter, at decoration."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

from safejax.contract import _annotations, _spec
from safejax.contract._dims import Constraint, DimError, Expr, parse_constraint
from safejax.contract._spec import Spec
from safejax.errors import ContractError

OnDtype = Literal["error", "cast"]
Bounds = Mapping[str, tuple[int, int]]
Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """What a function accepts.

    Attributes:
        function: Name of the function, for messages.
        signature: Its Python signature.
        trees: For each contracted parameter a pytree prefix of ``Spec`` and ``None``.
        statics: Names of all static parameters.
        constraints: What the named dimensions must satisfy together.
        on_dtype: What happens to a dtype that a spec does not settle itself.
    """

    function: str
    signature: inspect.Signature
    trees: Mapping[str, Any]
    statics: frozenset[str]
    constraints: tuple[Constraint, ...]
    on_dtype: OnDtype

    @property
    def clips(self) -> dict[str, Any]:
        """The trees that ask for values to be clipped inside the program."""
        return self._with_rules("clip")

    @property
    def ruled(self) -> dict[str, Any]:
        """The trees with a value rule that refuses."""
        return self._with_rules("raise")

    def _with_rules(self, on_violation: str) -> dict[str, Any]:
        return {
            name: tree
            for name, tree in self.trees.items()
            if name not in self.statics
            and any(
                spec is not None
                and spec.has_value_rules
                and spec.on_violation == on_violation
                for _, spec in leaves_of(tree)
            )
        }


def is_leaf(node: Any) -> bool:
    """Whether a node of a contract tree is a leaf; ``None`` is one: unchecked."""
    return node is None or isinstance(node, (Spec, jax.ShapeDtypeStruct))


def leaves_of(tree: Any) -> list[tuple[Path, Spec | None]]:
    """The leaves of a contract tree with their paths."""
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]


def malformed(function: str, what: str, hint: str = "") -> ContractError:
    """The error of a contract that can't be understood."""
    return ContractError(
        f"{function}() has a malformed contract: {what}",
        code="SJ102",
        details={"function": function},
        hint=hint,
    )


def build(
    fun: Callable[..., Any],
    given: Any,
    *,
    function: str,
    dims: Bounds | None,
    on_dtype: OnDtype,
    static_names: Sequence[str],
    constraints_of: Callable[[object], Sequence[str]],
) -> Contract:
    """Understands a contract, or says which parameter it got wrong.

    Raises:
        ContractError: ``SJ102``: the contract is malformed, names a parameter that the
            function does not have, or has a dimension that no call could determine.
    """
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError) as error:
        raise malformed(
            function,
            "the function does not tell its parameters",
            "wrap it in a Python function with named parameters",
        ) from error
    if on_dtype not in ("error", "cast"):
        raise malformed(
            function, f"on_dtype must be 'error' or 'cast', got {on_dtype!r}"
        )
    named = _by_name(fun, given, function, signature)
    trees = {
        name: _specs(tree, function, name, constraints_of)
        for name, tree in named.items()
    }
    specs = [spec for tree in trees.values() for _, spec in leaves_of(tree) if spec]
    constraints = (
        *dict.fromkeys(c for spec in specs for c in spec.constraints),
        *_bounds(function, dims, specs),
    )
    _check_determined(function, specs, constraints)
    statics = frozenset(static_names)
    _check_statics(function, trees, statics)
    return Contract(
        function=function,
        signature=signature,
        trees=trees,
        statics=statics,
        constraints=constraints,
        on_dtype=on_dtype,
    )


def _by_name(
    fun: Callable[..., Any], given: Any, function: str, signature: inspect.Signature
) -> dict[str, Any]:
    parameters = signature.parameters
    if given == "annotations":
        return _annotations.from_annotations(fun)
    if isinstance(given, tuple):
        positional = [
            p.name
            for p in parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if len(given) > len(positional):
            raise malformed(
                function,
                f"{len(given)} entries for {len(positional)} positional parameters",
            )
        return dict(zip(positional, given, strict=False))
    if not isinstance(given, Mapping):
        raise malformed(
            function,
            f"contract= is of type {type(given).__name__}",
            "give a dict by parameter name, a tuple in positional order, "
            "or 'annotations'",
        )
    for name in given:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise malformed(
                function, f"it has no parameter {name!r}", f"its parameters: {known}"
            )
    return dict(given)


def _specs(
    tree: Any,
    function: str,
    parameter: str,
    constraints_of: Callable[[object], Sequence[str]],
) -> Any:
    def to_spec(path: Path, leaf: Any) -> Spec | None:
        if leaf is None or isinstance(leaf, Spec):
            return leaf
        where = parameter + jax.tree_util.keystr(path)
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            raise malformed(
                function,
                f"{where} is of type {type(leaf).__name__}",
                "give jax.ShapeDtypeStruct, safejax.spec(...) or None for unchecked",
            )
        try:
            return _spec.spec_from_struct(leaf, constraints_of=constraints_of)
        except (ContractError, DimError) as error:
            text = error.message if isinstance(error, ContractError) else str(error)
            raise malformed(function, f"{where}: {text}") from error

    return jax.tree_util.tree_map_with_path(to_spec, tree, is_leaf=is_leaf)


def _bounds(
    function: str, dims: Bounds | None, specs: Sequence[Spec]
) -> list[Constraint]:
    names = frozenset().union(*(axis_names(spec) for spec in specs))
    found = []
    for name, bounds in (dims or {}).items():
        if name not in names:
            raise malformed(function, f"dims names {name!r}, which no leaf uses")
        match bounds:
            case (int(low), int(high)) if 0 <= low <= high:
                found.append(parse_constraint(f"{low} <= {name} <= {high}"))
            case _:
                raise malformed(
                    function,
                    f"dims[{name!r}] must be (smallest, largest)",
                    f"for example dims={{{name!r}: (1, 64)}}",
                )
    return found


def axis_names(spec: Spec) -> frozenset[str]:
    """The names of dimensions a spec mentions in its axes."""
    axes = spec.axes or ()
    return frozenset().union(*(getattr(axis, "names", ()) for axis in axes))


def _check_determined(
    function: str, specs: Sequence[Spec], constraints: Sequence[Constraint]
) -> None:
    """Every name must follow from the sizes of a call, or nothing checks it."""
    axes = [a for spec in specs for a in spec.axes or () if isinstance(a, Expr)]
    known = {axis.is_name for axis in axes if axis.is_name}
    progress = True
    while progress:
        progress = False
        for axis in axes:
            open_names = axis.names - known
            if len(open_names) == 1 and _solvable(axis, next(iter(open_names))):
                known |= open_names
                progress = True
    wanted = frozenset().union(
        *(axis.names for axis in axes), *(c.names for c in constraints)
    )
    if wanted - known:
        name = min(wanted - known)
        raise malformed(
            function,
            f"dimension {name!r} can't be determined from the sizes of a call",
            f"let one axis be {name!r} alone",
        )


def _solvable(axis: Expr, name: str) -> bool:
    env = dict.fromkeys(axis.names - {name}, 3)
    try:
        return axis.solve(axis.evaluate({**env, name: 7}), env) == (name, 7)
    except DimError:
        return False


def _check_statics(
    function: str, trees: Mapping[str, Any], statics: frozenset[str]
) -> None:
    for name, tree in trees.items():
        if name not in statics or tree is None:
            continue
        if not isinstance(tree, Spec) or tree.axes is not None or tree.dtypes:
            raise malformed(
                function,
                f"{name} is static but is given the spec of an array",
                f"use {{{name!r}: safejax.spec(one_of=(...))}}",
            )
