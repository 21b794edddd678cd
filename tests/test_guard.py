"""What a guarded scope refuses, logs and admits, and how it says so."""

from __future__ import annotations

import functools
import inspect
import json
import linecache
import logging
import operator
import pickle
import subprocess
import sys
import threading
import traceback
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import make_jaxpr as imported_before
from jax._src import api as private_api
from jax.experimental import io_callback

import safejax
from safejax import GuardError, Policy
from safejax.guard import _scope
from safejax.guard._scope import guard

SPEC = jax.ShapeDtypeStruct((), jnp.float32)
CLOSED_OVER = jax.make_jaxpr
HERE = __file__


def double(x):
    return x * 2


class Holder:
    method = staticmethod(jax.make_jaxpr)


ALIASES = {
    "as it is": lambda: jax.make_jaxpr(double),
    "imported before": lambda: imported_before(double),
    "partial": functools.partial(imported_before, double),
    "getattr": lambda: getattr(jax, "make_" + "jaxpr")(double),
    "private module": lambda: private_api.make_jaxpr(double),
    "unwrapped": lambda: jax.make_jaxpr.__wrapped__(double),
    "sys.modules": lambda: sys.modules["jax"].make_jaxpr(double),
    "closure": lambda: CLOSED_OVER(double),
    "attribute of a class": lambda: Holder.method(double),
    "map": lambda: list(map(jax.make_jaxpr, [double])),
    "reduce": lambda: functools.reduce(lambda _, f: jax.make_jaxpr(f), [1, double]),
    "methodcaller": lambda: operator.methodcaller("make_jaxpr", double)(jax),
    "jax.tree.map": lambda: jax.tree.map(jax.make_jaxpr, [double]),
    "jax.tree.map of a partial": lambda: jax.tree.map(
        functools.partial(jax.make_jaxpr), [double]
    ),
    "inside of jit": lambda: jax.jit(lambda x: jax.make_jaxpr(double)(x) and x)(1.0),
    "inside of grad": lambda: jax.grad(lambda x: jax.make_jaxpr(double) and x)(1.0),
    "inside of scan": lambda: jax.lax.scan(
        lambda c, x: (jax.make_jaxpr(double) and c, x), 0.0, jnp.ones(2)
    ),
    "sorted's key": lambda: sorted([double], key=jax.make_jaxpr),
}


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_does_not_help(alias: str):
    with guard(), pytest.raises(GuardError) as caught:
        ALIASES[alias]()

    assert caught.value.details["api"] == "jax.make_jaxpr"


CALLBACKS = {
    "direct": lambda x: jax.pure_callback(np.sin, SPEC, x),
    "vmap": lambda x: jax.vmap(lambda y: jax.pure_callback(np.sin, SPEC, y))(x[None]),
    "as an argument of vmap": lambda x: jax.vmap(
        functools.partial(jax.pure_callback, np.sin, SPEC)
    )(x[None]),
    "io": lambda x: io_callback(np.sin, SPEC, x),
    "print": lambda x: jax.debug.print("{}", x),
    "in cond": lambda x: jax.lax.cond(
        x > 0, lambda: jax.pure_callback(np.sin, SPEC, x), lambda: x
    ),
    "in jacfwd": jax.jacfwd(lambda y: jax.pure_callback(np.sin, SPEC, y)),
    "under checkpoint": jax.checkpoint(lambda y: jax.pure_callback(np.sin, SPEC, y)),
}


@pytest.mark.parametrize("way", CALLBACKS)
def test_a_callback_is_refused_while_traced(way: str):
    with guard(), pytest.raises(GuardError) as caught:
        jax.jit(CALLBACKS[way])(jnp.float32(1))

    assert caught.value.details["category"] == "callbacks"


METHODS = {
    "jax.jit(f).trace": lambda f: f.trace(1.0),
    "jax.jit(f).lower": lambda f: f.lower(1.0),
    "jax.jit(f).eval_shape": lambda f: f.eval_shape(1.0),
}


@pytest.mark.parametrize("wrap", [jax.jit, safejax.safe_jit])
@pytest.mark.parametrize("api", METHODS)
def test_methods_of_jitted_functions_are_refused(api: str, wrap):
    jitted = wrap(double)
    with guard(), pytest.raises(GuardError) as caught:
        METHODS[api](jitted)

    assert caught.value.details["api"] == api


