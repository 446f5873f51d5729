"""Reduced isolation, by explicit choice: a plain process a function environment.

What it has: a cleared environment, resource limits, a session and a temporary folder of its own, an
end by process group. What it has not: a function can read what the daemon's user can, reach the
network, and signal that user's processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import millstream
from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import LogSink
from millstream.runtime import bootstrap
from millstream.runtime.environment import FramedEnvironment
from millstream.runtime.output import Output

PROGRAM = Path(bootstrap.__file__).resolve().parent / "bootstrap.py"

PACKAGES = str(Path(millstream.__file__).resolve().parents[1])
"""Where `import millstream` is found, and whatever else is installed beside it."""

BASE_BYTES = 64 * 1024 * 1024
"""Memory of the interpreter itself, on top of the function's own."""


class _Group:
    """The processes of an environment: one process group, and the temporary folder that they have."""

    def __init__(self, process: asyncio.subprocess.Process, temporary: Path) -> None:
        self._process = process
        self._temporary = temporary

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        shutil.rmtree(self._temporary, ignore_errors=True)

    async def gone(self) -> None:
        await self._process.wait()


class ProcessSandbox:
    """Implements Sandbox on any system that Python's asyncio has subprocesses on."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._groups: list[_Group] = []

    async def start(self) -> None:
        self._work_dir.mkdir(parents=True, exist_ok=True)

    async def create(self, function: FunctionSpec, log: LogSink) -> FramedEnvironment:
        stream = uuid.uuid4().hex
        ours, theirs = socket.socketpair()
        output = Output(log, stream[:8])
        temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=self._work_dir))
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", str(PROGRAM), str(theirs.fileno()),
                    pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
                    stdout=output.write_end, stderr=output.write_end,
                    env={}, cwd=temporary, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                ours.close()
                output.close()
                raise SandboxUnavailable(f"{function.name}: process: {error.strerror}") from error
        output.close_write_end()
        _limit(process.pid, function)
        self._groups = [group for group in self._groups if group.running] + [_Group(process, temporary)]
        environment = FramedEnvironment(
            _with_tmp(function, temporary), ours, output, self._groups[-1], log, stream[:8]
        )
        try:
            await environment.isolated(str(function.code), [PACKAGES])
        except EOFError as error:
            raise SandboxUnavailable(f"{function.name}: {error}") from error
        return environment

    async def aclose(self) -> None:
        for group in self._groups:
            group.kill()
            await group.gone()


def _limit(pid: int, function: FunctionSpec) -> None:
    """Limits from outside, where the system has prlimit; the process has not read its code yet."""
    if not hasattr(resource, "prlimit"):
        return
    limits = {
        resource.RLIMIT_DATA: BASE_BYTES + function.memory_size_mb * 1024 * 1024,
        resource.RLIMIT_FSIZE: function.ephemeral_storage_mb * 1024 * 1024,
        resource.RLIMIT_NOFILE: 1024,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, limit, (value, value))


def _with_tmp(function: FunctionSpec, temporary: Path) -> FunctionSpec:
    """The function with TMPDIR set, for /tmp itself is the host's."""

    return replace(function, environment={**function.environment, "TMPDIR": str(temporary)})
