"""Importing safejax changes nothing in JAX or in the process, and is quick.

Each check runs in a process of its own. The last tests import a module that does
what safejax must not, and expect the same check to notice it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Compares by identity what every loaded JAX module and class holds, and by value
# what the interpreter can be told to call; prints the names that changed.
SNAPSHOT = """
import atexit, importlib, logging, signal, sys, threading, types, warnings
import jax

def jax_modules():
    return {
        name: module for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("jax", "jaxlib") and module is not None
    }

KEEP = []   # what was seen stays alive, so that no id is used twice

def contents(modules):
    seen = {}
    for name, module in modules.items():
        for key, value in list(vars(module).items()):
            if key in ("__warningregistry__", "__annotations__"):
                continue
            KEEP.append(value)
            seen[f"{name}.{key}"] = id(value)
            if isinstance(value, type) and value.__module__.startswith("jax"):
                for inner, member in list(vars(value).items()):
                    KEEP.append(member)
                    seen[f"{name}.{key}.{inner}"] = id(member)
    return seen

def registries():
    from jax._src import monitoring, xla_bridge
    yield "jax.config", repr(sorted(jax.config.values.items(), key=lambda kv: kv[0]))
    for key, value in sorted(vars(monitoring).items()):
        if isinstance(value, (list, dict)):
            yield f"monitoring.{key}", repr(value)
    yield "backends", repr(sorted(xla_bridge._backends))
    for logger in ("", "jax", "jax._src", "safejax", "safejax.compile"):
        log = logging.getLogger(logger)
        handlers = [h for h in log.handlers if not isinstance(h, logging.NullHandler)]
        yield f"logging.{logger}", repr((handlers, log.filters, log.propagate))
        if not logger.startswith("safejax"):
            yield f"logging level {logger}", repr(log.level)
    yield "sys.settrace", repr(sys.gettrace())
    yield "sys.setprofile", repr(sys.getprofile())
    yield "threading.setprofile", repr(threading.getprofile())
    for name in ("meta_path", "path_hooks", "path", "excepthook", "displayhook",
                 "unraisablehook", "breakpointhook"):
        yield f"sys.{name}", repr(getattr(sys, name))
    yield "recursion limit", repr(sys.getrecursionlimit())
    yield "switch interval", repr(sys.getswitchinterval())
    yield "threads", repr(sorted(t.name for t in threading.enumerate()))
    yield "warnings", repr(warnings.filters)
    yield "warnings.showwarning", repr(warnings.showwarning)
    yield "atexit", repr(atexit._ncallbacks())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
        yield f"signal {number}", repr(signal.getsignal(number))
    if hasattr(sys, "monitoring"):
        for tool in range(6):
            yield f"sys.monitoring {tool}", repr(sys.monitoring.get_tool(tool))

hooks = []
sys.addaudithook(lambda event, _: hooks.append(event)
                 if event == "sys.addaudithook" else None)
modules = jax_modules()
before, settings = contents(modules), dict(registries())
hooks.clear()
loaded = importlib.import_module(sys.argv[1])
for name in getattr(loaded, "__all__", ()):   # safejax loads them one by one
    getattr(loaded, name)
added_hooks = list(hooks)
after, settings_after = contents(modules), dict(registries())

changed = [name for name, was in before.items() if after.get(name) != was]
for name in after.keys() - before.keys():
    head, _, tail = name.rpartition(".")
    is_submodule = isinstance(getattr(sys.modules.get(head), tail, None),
                              types.ModuleType)
    if not is_submodule:    # `import jax.export` adds that name to jax: no change
        changed.append(f"new {name}")
changed += [name for name, was in settings.items() if settings_after[name] != was]
print("\\n".join(sorted(changed + added_hooks)))
"""

TIMING = """
import jax, sys, time
start = time.process_time()
import safejax
imported = time.process_time()
from safejax import *
print(imported - start, time.process_time() - start)
"""

WITHOUT_JAX = """
import sys
import safejax
from safejax.signing import verify_file
safejax.KeyRing, safejax.Limits, safejax.errors.ContractError, safejax.signed_dump
print(sorted({"jax", "jaxlib", "numpy"} & set(sys.modules)))
"""

IN_ANY_ORDER = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
import safejax
from safejax import guard, jit
assert jit is safejax.jit is safejax.safe_jit
assert guard is safejax.guard and not hasattr(guard, "__path__")
with safejax.guard():
    pass
"""

HARMFUL = {
    "replaces jax.jit": ("import jax\njax.jit = lambda f: f", "jax.jit"),
    "patches a private function": (
        "from jax._src import compiler\ncompiler.compile_or_get_cached = print",
        "jax._src.compiler.compile_or_get_cached",
    ),
    "adds a name to jax": ("import jax\njax.safe = 1", "new jax.safe"),
    "patches a method": (
        "import jax\njax.ShapeDtypeStruct.hello = 1",
        "new jax.ShapeDtypeStruct.hello",
    ),
    "changes a setting": (
        "import jax\njax.config.update('jax_enable_x64', True)",
        "jax.config",
    ),
    "listens to events": (
        "import jax.monitoring\n"
        "jax.monitoring.register_event_listener(lambda *a, **k: None)",
        "monitoring._event_listeners",
    ),
    "starts a backend": ("import jax\njax.devices()", "backends"),
    "sets a profiler": ("import sys\nsys.setprofile(print)", "sys.setprofile"),
    "adds an audit hook": (
        "import sys\nsys.addaudithook(lambda *a: None)",
        "sys.addaudithook",
    ),
    "starts a thread": (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(1,), daemon=True).start()",
        "threads",
    ),
    "adds a log handler": (
        "import logging\nlogging.getLogger('jax').addHandler(logging.StreamHandler())",
        "logging.jax",
    ),
    "silences warnings": (
        "import warnings\nwarnings.simplefilter('ignore')",
        "warnings",
    ),
}


def python(code: str, *args: str, path: Path | None = None) -> str:
    env = dict(os.environ)
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(path), env.get("PYTHONPATH")))
        )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *args],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_safejax_changes_nothing():
    assert python(SNAPSHOT, "safejax") == ""


def test_importing_takes_under_400_ms_of_cpu_beyond_jax_and_loading_all_a_second():
    found = [map(float, python(TIMING).split()) for _ in range(3)]
    imported, loaded = zip(*found, strict=True)

    assert min(imported) < 0.4
    assert min(loaded) < 1.0


def test_signatures_need_no_jax():
    assert python(WITHOUT_JAX) == "[]"


@pytest.mark.parametrize(
    "modules",
    [
        (),
        ("safejax.jit._stats",),
        ("safejax.guard._policy", "safejax.jit"),
        ("safejax.integrations.asgi",),
    ],
)
def test_functions_go_before_the_folders_of_their_names(modules: tuple[str, ...]):
    assert python(IN_ANY_ORDER, *modules) == ""


@pytest.mark.parametrize("harm", HARMFUL)
def test_the_check_notices_a_module_that(harm: str, tmp_path: Path):
    source, changed = HARMFUL[harm]
    (tmp_path / "harmful.py").write_text(source, encoding="utf-8")

    assert changed in python(SNAPSHOT, "harmful", path=tmp_path).splitlines()
