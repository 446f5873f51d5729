"""What this host offers to functions: drivers, the limits that hold, runtimes."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from millstream.contract.errors import Problem, SandboxUnavailable
from millstream.contract.ports import Sandbox
from millstream.contract.registry import load_plugin, plugin_names
from millstream.functions.host import host_architecture
from millstream.functions.interpreters import Interpreters
from millstream.functions.runtimes import RUNTIMES, default_runtime

DEFAULT_DRIVER = "bwrap"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `ok` None where it is neither good nor bad."""

    what: str
    found: str
    ok: bool | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found. `driver` is what `millstream run` uses without being told; None: it cannot run."""

    driver: str | None
    host: list[Finding]
    drivers: list[Finding]
    runtimes: list[Finding]


@runtime_checkable
class _TellsUsers(Protocol):
    """A driver for which it depends on the host who functions are."""

    def users(self) -> str:
        """Once it has started: continues a line about the daemon's own user."""
        ...


async def examine(named: Mapping[str, Path]) -> Report:
    """Look, and try an empty sandbox of each driver. The configuration names the interpreters in `named`."""
    drivers, users = list[Finding](), ""
    for name in sorted(plugin_names("sandboxes"), key=lambda name: (name != DEFAULT_DRIVER, name)):
        finding, told = await _driver(name)
        drivers.append(finding)
        users = told if name == DEFAULT_DRIVER else users
    default = next((each for each in drivers if each.what == DEFAULT_DRIVER), None)
    usable = DEFAULT_DRIVER if default is not None and default.ok else None
    return Report(usable, _host(users), drivers, _runtimes(named))


def _host(users: str) -> list[Finding]:
    """`users`: who functions are with the default driver; empty if it cannot be used."""
    own = "root" if os.geteuid() == 0 else f"an ordinary one, {os.geteuid()}"
    user = f"{own}; {users}" if users else own
    return [
        Finding("system", f"{platform.system()} {platform.release()}, {host_architecture()}"),
        Finding("cores", str(os.cpu_count())),
        Finding("user", user),
        Finding("Python", f"{platform.python_version()} at {sys.executable}"),
    ]


async def _driver(name: str) -> tuple[Finding, str]:
    """The limits of functions, and who they are to the host, where it tells."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox: Sandbox = load_plugin("sandboxes", name)(Path(folder))
        try:
            await sandbox.start()
        except SandboxUnavailable as unavailable:
            return Finding(name, str(unavailable), ok=False), ""
        limits = sandbox.limits()
        users = sandbox.users() if isinstance(sandbox, _TellsUsers) else ""
        await sandbox.aclose()
    return Finding(name, limits, ok=True), users


def _runtimes(named: Mapping[str, Path]) -> list[Finding]:
    interpreters = Interpreters(named)
    own = f"{default_runtime()} at {sys.executable}, by the bootstrap of millstream"
    findings = [Finding(default_runtime(), own, ok=True)]
    for runtime in RUNTIMES.values():
        if runtime.name == default_runtime():
            continue
        if runtime.interpreter is None:
            findings.append(Finding(runtime.name, "the package brings its own", ok=True))
            continue
        program = interpreters.find(runtime.name, runtime.interpreter, runtime.version, runtime.variable)
        if isinstance(program, Problem):
            how = f"{program.found}: {runtime.interpreter.hint}, or name one by {runtime.variable}"
            findings.append(Finding(runtime.name, how, ok=False))
        else:
            place = program.inside if program.prefix is None else f"{program.prefix}, at /var/lang inside"
            findings.append(Finding(runtime.name, place, ok=True))
    return findings
