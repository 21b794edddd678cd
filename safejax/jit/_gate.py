"""The check in front of a function with a contract.

The check is a function written out for this contract, as ``dataclasses`` writes its
methods: measured 1.05 of a plain ``jax.jit`` call for one array, where a generic key
over all arguments costs 1.26. Only parameter names enter its text, and those are
identifiers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from typing_extensions import override

from safejax import _jax
from safejax.compile._events import emit
from safejax.compile._ledger import Ledger
from safejax.compile._tenant import current_tenant
from safejax.contract import _check, _report, _statics, _tokens, _values
from safejax.contract._contract import Contract
from safejax.contract._spec import Spec
from safejax.contract._tokens import ABSENT
from safejax.errors import ContractError

# Admitted combinations of tokens; calls under transformations add some without
# making programs, so the set needs a bound of its own.
_MAX_ADMITTED = 4096

_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_Kind = inspect.Parameter
_ARRAYS = (_jax.ArrayImpl, np.ndarray)


class Admitted(set[Hashable]):
    """Tokens of admitted calls. They mean nothing in another process."""

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return (Admitted, ())


class Gate:
    """Decides on calls whose tokens have not been admitted before."""

    def __init__(
        self,
        contract: Contract,
        call: Callable[..., Any],
        ledger: Ledger,
        statics: tuple[tuple[int, ...], tuple[str, ...]],
        *,
        asks_ledger: bool = True,
    ) -> None:
        self._contract = self.contract = contract
        self._asks_ledger = asks_ledger
        self._call = call
        self._ledger = ledger
        self._statics = statics
        self._parameters = list(contract.signature.parameters.values())
        self._names = [p.name for p in self._parameters]
        self._ruled = list(contract.ruled)
        self.admitted = Admitted()
        self.trees: dict[str, _tokens.TreeTokens] = {}
        self.violations = 0

    def decide(self, *values: Any) -> Any:
        """Holds a call against everything, then serves or refuses it.

        Args:
            *values: One value for each parameter, ``ABSENT`` where none was given.

        Raises:
            ContractError: The call breaks the contract; all violations are listed.
            CompileLimitError: It would need a new program and the limit is reached.
        """
        arguments = self._given(values)
        checked = self.examine(arguments)
        if checked.casts:
            arguments = _values.cast(arguments, checked.casts)
        args, kwargs = self.forwarded(arguments)
        if self._asks_ledger and _jax.at_top_level():
            key = _jax.signature(args, kwargs, *self._statics)
            if key is not None:
                self._ledger.refuse_if_full(key)
        # From the host: what is refused here must not have made a program.
        self._check_values(arguments, on_host=True)
        # Made before the call, which may consume donated arguments.
        token = None if checked.casts else self._token(values)
        result = self._call(*args, **kwargs)
        if token is not None:
            if len(self.admitted) >= _MAX_ADMITTED:
                self.admitted.clear()
            self.admitted.add(token)
        return result

    def examine(self, arguments: dict[str, Any]) -> _check.Checked:
        """Refuses arguments, or the specs of arguments, that break the contract.

        Raises:
            ContractError: All violations of shape, dtype, structure and statics.
        """
        checked = _check.check(self._contract, arguments)
        faults = checked.faults + _statics.faults(
            self._contract, arguments, self._ledger.limits.max_static_bytes
        )
        if faults:
            # All violations of a call come at once, those of sound leaves too.
            broken = {(fault.parameter, fault.path) for fault in faults}
            sound = [i for i in checked.items if (i.parameter, i.path) not in broken]
            raise self._refused(faults + _values.faults(sound), checked)
        return checked

    def examined(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method such as ``lower`` behind the same contract."""

        @functools.wraps(method)
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = self._contract.signature.bind(*args, **kwargs)
                self.examine(dict(bound.arguments))
                return method(*args, **kwargs)
            except BaseException as error:
                _jax.without_own_frames(error)
                raise

        return checked

    def check_values(self, *values: Any) -> None:
        """Refuses a call of a known signature whose elements break a value rule.

        Raises:
            ContractError: With the number of elements, never the elements.
        """
        self._check_values(self._given(values), on_host=False)

    def _given(self, values: tuple[Any, ...]) -> dict[str, Any]:
        pairs = zip(self._names, values, strict=True)
        return {name: value for name, value in pairs if value is not ABSENT}

    def _check_values(self, arguments: dict[str, Any], *, on_host: bool) -> None:
        ruled = {n: arguments[n] for n in self._ruled if n in arguments}
        if not ruled or self._values_hold(ruled, on_host=on_host):
            return
        checked = _check.matched(self._contract, ruled)
        faults = _values.faults(checked.items)
        if faults:
            raise self._refused(faults, checked)

    def _values_hold(self, ruled: dict[str, Any], *, on_host: bool) -> bool:
        items = []
        for name, value in ruled.items():
            tree = self._contract.trees[name]
            if isinstance(tree, Spec) and value.__class__ in _ARRAYS:
                items.append((tree, value))
            else:
                matched = _check.matched(self._contract, {name: value}).items
                items += [(item.spec, item.leaf) for item in matched]
        return _values.hold(items, on_host=on_host)

    def _refused(
        self, faults: list[_check.Fault], checked: _check.Checked
    ) -> ContractError:
        self.violations += 1
        faults = sorted(faults, key=lambda fault: self._names.index(fault.parameter))
        error = _report.refusal(self._contract.function, faults, checked.sizes)
        emit("refused", self._ledger.name, tenant=current_tenant(), code=error.code)
        return error

    def forwarded(
        self, arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments by name as a call passes them on: by position where it can."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_name = False
        for p in self._parameters:
            if p.name not in arguments:
                by_name = True
            elif p.kind is _Kind.VAR_POSITIONAL:
                args += arguments[p.name]
            elif p.kind is _Kind.VAR_KEYWORD:
                kwargs.update(arguments[p.name])
            elif p.kind is _Kind.KEYWORD_ONLY or by_name:
                kwargs[p.name] = arguments[p.name]
            else:
                args.append(arguments[p.name])
        return tuple(args), kwargs

    def _token(self, values: tuple[Any, ...]) -> Hashable | None:
        parts = []
        for p, value in zip(self._parameters, values, strict=True):
            how = _how(self._contract, p)
            if how == "static":
                parts.append(_tokens.static_token(value))
            elif how is not None:
                parts.append(self.trees[p.name].learn(value))
        if None in parts:
            return None
        return parts[0] if len(parts) == 1 else tuple(parts)


def _how(contract: Contract, parameter: inspect.Parameter) -> str | None:
    """How the written-out check reads one parameter; ``None``: not at all."""
    name = parameter.name
    if name in contract.statics:
        return "static"
    tree = contract.trees.get(name)
    if tree is None:
        return None
    if parameter.kind in (_Kind.VAR_POSITIONAL, _Kind.VAR_KEYWORD):
        return "tree"
    return "array" if isinstance(tree, Spec) and tree.sharding is None else "tree"


def write(gate: Gate, contract: Contract, call: Callable[..., Any]) -> Any:
    """The function users call: the check written out, then ``call``."""
    parameters = list(contract.signature.parameters.values())
    namespace: dict[str, Any] = {
        "_sj_absent": ABSENT,
        "_sj_admitted": gate.admitted,
        "_sj_array_type": _jax.ArrayImpl,
        "_sj_call": call,
        "_sj_decide": gate.decide,
        "_sj_hide": _jax.without_own_frames,
        "_sj_ndarray": np.ndarray,
        "_sj_static": _tokens.static_token,
        "_sj_values": gate.check_values,
    }
    body: list[str] = []
    tokens: list[str] = []
    for index, parameter in enumerate(parameters):
        how = _how(contract, parameter)
        if how is None:
            continue
        token = f"_sj_{index}"
        tokens.append(token)
        if how == "static":
            body.append(f"{token} = _sj_static({parameter.name})")
            continue
        tree = contract.trees[parameter.name]
        namespace[f"_sj_tree{token}"] = gate.trees[parameter.name] = _tokens.TreeTokens(
            tree
        )
        body += _token_lines(parameter.name, token, inline=how == "array")
    values = _value_lines(parameters, contract, namespace)
    source = _source(parameters, body, tokens, values)
    code = compile(source, f"{_jax.GENERATED} {contract.function}>", "exec")
    exec(code, namespace)  # noqa: S102  the text above is ours; names are identifiers
    # Popped: a function among its own globals would outlive its last user.
    return namespace.pop("_sj_gate")


def _token_lines(name: str, token: str, *, inline: bool) -> list[str]:
    other = f"{token} = _sj_tree{token}({name})"
    if not inline:
        return [other]
    return [
        f"_sj_class = {name}.__class__",
        f"if _sj_class is _sj_array_type: {token} = {name}.aval",
        f"elif _sj_class is _sj_ndarray: {token} = ({name}.shape, {name}.dtype)",
        f"else: {other}",
    ]


def _value_lines(
    parameters: list[inspect.Parameter], contract: Contract, namespace: dict[str, Any]
) -> list[str]:
    """The check of values, which a shorter one may settle; nothing without rules."""
    call = f"_sj_values({', '.join(p.name for p in parameters)})"
    conditions: list[str] = []
    for name, tree in contract.ruled.items():
        settled = _values.settled_by(tree)
        if settled is None:
            return [call]
        known = f"_sj_{len(conditions)}_"
        namespace |= {f"{known}{k}": v for k, v in settled._asdict().items()}
        conditions.append(short_check(name, known))
    return [f"if not ({' and '.join(conditions)}): {call}"] if conditions else []


def short_check(name: str, known: str) -> str:
    """What settles a small array, as an expression of it and the fields of `Settled`.

    Half the time of ``min()`` and ``max()``, which go through ufuncs. A NaN is the
    least and the greatest of all to both.
    """
    return (
        f"{name}.__class__ is _sj_ndarray and {name}.dtype is {known}dtype"
        f" and 0 < {name}.size <= {known}most_elements"
        f" and {name}.item({name}.argmin()) >= {known}low"
        f" and {name}.item({name}.argmax()) <= {known}high"
    )


def _source(
    parameters: list[inspect.Parameter],
    body: list[str],
    tokens: list[str],
    values: list[str],
) -> str:
    names = ", ".join(p.name for p in parameters)
    token = tokens[0] if len(tokens) == 1 else f"({', '.join(tokens)})"
    admitted = [*values, *_forwarding(parameters)]
    lines = [
        f"def _sj_gate({_signature(parameters)}):",
        "  try:",
        *(f"    {line}" for line in body),
        f"    if {token} in _sj_admitted:",
        *(f"      {line}" for line in admitted),
        f"    return _sj_decide({names})",
        "  except BaseException as _sj_error:",
        "    _sj_hide(_sj_error)",
        "    raise",
    ]
    return "\n".join(lines)


def _signature(parameters: list[inspect.Parameter]) -> str:
    bare = [
        p.replace(
            annotation=_Kind.empty,
            default=_Kind.empty if p.default is _Kind.empty else _Default(),
        )
        for p in parameters
    ]
    return str(inspect.Signature(bare))[1:-1]


class _Default:
    """Stands for a default in the text of a signature."""

    @override
    def __repr__(self) -> str:
        return "_sj_absent"


def _forwarding(parameters: list[inspect.Parameter]) -> list[str]:
    """The calls of the fast path; what matches none of them takes the slow one."""
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    others = [p for p in parameters if p.kind not in _POSITIONAL]
    lines = []
    required = [p for p in positional if p.default is _Kind.empty]
    for count in range(len(positional), len(required) - 1, -1):
        conditions = []
        if count > len(required):
            conditions.append(f"{positional[count - 1].name} is not _sj_absent")
        if count < len(positional):
            conditions += [f"{p.name} is _sj_absent" for p in positional[count:]]
        before = positional[len(required) : max(len(required), count - 1)]
        conditions += [f"{p.name} is not _sj_absent" for p in before]
        args = [p.name for p in positional[:count]]
        for keywords, more in _keyword_forms(others):
            call = f"return _sj_call({', '.join([*args, *keywords])})"
            tests = [*conditions, *more]
            lines.append(f"if {' and '.join(tests)}: {call}" if tests else call)
    return lines


def _keyword_forms(
    others: list[inspect.Parameter],
) -> list[tuple[list[str], list[str]]]:
    """Ways in which the parameters that are not positional are passed on."""
    variadic = [
        f"*{p.name}" if p.kind is _Kind.VAR_POSITIONAL else f"**{p.name}"
        for p in others
        if p.kind is not _Kind.KEYWORD_ONLY
    ]
    only = [p for p in others if p.kind is _Kind.KEYWORD_ONLY]
    optional = [p for p in only if p.default is not _Kind.empty]
    required = [p for p in only if p.default is _Kind.empty]
    star = [v for v in variadic if not v.startswith("**")]
    double = [v for v in variadic if v.startswith("**")]

    def form(given: list[inspect.Parameter]) -> list[str]:
        return [*star, *(f"{p.name}={p.name}" for p in given), *double]

    absent = [f"{p.name} is _sj_absent" for p in optional]
    present = [f"{p.name} is not _sj_absent" for p in optional]
    forms = [(form(required), absent)]
    if optional:
        forms.append((form([*required, *optional]), present))
    return forms
