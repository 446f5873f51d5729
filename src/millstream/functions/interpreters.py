"""Finds the programs of this host that run functions: Python, Node.js, Java, Ruby, .NET."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from millstream.contract.errors import Problem

LANG = PurePosixPath("/var/lang")
"""Where a sandbox has an installation that is not below /usr, which every sandbox has."""

PROBE_S = 20.0
"""How long a program may take to say its version."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """How one kind of program is found, and asked what it is.

    `version` and `path` are searched in what it prints, with `{0}` for the version that is wanted;
    `path` finds the program behind a shim or a wrapper. None: the file that was asked, links resolved.
    """

    title: str
    names: tuple[str, ...]  # on the PATH
    places: tuple[str, ...]  # where else, as globs
    probe: tuple[str, ...]
    version: str
    path: str | None
    depth: int  # folders from the program up to its installation's root
    hint: str


PYTHON = Interpreter(
    "Python", ("python{0}",),
    (
        "/opt/python*/bin/python{0}", "~/.pyenv/versions/{0}.*/bin/python{0}",
        "~/.local/share/uv/python/cpython-{0}.*/bin/python{0}",
    ),
    ("-I", "-c", "import sys; print(sys.version); print('at', sys.executable)"),
    r"^{0}\.", r"^at (.+)$", 2, "install it, or have pyenv or uv do so",
)  # fmt: skip
NODE = Interpreter(
    "Node.js", ("node", "node{0}", "nodejs"),
    ("/usr/local/node*/bin/node", "/opt/node*/bin/node", "~/.nvm/versions/node/v{0}.*/bin/node"),
    ("-p", "process.version + '\\nat ' + process.execPath"),
    r"^v{0}\.", r"^at (.+)$", 2, "install it, or have nvm do so",
)  # fmt: skip
JAVA = Interpreter(
    "Java", ("java",),
    ("/usr/lib/jvm/*/bin/java", "/opt/java/*/bin/java", "~/.sdkman/candidates/java/*/bin/java"),
    ("-XshowSettings:properties", "-version"),
    r"java\.specification\.version = (?:1\.)?{0}$", None, 2, "install a JDK or JRE of it",
)  # fmt: skip
RUBY = Interpreter(
    "Ruby", ("ruby", "ruby{0}"), ("/opt/ruby*/bin/ruby", "~/.rbenv/versions/{0}.*/bin/ruby"),
    ("-e", "puts RUBY_VERSION; puts 'at ' + RbConfig.ruby"),
    r"^{0}\.", r"^at (.+)$", 2, "install it, or have rbenv do so",
)  # fmt: skip
DOTNET = Interpreter(
    ".NET", ("dotnet",),
    ("/usr/share/dotnet/dotnet", "/usr/lib/dotnet/dotnet", "/opt/dotnet/dotnet", "~/.dotnet/dotnet"),
    ("--list-runtimes",),
    r"^Microsoft\.NETCore\.App {0}\.", None, 1, "install its runtime",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Installed:
    """A program, and how a sandbox gets it."""

    prefix: Path | None  # to be had at /var/lang. None: below /usr
    inside: str  # the program's path in a sandbox


class Interpreters:
    """The programs of this host; those that the configuration names go before those that are found.

    `private` are folders that no sandbox may see, so an installation must not hold one of them.
    """

    def __init__(self, named: Mapping[str, Path], private: tuple[Path, ...] = ()) -> None:
        self._named = named
        self._private = tuple(Path(os.path.realpath(os.path.expanduser(path))) for path in private)
        self._found: dict[tuple[str, str], Installed | Problem] = {}

    def find(self, runtime: str, wanted: Interpreter, version: str, variable: str) -> Installed | Problem:
        """The program of a runtime, or how to get one. Cost: starts each candidate, the first time."""
        key = (runtime, version)
        if key not in self._found:
            self._found[key] = self._search(runtime, wanted, version, variable)
        return self._found[key]

    def _search(self, runtime: str, wanted: Interpreter, version: str, variable: str) -> Installed | Problem:
        title = f"{wanted.title} {version}"
        if named := self._named.get(runtime):
            program = _ask(str(named.expanduser()), wanted, version)
            if program is None:
                return Problem("", "runtime", f"{title} at {named}, as {variable} says", "none that runs")
            return self._installed(program, wanted)
        for candidate in _candidates(wanted, version):
            if program := _ask(candidate, wanted, version):
                return self._installed(program, wanted)
        how = f"{title} for {runtime}: {wanted.hint}, or name one by {variable}=/path"
        return Problem("", "runtime", how, "none on this host")

    def _installed(self, program: Path, wanted: Interpreter) -> Installed | Problem:
        if program.is_relative_to("/usr"):
            return Installed(None, str(program))
        prefix = program.parents[wanted.depth - 1]
        if prefix == Path("/") or any(path.is_relative_to(prefix) for path in self._private):
            found = f"{program}, which would show all of {prefix} to the function"
            return Problem("", "runtime", f"{wanted.title} in a folder of its own", found)
        return Installed(prefix, str(LANG / program.relative_to(prefix)))


def _candidates(wanted: Interpreter, version: str) -> Iterator[str]:
    for name in wanted.names:
        if found := shutil.which(name.format(version)):
            yield found
    for place in wanted.places:
        yield from sorted(glob.glob(os.path.expanduser(place.format(version))))


def _ask(program: str, wanted: Interpreter, version: str) -> Path | None:
    """Where a program really is. None: it does not run, or is of another version."""
    try:
        answer = subprocess.run(
            [program, *wanted.probe],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=PROBE_S, check=True, text=True, errors="replace",
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    if not re.search(wanted.version.format(re.escape(version)), answer, re.MULTILINE):
        return None
    told = re.search(wanted.path, answer, re.MULTILINE) if wanted.path else None
    found = Path(os.path.realpath(told[1] if told else program))
    return found if found.is_file() else None
