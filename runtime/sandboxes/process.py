"""Reduced isolation, by explicit choice: a plain process for each environment.

What it has: a cleared environment, resource limits per process, a session and a temporary folder of its
own, an end by process group; under a root daemon, a user of its function's own and no way into root's
folders.
The daemon's own memory, environment and descriptors are closed to it.
What it has not: a function can read what that user can, reach the network, signal and read that user's
other processes (under an ordinary user's daemon, those of other functions among them), and leave processes
behind by leaving its session.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import LogSink
from millstream.runtime.assemble import assemble
from millstream.runtime.environment import Environment
from millstream.runtime.processes import Places
from millstream.runtime.sandboxes.launching import Launch, launched
from millstream.runtime.sandboxes.layout import (
    data_mb,
    first_files,
    interpreter,
    runtime_files,
    start,
)
from millstream.runtime.sandboxes.plain import PlainProcesses
from millstream.runtime.sandboxes.users import HostUsers, host_users

OWN_FOLDER = ("-E", "-s")
"""Options of Python: as -I, but a program may import what is beside it."""

STAGE = "/tmp"
TASK, RUNTIME, TMP = f"{STAGE}/task", f"{STAGE}/runtime", f"{STAGE}/tmp"
OPT, LANG = f"{STAGE}/opt", f"{STAGE}/var/lang"
"""Where a root daemon shows code, runtime and temporary folder to processes that cannot reach its own."""

PROCESSES_OF_ALL = 4096
"""The kernel counts a user's processes together: those of all environments of a function."""

PR_SET_DUMPABLE = 4

BASE_BYTES = 64 * 1024 * 1024
"""Memory of the interpreter itself, on top of the function's own."""


class ProcessSandbox:
    """Implements Sandbox on any system that Python's asyncio has subprocesses on."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._running: list[PlainProcesses] = []
        self._folders = BlockingClient("process-folders", 1)
        self._staged = False
        self._runtime = work_dir / "runtime"  # our modules, under the name that they have in a sandbox
        self._users: HostUsers | None = None  # where the daemon is root

    async def start(self) -> None:
        """Make ready; as root, find out how to give up root."""
        _link(runtime_files(str(self._runtime)))
        _be_readable(False)
        if os.geteuid() == 0:
            self._users = host_users()
            first = self._users.first
            trial = _staged(first_files(RUNTIME), ["-c", ""], first)
            self._staged = sys.platform.startswith("linux") and not await _try(trial)
            if not self._staged and (why := await _try(_unstaged([sys.executable, "-c", ""], first))):
                wanted = f"wanted an interpreter that user {first} can run, found: {why}"
                raise SandboxUnavailable(f"isolation process: {wanted}; or run as an ordinary user")

    def limits(self) -> str:
        own = "a user of the function's own, " if os.geteuid() == 0 else ""
        return f"reduced: {own}memory, descriptors and file sizes per process; network and host files open"

    async def create(self, function: FunctionSpec, log: LogSink) -> Environment:
        return await assemble(function, log, lambda: self._processes(function))

    async def _processes(self, function: FunctionSpec) -> PlainProcesses:
        if function.image is not None:
            raise SandboxUnavailable(f"{function.name}: isolation process: wanted no image, found one")
        await self._sweep()
        user = None if self._users is None else self._users.of(function)
        try:
            temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=self._work_dir))
            if user is not None:
                os.chown(temporary, user, user)
            listener = socket.create_server(("127.0.0.1", 0))
        except OSError as error:
            raise SandboxUnavailable(f"{function.name}: process: {error.strerror}") from error
        processes = self._plain(function, temporary, listener, user)
        self._running.append(processes)
        return processes

    async def aclose(self) -> None:
        for processes in self._running:
            processes.kill()
            await processes.gone()
        await self._sweep()
        self._folders.close()
        _be_readable(True)

    def _plain(
        self, function: FunctionSpec, temporary: Path, listener: socket.socket, user: int | None
    ) -> PlainProcesses:
        port = listener.getsockname()[1]
        limits = _limits(function)
        if not self._staged:
            places = Places(
                str(function.code), str(self._runtime), str(function.opt or OPT),
                str(function.interpreter or LANG), str(temporary), limits, port, sys.executable,
                f"{self._runtime}/bootstrap.py",
            )  # fmt: skip
            own = [sys.executable, *OWN_FOLDER, *start(str(self._runtime), "bootstrap.bootstrap")]
            python = Launch(own) if user is None else _unstaged(own, user)
            return PlainProcesses(places, temporary, python, partial(_program_unstaged, user), listener)
        mounts = [*runtime_files(RUNTIME), (str(function.code), TASK)]
        mounts += [] if function.opt is None else [(str(function.opt), OPT)]
        mounts += [] if function.interpreter is None else [(str(function.interpreter), LANG)]
        inside = interpreter(f"{STAGE}/lang")[0]
        places = Places(TASK, RUNTIME, OPT, LANG, TMP, limits, port, inside, f"{RUNTIME}/bootstrap.py")
        python = _staged(mounts, [*OWN_FOLDER, *start(RUNTIME, "bootstrap.bootstrap")], user, temporary)

        def program(command: Sequence[str], environment: Mapping[str, str], directory: str) -> Launch:
            wanted = {
                **_stage(mounts, user, temporary),
                "process": [*command],
                "environment": {**environment},
            }
            return launched({**wanted, "directory": directory})

        return PlainProcesses(places, temporary, python, program, listener)

    async def _sweep(self) -> None:
        """Remove the temporary folders of environments that have ended."""
        ended = [one for one in self._running if one.closed and not one.running]
        self._running = [one for one in self._running if one not in ended]
        for processes in ended:
            await self._folders.call(shutil.rmtree, processes.temporary, ignore_errors=True)


def _link(files: list[tuple[str, str]]) -> None:
    """Make each place a link to its source."""
    for source, place in files:
        Path(place).unlink(missing_ok=True)
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).symlink_to(source)


def _be_readable(readable: bool) -> None:
    """Whether others of its user may look into the daemon. Source: Linux, prctl(2), PR_SET_DUMPABLE."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, int(readable), 0, 0, 0)


