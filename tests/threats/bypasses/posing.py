"""T22: callers and arguments that are not what they look like."""

from __future__ import annotations

import contextlib
import io
import logging
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from threats.bypasses._kit import Trial, bypass
from threats.bypasses.tampering import Model

from safejax.guard import _callers

READ = "def read(api, f):\n    return str(api(f)(1.0))\n"


def reading_by(trial: Trial, read: Callable[..., Any]) -> Model:
    """A model that reads a program with a function that was made before."""

    def model(x: Any) -> Any:
        trial.saw(read(jax.make_jaxpr, jnp.sin))
        return x

    return model


@bypass("T22", "guard")
def caller_with_a_name_of_jax(trial: Trial) -> Model:
    """A function whose globals say `__name__ = "jax._src.api"`."""
    names: dict[str, Any] = {"__name__": "jax._src.api"}
    exec(READ, names)
    return reading_by(trial, names["read"])


@bypass("T22", "guard")
def caller_with_a_file_of_jax(trial: Trial) -> Model:
    """A function that was compiled with the name of a file of JAX."""
    names: dict[str, Any] = {"__name__": "jax._src.api"}
    exec(compile(READ, jax._src.api.__file__, "exec"), names)
    return reading_by(trial, names["read"])


@bypass("T22", "guard")
def caller_with_a_file_of_safejax(trial: Trial) -> Model:
    """A function that was compiled with the name of a file of safejax."""
    names: dict[str, Any] = {"__name__": "safejax.guard._callers"}
    exec(compile(READ, _callers.__file__, "exec"), names)
    return reading_by(trial, names["read"])


@bypass("T22", "guard")
def caller_with_a_lying_name(trial: Trial) -> Model:
    """Globals whose `__name__` is a `str` with a `startswith` that always agrees."""

    class Sly(str):
        __slots__ = ()

        def startswith(self, *_: Any) -> bool:
            trial.evidence.append("asked")
            return True

    names: dict[str, Any] = {"__name__": Sly("threats")}
    exec(READ, names)
    return reading_by(trial, names["read"])


@bypass("T22", "guard")
def function_in_globals_of_jax(trial: Trial) -> Model:
    """A function made with the globals of a module of JAX."""
    made = compile(READ, jax._src.api.__file__, "exec").co_consts[0]
    assert isinstance(made, types.CodeType)
    return reading_by(trial, types.FunctionType(made, vars(jax._src.api)))


@bypass("T22", "guard")
def function_patched_into_jax(trial: Trial) -> Model:
    """A function of JAX that mentions the API is called with another one of that
    name, from before the scope."""
    names = {"make_jaxpr": jax.make_jaxpr}
    exec("def make_jaxpr_of(f):\n    return str(make_jaxpr(f)(1.0))\n", names)
    read = names["make_jaxpr_of"]
    return reading_by(trial, lambda _, f: read(f))


@bypass("T22", "guard")
def caller_with_a_file_name_of_its_own(trial: Trial) -> Model:
    """A function whose file name is a `str` with methods of the attacker's: the guard
    runs them while it judges, when nobody judges the guard."""

    class Sly(str):
        __slots__ = ()

        def startswith(self, *_: Any) -> bool:
            trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
            return True

    names: dict[str, Any] = {"__name__": "threats"}
    exec(READ, names)
    read = names["read"]
    read.__code__ = read.__code__.replace(co_filename=Sly("threats.py"))
    return reading_by(trial, read)


@bypass("T22", "guard")
def path_with_methods_of_its_own(trial: Trial) -> Model:
    """The same with the path of a file that is opened."""

    class Sly(str):
        __slots__ = ()

        def endswith(self, *_: Any) -> bool:
            trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
            return True

    path = Sly(trial.folder.parent / "missing")

    def model(x: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            open(path, "rb").close()  # noqa: PTH123
        trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
        return x

    return model


@bypass("T22", "guard")
def argument_with_methods_of_its_own(trial: Trial) -> Model:
    """The same with an argument that the guard asks for its truth: it answers no, and
    then yes."""
    answers = iter([False])

    class Sly:
        def __bool__(self) -> bool:
            trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
            return next(answers, True)

    def model(x: Any) -> Any:
        np.load(io.BytesIO(b"none"), allow_pickle=Sly())  # type: ignore[arg-type]
        return x

    return suppressing(ValueError, model)


def suppressing(kind: type[Exception], model: Model) -> Model:
    """The model, which does not care about such an error."""

    def careless(x: Any) -> Any:
        with contextlib.suppress(kind):
            model(x)
        return x

    return careless


@bypass("T22", "guard, late", on_311="guard")
def filter_on_the_log_of_the_guard(trial: Trial) -> Model:
    """A filter on the logger `safejax.guard` runs while the guard tells of a refusal,
    when nobody judges the guard."""
    logger = logging.getLogger("safejax.guard")

    class Sly(logging.Filter):
        def filter(self, record: Any) -> bool:
            trial.saw(str(jax.make_jaxpr(jnp.sin)(1.0)))
            return False

    sly = Sly()
    level = logger.level

    def model(x: Any) -> Any:
        logger.addFilter(sly)
        trial.undo(logger.removeFilter, sly)
        logger.setLevel(logging.DEBUG)
        trial.undo(logger.setLevel, level)
        with contextlib.suppress(PermissionError):
            logger.debug("anything")
        return x

    return model


@bypass("T22", "guard")
def original_behind_a_stand_in(trial: Trial) -> Model:
    """On Python 3.11 the code of a watched function is replaced; the original is
    among the constants of the replacement."""

    def model(x: Any) -> Any:
        function: Any = jax.make_jaxpr.__wrapped__
        for constant in function.__code__.co_consts:
            function = getattr(constant, "_function", function)
        trial.saw(str(function(jnp.sin)(1.0)))
        return x

    return model


def copied(function: Any, code: types.CodeType) -> Any:
    """Another function with this code, and all else of the first."""
    other = types.FunctionType(code, function.__globals__)
    other.__defaults__ = function.__defaults__
    other.__kwdefaults__ = function.__kwdefaults__
    return other


# Made when this module is imported: before the first scope of the process.
INNERMOST = jax.make_jaxpr.__wrapped__
COPIED = copied(INNERMOST, INNERMOST.__code__)
CHANGED = copied(INNERMOST, INNERMOST.__code__.replace(co_name="other"))


@bypass("T22", "guard")
def function_copied_before(trial: Trial) -> Model:
    """`types.FunctionType(f.__code__, f.__globals__)` before the first scope: another
    function with the same code."""
    return reading_by(trial, lambda _, f: str(COPIED(f)(1.0)))


@bypass("T22", "guard")
def code_copied_before(trial: Trial) -> Model:
    """The same with a copy of the code, too."""
    return reading_by(trial, lambda _, f: str(CHANGED(f)(1.0)))
