"""Checks a package beside its runtime and handler, without running any of it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.functions.commands import Launch, Wanted
from millstream.functions.contents import Contents, reading, wrong_kind
from millstream.functions.interpreters import Installed, Interpreters
from millstream.functions.options import FunctionOptions
from millstream.functions.runtimes import RUNTIMES, Runtime, check_runtime, default_runtime

PACKAGE = "a folder or a .zip file"


def check_package(
    code: Path, layers: Sequence[Path], options: FunctionOptions, interpreters: Interpreters
) -> Launch:
    """How a function of a package is started.

    Raises:
        InvalidConfiguration: with all that is wrong with its runtime, code, layers and handler.
    """
    name = options.runtime or default_runtime()
    handler = options.handler or ""
    problems = [wrong] if (wrong := check_runtime(name)) else []
    if name.startswith("python") and not all(handler.rpartition(".")):
        problems.append(Problem("", "handler", '"module.function"', repr(handler)))
    if found := wrong_kind(code):
        problems.append(Problem("", "code", PACKAGE, found))
    for index, layer in enumerate(layers):
        if found := wrong_kind(layer):
            problems.append(Problem("", f"layers.{index}", PACKAGE, found))
    if problems:
        raise InvalidConfiguration(problems)
    with ExitStack() as stack:
        with reading("code"):
            package = stack.enter_context(closing(Contents(code)))
        with reading("layers"):
            opened = [stack.enter_context(closing(Contents(layer))) for layer in layers]
        with reading("code"):
            if name.startswith("python"):
                problems = _check_python(package, handler, parse=name == default_runtime())
            launch = _launch(name, options, package, opened, interpreters)
    if isinstance(launch, Problem):
        problems.append(launch)
    if problems or isinstance(launch, Problem):
        raise InvalidConfiguration(problems)
    return launch


def _launch(
    name: str,
    options: FunctionOptions,
    code: Contents,
    layers: Sequence[Contents],
    interpreters: Interpreters,
) -> Launch | Problem:
    if name == default_runtime():  # by our own bootstrap, also if it is newer than any of AWS's
        return Launch()
    runtime = RUNTIMES[name]
    program = _program(runtime, interpreters)
    if isinstance(program, Problem):
        return program
    handler = options.handler or ""
    return runtime.command(Wanted(runtime.version, handler, options.memory_size, program, code, layers))


def _program(runtime: Runtime, interpreters: Interpreters) -> Installed | Problem | None:
    if runtime.interpreter is None:
        return None
    return interpreters.find(runtime.name, runtime.interpreter, runtime.version, runtime.variable)


def _check_python(code: Contents, handler: str, *, parse: bool) -> list[Problem]:
    """Whether the handler's module is there, and is Python where this Python is the one to say."""
    base = handler.rpartition(".")[0].replace(".", "/")
    names = (f"{base}.py", f"{base}/__init__.py")
    found = next(((name, text) for name in names if (text := code.read(name)) is not None), None)
    if found is None:
        return [Problem("", "handler", f"a file {names[0]} in {code.path}", "none")]
    if not parse:
        return []
    try:
        ast.parse(found[1], filename=found[0])
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{found[0]}:{line}" if line else found[0]
        return [Problem("", "handler", f"valid Python in {where}", getattr(error, "msg", None) or str(error))]
    return []