def test_a_jitted_function_itself_may_be_called():
    with guard():
        assert float(jax.jit(double)(2.0)) == 4
        assert float(safejax.safe_jit(double)(2.0)) == 4


C_FUNCTIONS = {
    "compile": lambda: exec("1"),
    "exec": lambda: exec((lambda: 1).__code__),
    "types.FunctionType": lambda: types.FunctionType(double.__code__, {}),
    "types.CodeType": lambda: double.__code__.replace(co_name="other"),
    "function.__code__": lambda: setattr(double, "__code__", double.__code__),
    "pickle.loads": lambda: pickle.loads(b"cos\ngetpid\n."),
    "open": lambda: open(HERE),  # noqa: PTH123, SIM115
    "os.listdir": lambda: list(Path(HERE).parent.iterdir()),
    "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
    "sys.setprofile": lambda: sys.setprofile(None),
    "sys.settrace": lambda: sys.settrace(None),
}


@pytest.mark.parametrize("api", C_FUNCTIONS)
def test_what_is_written_in_c_is_refused(api: str):
    with guard(), pytest.raises(GuardError) as caught:
        C_FUNCTIONS[api]()

    assert caught.value.details["api"] == api
    assert caught.value.details["file"] == HERE


def test_an_audit_hook_is_not_added():
    """The interpreter drops the error, and the new hook with it."""
    heard = []
    with guard():
        sys.addaudithook(lambda event, _: heard.append(event))
    sys.audit("safejax.test")

    assert heard == []


def test_c_functions_that_jax_calls_for_somebody_are_refused():
    with guard():
        with pytest.raises(GuardError):
            jax.tree.map(eval, ["1"])
        with pytest.raises(GuardError):
            jax.tree.map(open, [HERE])
        with pytest.raises(GuardError):
            jax.tree.map(Path.read_text, [Path(HERE)])


# --- compiler options, imports ----------------------------------------------------


def test_compiler_options_that_write_files_are_refused():
    with guard(), pytest.raises(GuardError, match="compiler_options"):
        jax.jit(double, compiler_options={"xla_dump_to": "somewhere"})


def test_compiler_options_that_only_tune_are_admitted():
    options = {"xla_cpu_enable_fast_math": True}
    with guard():
        assert float(jax.jit(double, compiler_options=options)(1.0)) == 2


