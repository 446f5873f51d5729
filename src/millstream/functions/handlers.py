"""Checks a package beside its runtime and handler, without running any of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.functions.bytecode import problem_of
from millstream.functions.commands import Launch, Wanted
from millstream.functions.contents import Contents
from millstream.functions.interpreters import Installed, Interpreters
from millstream.functions.layers import check_merged
from millstream.functions.options import FunctionOptions
from millstream.functions.packages import CODE, LAYER, Package, Packages, check_room
from millstream.functions.runtimes import RUNTIMES, Runtime, check_runtime, default_runtime
from millstream.functions.trees import UNZIPPED_BYTES, wrong_kind

PACKAGE = "a folder or a .zip file"


@dataclass(frozen=True, slots=True)
class Checked:
    """A function's start, and the packages that it is made from."""

    launch: Launch
    code: Package
    layers: tuple[Package, ...]


def check_package(
    code: Path,
    layers: Sequence[Path],
    options: FunctionOptions,
    interpreters: Interpreters,
    packages: Packages,
) -> Checked:
    """Find out how a function of a package is started. Reads all of its package and layers, the first time.

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
    package, *others = _packages(code, layers, packages)
    contents = Contents(code, package)
    opened = [Contents(each.source, each, LAYER) for each in others]
    if name.startswith("python"):
        problems = _check_python(contents, handler, parse=name == default_runtime())
    launch = _launch(name, options, contents, opened, interpreters)
    if isinstance(launch, Problem):
        problems.append(launch)
    if problems or isinstance(launch, Problem):
        raise InvalidConfiguration(problems)
    return Checked(launch, package, tuple(others))


def _packages(code: Path, layers: Sequence[Path], packages: Packages) -> list[Package]:
    """The package, and its layers; together they have no more than they may."""
    problems: list[Problem] = []
    found: list[Package] = []
    room = UNZIPPED_BYTES
    for source, form in [*((layer, LAYER) for layer in layers), (code, CODE)]:
        try:
            package = packages.of(source, form)
            check_room(package, room, form)
            room -= package.size_bytes
            found.append(package)
        except InvalidConfiguration as invalid:
            problems += invalid.problems
    if problems:
        raise InvalidConfiguration(problems)
    check_merged([package.listing for package in found[:-1]])
    return [found[-1], *found[:-1]]


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
    found = next((name for name in names if code.has(name)), None)
    if found is None:
        return [Problem("", "handler", f"a file {names[0]} in {code.path}", "none")]
    source = code.read(found) if parse else None
    wrong = None if source is None else problem_of(source, found)
    return [wrong] if wrong else []
