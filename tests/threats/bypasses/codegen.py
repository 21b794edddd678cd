"""T13: code made from text, or put in the place of other code."""

from __future__ import annotations

import ast
import code
import ctypes
import dataclasses
import importlib
import importlib.machinery
import runpy
import sys
import timeit
import types
import typing
from collections.abc import Callable
from typing import Any

import jax
from threats.bypasses._kit import Trial, bypass, outside

FOUND = "found.append('ran')"


def running(trial: Trial, act: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """A model that runs text with a namespace in which evidence can be left."""

    def model(x: Any) -> Any:
        act({"found": trial.evidence})
        return x + 1

    return model


@bypass("T13", "guard")
def exec_of_text(trial: Trial) -> Callable[..., Any]:
    """`exec(text)`."""
    return running(trial, lambda names: exec(FOUND, names))


@bypass("T13", "guard")
def eval_of_text(trial: Trial) -> Callable[..., Any]:
    """`eval(text)`, through `map`."""
    return running(trial, lambda names: list(map(eval, [FOUND], [names])))


@bypass("T13", "guard")
def exec_of_code_made_before(trial: Trial) -> Callable[..., Any]:
    """`exec` of a code object: nothing is compiled in the scope."""
    made = compile(FOUND, "<before>", "exec")
    return running(trial, lambda names: exec(made, names))


@bypass("T13", "guard")
def syntax_tree(trial: Trial) -> Callable[..., Any]:
    """`compile` of a tree of `ast`: there is no text."""
    tree = ast.parse(FOUND, mode="exec")
    return running(trial, lambda names: exec(compile(tree, "t", "exec"), names))


@bypass("T13", "guard")
def function_of_code(trial: Trial) -> Callable[..., Any]:
    """`types.FunctionType(code, names)()`."""
    made = compile(FOUND, "<before>", "exec")
    return running(trial, lambda names: types.FunctionType(made, names)())


@bypass("T13", "guard")
def function_type_by_type(trial: Trial) -> Callable[..., Any]:
    """The same by `type(f)(code, names)`: no name of `types` is used."""
    made = compile(FOUND, "<before>", "exec")
    return running(trial, lambda names: type(running)(made, names)())


@bypass("T13", "guard")
def code_replaced(trial: Trial) -> Callable[..., Any]:
    """`f.__code__ = g.__code__`: a harmless function becomes another."""

    def harmless(found: Any) -> Any:
        return found

    def other(found: Any) -> Any:
        found.append("ran")

    def act(names: dict[str, Any]) -> None:
        harmless.__code__ = other.__code__
        harmless(names["found"])

    return running(trial, act)


@bypass("T13", "guard")
def constants_of_code_replaced(trial: Trial) -> Callable[..., Any]:
    """`code.replace(co_consts=...)` changes what a known function does."""

    def other(found: Any) -> Any:
        found.append("harmless")

    def act(names: dict[str, Any]) -> None:
        made = other.__code__.replace(co_consts=(None, "ran"))
        other.__code__ = made
        other(names["found"])

    return running(trial, act)


@bypass("T13", "guard")
def interactive_interpreter(trial: Trial) -> Callable[..., Any]:
    """`code.InteractiveInterpreter().runsource(text)`."""
    return running(
        trial, lambda names: code.InteractiveInterpreter(names).runsource(FOUND)
    )


@bypass("T13", "guard")
def timed_text(trial: Trial) -> Callable[..., Any]:
    """`timeit.timeit(text)`: a library that runs text for its caller."""
    return running(trial, lambda names: timeit.timeit(FOUND, number=1, globals=names))


@bypass("T13", "guard")
def annotation_as_text(trial: Trial) -> Callable[..., Any]:
    """`typing.get_type_hints` evaluates the text of an annotation."""

    def annotated(x):  # type: ignore[no-untyped-def]
        return x

    annotated.__annotations__ = {"x": f"{FOUND} or int"}
    return running(
        trial, lambda names: typing.get_type_hints(annotated, globalns=names)
    )


@bypass("T13", "guard")
def generated_class(trial: Trial) -> Callable[..., Any]:
    """`dataclasses.make_dataclass` writes its methods as text and runs it."""

    def act(names: dict[str, Any]) -> None:
        made = dataclasses.make_dataclass("Made", ["x"])
        names["found"].append(made(1))

    return running(trial, act)


@bypass("T13", "guard")
def run_path(trial: Trial) -> Callable[..., Any]:
    """`runpy.run_path` of a file that lies there."""
    path = outside(trial) / "ready.py"
    path.write_text(FOUND, encoding="utf-8")
    found: list[str] = []
    trial.afterwards(lambda: found)

    def model(x: Any) -> Any:
        runpy.run_path(str(path), {"found": found})
        return x

    return model


@bypass("T13", "guard")
def import_of_a_file(trial: Trial) -> Callable[..., Any]:
    """`import` of a module that lies in a folder of the path: its text runs."""
    name = "threats_bypass_imported"
    folder = outside(trial)
    text = f"import os; os.mkdir({str(trial.folder / 'made')!r})"
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    trial.undo(sys.modules.pop, name, None)
    sys.path.insert(0, str(folder))
    trial.undo(sys.path.remove, str(folder))

    def model(x: Any) -> Any:
        __import__(name)
        return x

    return model


@bypass("T13", "guard")
def import_of_a_file_with_a_name_of_python(trial: Trial) -> Callable[..., Any]:
    """The same with the name of a module of Python's own library that nobody has
    loaded."""
    name = "turtledemo"
    folder = outside(trial)
    (folder / f"{name}.py").write_text("ran = True", encoding="utf-8")
    before = sys.modules.pop(name, None)
    trial.undo(lambda: before and sys.modules.__setitem__(name, before))
    trial.undo(sys.modules.pop, name, None)
    sys.path.insert(0, str(folder))
    trial.undo(sys.path.remove, str(folder))

    def model(x: Any) -> Any:
        trial.saw(importlib.import_module(name).ran)
        return x

    return model


@bypass("T13", "guard")
def import_of_a_file_in_the_path_of_jax(trial: Trial) -> Callable[..., Any]:
    """The same in a folder that was added to the path of the package `jax`."""
    folder = outside(trial)
    (folder / "threats_inside.py").write_text("ran = True", encoding="utf-8")
    trial.undo(sys.modules.pop, "jax.threats_inside", None)
    trial.undo(lambda: vars(jax).pop("threats_inside", None))
    jax.__path__.append(str(folder))
    trial.undo(jax.__path__.remove, str(folder))

    def model(x: Any) -> Any:
        trial.saw(importlib.import_module("jax.threats_inside").ran)
        return x

    return model


@bypass("T13", "guard")
def module_loaded_by_its_loader(trial: Trial) -> Callable[..., Any]:
    """`SourceFileLoader(name, path).load_module()`: no import takes place."""
    path = outside(trial) / "ready.py"
    path.write_text("ran = True", encoding="utf-8")
    loader = importlib.machinery.SourceFileLoader("threats_ready", str(path))
    made = types.ModuleType("threats_ready")

    def model(x: Any) -> Any:
        loader.exec_module(made)
        trial.saw(made.ran)
        return x

    return model


@bypass("T13", "guard")
def foreign_function_interface_of_python(trial: Trial) -> Callable[..., Any]:
    """`ctypes.pythonapi.PyRun_SimpleString`: Python's own C function runs text."""

    def act(names: dict[str, Any]) -> None:
        sys.modules["__main__"].threats_found = names["found"]  # type: ignore[attr-defined]
        run = ctypes.pythonapi["PyRun_SimpleString"]
        run(b"threats_found.append('ran')")

    trial.undo(lambda: vars(sys.modules["__main__"]).pop("threats_found", None))
    return running(trial, act)


@bypass("T13", "guard")
def classes_of_object(trial: Trial) -> Callable[..., Any]:
    """`object.__subclasses__()` leads to a module's globals, and those to `exec`."""

    def act(names: dict[str, Any]) -> None:
        for cls in ().__class__.__base__.__subclasses__():  # type: ignore[union-attr]
            if cls.__name__ == "_wrap_close":
                builtins = cls.__init__.__globals__["__builtins__"]
                builtins["exec"](FOUND, names)

    return running(trial, act)