def test_a_module_that_is_not_loaded_is_refused(tmp_path, monkeypatch):
    (tmp_path / "safejax_test_module.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with guard(), pytest.raises(GuardError, match="import refused"):
        import safejax_test_module  # noqa: F401

    import safejax_test_module as loaded

    with guard():
        import safejax_test_module as again

    assert again is loaded


def test_modules_of_python_and_of_jax_may_be_loaded():
    script = """
import jax
import numpy.f2py  # tries packages of others, if there are any
import safejax
from safejax.guard._scope import guard
with guard():
    import wave
    import jax.experimental.jet
    jax.numpy.linalg.eig(jax.numpy.eye(2))
"""
    subprocess.run([sys.executable, "-P", "-c", script], check=True)


def test_a_module_that_comes_inside_a_scope_is_watched():
    script = """
import jax, pickle, safejax
from safejax.guard._scope import guard
with guard():
    from jax.experimental import multihost_utils
    try:
        multihost_utils.sync_global_devices("x")
    except safejax.GuardError:
        print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True
    )

    assert done.stdout == "refused\n"


# --- the error --------------------------------------------------------------------


def refusal(policy=None) -> GuardError:
    with guard(policy), pytest.raises(GuardError) as caught:
        jax.make_jaxpr(double)
    return caught.value


def test_error_names_api_category_place_policy_and_remedy():
    error = refusal()
    line = refusal.__code__.co_firstlineno + 2

    assert str(error) == (
        "[SJ301] jax.make_jaxpr() refused: introspection is disallowed in this scope\n"
        f"  called at {HERE}:{line}, under Policy.strict()\n"
        "hint: call it before the scope, or allow it: "
        'policy.replace(allow={"jax.make_jaxpr"})'
    )
    assert error.details["api"] == "jax.make_jaxpr"
    assert error.details["category"] == "introspection"
    assert (error.details["file"], error.details["line"]) == (HERE, line)
    json.dumps(error.details)


def test_error_is_a_permission_error_with_a_traceback_that_ends_with_the_user():
    try:
        with guard():
            jax.closure_convert(double, 1.0)
    except PermissionError as error:
        frames = traceback.extract_tb(error.__traceback__)

    assert not any(
        frame.filename.startswith(str(Path(_scope.__file__).parent)) for frame in frames
    )


def test_an_error_through_jit_says_the_same():
    with guard(), pytest.raises(GuardError) as caught:
        jax.jit(lambda x: x if jax.make_jaxpr(double) else -x)(1.0)

    assert caught.value.details["file"] == HERE


def test_hint_is_one_that_works():
    with guard(Policy.strict().replace(allow={"jax.make_jaxpr"})):
        assert jax.make_jaxpr(double)(1.0)


# --- policies ---------------------------------------------------------------------


def test_words_stand_for_policies():
    with guard("allow"):
        jax.make_jaxpr(double)
    with guard("log"):
        jax.make_jaxpr(double)
    with guard("disallow"), pytest.raises(GuardError):
        jax.make_jaxpr(double)


def test_what_is_no_policy_is_refused():
    with pytest.raises(ValueError, match="disallow"):
        guard("strict")
    with pytest.raises(TypeError, match=r"@safejax\.guard\(\)"):
        guard(double)
    with pytest.raises(TypeError, match="decorates functions"):
        guard()(1)


def test_log_tells_the_logger_and_lets_it_run(caplog):
    with caplog.at_level(logging.WARNING, "safejax.guard"), guard("log"):
        jax.make_jaxpr(double)

    (record,) = caplog.records
    assert "log: jax.make_jaxpr, introspection, called at" in record.getMessage()
    assert "Policy.permissive()" in record.getMessage()


def test_every_refusal_is_logged_too(caplog):
    with caplog.at_level(logging.INFO, "safejax.guard"):
        refusal()

    assert "disallow: jax.make_jaxpr" in caplog.text


def test_what_is_allowed_by_name_can_be_logged(caplog):
    policy = Policy.strict().replace(allow={"jax.make_jaxpr"})
    with caplog.at_level(logging.DEBUG, "safejax.guard"), guard(policy):
        jax.make_jaxpr(double)

    assert "allow: jax.make_jaxpr" in caplog.text


@pytest.fixture
def judged():
    seen = []
    _scope.observers.append(seen.append)
    yield seen
    _scope.observers.remove(seen.append)


def test_observers_see_every_judgement(judged):
    refusal()
    with guard("log"):
        jax.make_jaxpr(double)

    assert [(j.api, j.decision) for j in judged] == [
        ("jax.make_jaxpr", "disallow"),
        ("jax.make_jaxpr", "log"),
    ]


def test_an_observer_or_a_log_that_fails_does_no_harm():
    def fails(_):
        raise RuntimeError("broken")

    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("broken")

    handler = Broken()
    logger = logging.getLogger("safejax.guard")
    logger.addHandler(handler)
    _scope.observers.append(fails)
    try:
        with guard("log"):
            jax.make_jaxpr(double)
        assert refusal().code == "SJ301"
    finally:
        _scope.observers.remove(fails)
        logger.removeHandler(handler)


def test_trusted_modules_may_call_for_themselves():
    module = types.ModuleType("safejax_trusted.inner")
    exec(
        "import jax\n"
        "def shape(f): return jax.eval_shape(f, 1.0)\n"
        "def call(f, *args): return f(*args)\n",
        vars(module),
    )
    sys.modules[module.__name__] = module
    policy = Policy.strict().replace(trusted_modules=("safejax_trusted",))
    try:
        with guard(policy):
            assert module.shape(double).shape == ()
            with pytest.raises(GuardError):
                module.call(jax.eval_shape, double, 1.0)
            with pytest.raises(GuardError):
                jax.eval_shape(double, 1.0)
    finally:
        del sys.modules[module.__name__]


def test_a_module_that_only_calls_itself_trusted_is_not():
    module = types.ModuleType("safejax_trusted")
    exec("import jax\ndef shape(f): return jax.eval_shape(f, 1.0)\n", vars(module))
    policy = Policy.strict().replace(trusted_modules=("safejax_trusted",))
    with guard(policy), pytest.raises(GuardError):
        module.shape(double)


# --- who called -------------------------------------------------------------------


def lookalike(globals_: dict, filename: str):
    source = "def shape(f): return eval_shape(f, 1.0)\n"
    namespace = {"eval_shape": jax.eval_shape, **globals_}
    exec(compile(source, filename, "exec"), namespace)
    return namespace["shape"]


@pytest.mark.parametrize(
    ("globals_", "filename"),
    [
        ({"__name__": "jax._src.api"}, "<string>"),
        ({"__name__": "jax.fake"}, private_api.__file__),
        (dict(vars(private_api)), private_api.__file__),
        ({"__name__": "functools"}, functools.__file__),
        ({"__name__": "safejax.compile._ledger"}, _scope.__file__),
        ({}, "<frozen importlib._bootstrap>"),
        ({}, "<safejax gate>"),
    ],
)
def test_code_that_looks_like_jax_is_not_taken_for_it(globals_, filename):
    spoof = lookalike(globals_, filename)
    with guard(), pytest.raises(GuardError):
        spoof(double)


def test_code_put_into_a_module_of_jax_is_not_taken_for_jax():
    spoofed = vars(private_api)
    exec(
        compile(
            "def _spoof(f): return eval_shape(f, 1.0)\n", private_api.__file__, "exec"
        ),
        spoofed,
    )
    try:
        with guard(), pytest.raises(GuardError):
            spoofed["_spoof"](double)
    finally:
        del spoofed["_spoof"]


def test_a_traceback_may_look_up_its_lines():
    linecache.clearcache()
    with guard():
        try:
            jnp.ones(3) + jnp.ones(4)
        except TypeError:
            text = traceback.format_exc()

    assert "jnp.ones(3) + jnp.ones(4)" in text


def test_warnings_and_logging_work_in_a_scope(caplog):
    with guard():
        logging.getLogger("user").warning("hello")
        with pytest.warns(UserWarning, match="careful"):
            warnings.warn("careful", stacklevel=1)

    assert "hello" in caplog.text


# --- other tools ------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs sys.monitoring")
def test_other_tools_keep_what_they_have():
    script = """
import sys
monitoring = sys.monitoring
for tool in (0, 1, 2, 4):
    monitoring.use_tool_id(tool, f"tool{tool}")
import jax, safejax
from safejax.guard._scope import guard
with guard():
    try:
        jax.make_jaxpr(abs)
    except safejax.GuardError:
        print("refused", [monitoring.get_tool(tool) for tool in (0, 1, 2, 4)])
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True
    )

    assert done.stdout == "refused ['tool0', 'tool1', 'tool2', 'tool4']\n"