def _limits(function: FunctionSpec) -> dict[str, int]:
    """Source: AWS, "Lambda quotas"."""
    limits = {
        "RLIMIT_DATA": BASE_BYTES + data_mb(function) * 1024 * 1024,
        "RLIMIT_FSIZE": function.ephemeral_storage_mb * 1024 * 1024,
        "RLIMIT_NOFILE": 1024,
        "RLIMIT_CORE": 0,
    }
    if os.geteuid() == 0:
        limits["RLIMIT_NPROC"] = PROCESSES_OF_ALL
    return limits


def _stage(mounts: list[tuple[str, str]], user: int | None, temporary: Path | None) -> dict[str, Any]:
    _, _, lang = interpreter(f"{STAGE}/lang")
    writable = [] if temporary is None else [(str(temporary), TMP)]
    return {"mounts": lang + mounts, "writable": writable, "uid": user}


def _staged(
    mounts: list[tuple[str, str]], program: list[str], user: int | None, temporary: Path | None = None
) -> Launch:
    python, environment, _ = interpreter(f"{STAGE}/lang")
    wanted = {**_stage(mounts, user, temporary), "process": [python, *program], "environment": environment}
    return launched(wanted)


def _unstaged(command: list[str], user: int) -> Launch:
    return launched({"process": command, "environment": {}, "mounts": [], "uid": user})


def _program_unstaged(
    user: int | None, command: Sequence[str], environment: Mapping[str, str], directory: str
) -> Launch:
    """As an ordinary user too through the launcher, which sets environment and folder."""
    wanted = {"process": [*command], "environment": {**environment}, "mounts": [], "uid": user}
    return launched({**wanted, "directory": directory})


async def _try(launch: Launch) -> str:
    """Why a command fails; empty if it does not."""
    with launch.opened() as (command, descriptors):
        process = await asyncio.create_subprocess_exec(
            *command, pass_fds=descriptors, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env={}, cwd="/",
        )  # fmt: skip
    _, said = await process.communicate()
    if process.returncode == 0:
        return ""
    lines = said.decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else f"exit status {process.returncode}"
