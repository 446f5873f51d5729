"""Names of runtimes, and what each is made from. A new version is a line here; a new language a row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from millstream.contract.errors import Problem
from millstream.contract.options import unknown_option
from millstream.functions.commands import (
    Launch,
    Wanted,
    dotnet_command,
    java_command,
    nodejs_command,
    provided_command,
    python_command,
    ruby_command,
)
from millstream.functions.interpreters import DOTNET, JAVA, NODE, PYTHON, RUBY, Interpreter

VARIABLE = "MILLSTREAM_RUNTIME_"
"""How the environment variables begin that name a runtime's interpreter."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One identifier of AWS's. `interpreter` None: the package brings what it needs."""

    name: str
    version: str  # as the interpreter says it
    interpreter: Interpreter | None
    command: Callable[[Wanted], Launch | Problem]

    @property
    def variable(self) -> str:
        """The environment variable that names its interpreter: MILLSTREAM_RUNTIME_NODEJS20_X."""
        return VARIABLE + self.name.replace(".", "_").upper()


def _runtimes(
    name: str,
    interpreter: Interpreter | None,
    command: Callable[[Wanted], Launch | Problem],
    versions: Mapping[str, str],
) -> dict[str, Runtime]:
    return {
        (full := name.format(suffix)): Runtime(full, version, interpreter, command)
        for suffix, version in versions.items()
    }


RUNTIMES: Mapping[str, Runtime] = {
    **_runtimes("python3.{}", PYTHON, python_command, {str(n): f"3.{n}" for n in range(9, 15)}),
    **_runtimes("nodejs{}.x", NODE, nodejs_command, {str(n): str(n) for n in range(16, 25, 2)}),
    **_runtimes("java{}", JAVA, java_command, {"8.al2": "8", "11": "11", "17": "17", "21": "21", "25": "25"}),
    **_runtimes("ruby3.{}", RUBY, ruby_command, {str(n): f"3.{n}" for n in range(2, 5)}),
    **_runtimes("dotnet{}", DOTNET, dotnet_command, {str(n): str(n) for n in (6, 8, 10)}),
    **_runtimes("provided.{}", None, provided_command, {"al2": "", "al2023": ""}),
}
"""Source: AWS, "Lambda runtimes", and what CreateFunction takes."""


def default_runtime() -> str:
    """The runtime of the interpreter that runs the daemon: `python3.11`."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def check_runtime(runtime: str) -> Problem | None:
    """What is wrong with a runtime's name. None: AWS has it."""
    if runtime in RUNTIMES or runtime == default_runtime():
        return None
    near = unknown_option(runtime, list(RUNTIMES))
    return Problem("", "runtime", near.wanted, repr(runtime))