def test_tracing_functions_of_others_are_left_alone():
    def trace(*_):
        return None

    before = sys.gettrace(), sys.getprofile()
    sys.setprofile(trace)
    try:
        with guard(), pytest.raises(GuardError):
            jax.make_jaxpr(double)
        assert sys.getprofile() is trace
    finally:
        sys.setprofile(before[1])


def test_a_guard_that_is_switched_off_inside_is_noticed():
    with pytest.raises(GuardError, match="switched off"), guard():
        switch_off()

    with guard(), pytest.raises(GuardError):
        jax.make_jaxpr(double)


def switch_off():
    if sys.version_info < (3, 12):
        from safejax.guard._watch import _watch

        function, code = next(iter(_watch._backend._watched.values()))
        sys.modules["safejax.guard._decide"]._busy.judging = True
        function.__code__ = original_of(code)
        sys.modules["safejax.guard._decide"]._busy.judging = False
    else:
        tool = next(
            i for i in range(6) if sys.monitoring.get_tool(i) == "safejax.guard"
        )
        sys.monitoring.free_tool_id(tool)


def original_of(code):
    (told,) = [c for c in code.co_consts if hasattr(c, "_function")]
    return told._function.__code__


def test_inspection_of_watched_functions_is_unchanged():
    with guard():
        pass
    text = str(inspect.signature(jax.eval_shape))

    assert text.startswith("(fun")
    assert inspect.getsource(jax.make_jaxpr).lstrip().startswith(("@", "def make"))


def test_nothing_is_refused_before_and_after():
    assert jax.make_jaxpr(double)(1.0)
    with guard():
        pass
    assert jax.make_jaxpr(double)(1.0)
    assert _scope.active() == ()


def test_another_thread_is_not_disturbed():
    entered, done, results = threading.Event(), threading.Event(), []

    def other():
        entered.wait()
        results.append(jax.make_jaxpr(double)(1.0))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with guard():
        entered.set()
        done.wait()
        with pytest.raises(GuardError):
            jax.make_jaxpr(double)
    thread.join()

    assert len(results) == 1
