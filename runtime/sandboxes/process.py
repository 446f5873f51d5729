"""Reduced isolation, by explicit choice: a plain process for each environment.

What it has: a cleared environment, resource limits per process, a session and a temporary folder of its
own, an end by process group; under a root daemon, an ordinary user's id and no way into root's folders.
What it has not: a function can read what that user can, reach the network, signal and read that user's
other processes, other functions' among them, and leave processes behind by leaving its session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import millstream
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import LogSink
from millstream.runtime import bootstrap, zygote
from millstream.runtime.environment import FramedEnvironment
from millstream.runtime.sandboxes.ends import open_ends
from millstream.runtime.sandboxes.layout import UNPRIVILEGED_ID, interpreter, runtime_files
from millstream.runtime.sandboxes.namespace import status_kb

PROGRAM = Path(bootstrap.__file__).resolve().parent / "bootstrap.py"
LAUNCHER = Path(zygote.__file__).resolve().parent / "launch.py"

PACKAGES = str(Path(millstream.__file__).resolve().parents[1])
"""Where `import millstream` is found, and whatever else is installed beside it."""

STAGE = "/tmp"
TASK, RUNTIME, TMP = f"{STAGE}/task", f"{STAGE}/runtime", f"{STAGE}/tmp"
"""Where a root daemon shows code, runtime and temporary folder to processes that cannot reach its own."""

BASE_BYTES = 64 * 1024 * 1024
"""Memory of the interpreter itself, on top of the function's own."""


class _Group:
    """The processes of an environment: one process group, and the temporary folder that they have."""

    def __init__(self, process: asyncio.subprocess.Process, temporary: Path) -> None:
        self._process = process
        self.temporary = temporary

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def gone(self) -> None:
        await self._process.wait()  # the kernel ends what SIGKILL was sent to

    def out_of_memory(self) -> bool:
        return False

    def peak_kb(self) -> int:
        return status_kb(self._process.pid, "VmHWM")


@dataclass(frozen=True, slots=True)
class _Places:
    """Where an environment finds its things, and what starts it there."""

    command: list[str]  # the descriptor of its socket is appended
    task: str
    tmp: str
    paths: list[str]


class ProcessSandbox:
    """Implements Sandbox on any system that Python's asyncio has subprocesses on."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._groups: list[_Group] = []
        self._folders = BlockingClient("process-folders", 1)
        self._staged = False

    async def start(self) -> None:
        """Make ready; as root, find out how to give up root."""
        self._work_dir.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            trial = _staged([(str(PROGRAM), f"{RUNTIME}/bootstrap.py")], ["-c", ""])
            self._staged = sys.platform.startswith("linux") and not await _try(trial)
            if not self._staged and (why := await _try(_unstaged(["-c", ""]))):
                wanted = f"wanted an interpreter that user {UNPRIVILEGED_ID} can run, found: {why}"
                raise SandboxUnavailable(f"isolation process: {wanted}; or run as an ordinary user")

    async def create(self, function: FunctionSpec, log: LogSink) -> FramedEnvironment:
        await self._sweep()
        ends = open_ends(function.name, log)
        group: _Group | None = None
        try:
            temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=self._work_dir))
            if os.geteuid() == 0:
                os.chown(temporary, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            places = self._places(function, temporary)
            process = await asyncio.create_subprocess_exec(
                *places.command, str(ends.theirs.fileno()),
                pass_fds=[ends.theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
                stdout=ends.output.write_end, stderr=ends.output.write_end,
                env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
            group = _Group(process, temporary)
        except OSError as error:
            raise SandboxUnavailable(f"{function.name}: process: {error.strerror}") from error
        finally:
            if group is None:
                ends.close()
        ends.handed_over()
        self._groups.append(group)
        function = replace(function, environment={**function.environment, "TMPDIR": places.tmp})
        environment = FramedEnvironment(function, ends.ours, ends.output, group, log, ends.stream)
        try:
            await environment.isolated(places.task, places.paths, _limits(function))
        except EOFError as error:
            raise SandboxUnavailable(f"{function.name}: {error}; its log says why") from error
        return environment

    async def aclose(self) -> None:
        for group in self._groups:
            group.kill()
            await group.gone()
        await self._sweep()
        self._folders.close()

    def _places(self, function: FunctionSpec, temporary: Path) -> _Places:
        if not self._staged:
            program = ["-I", str(PROGRAM)]
            command = [sys.executable, *program] if os.geteuid() else _unstaged(program)
            return _Places(command, str(function.code), str(temporary), [PACKAGES])
        mounts = [*runtime_files(RUNTIME), (str(function.code), TASK)]
        command = _staged(mounts, ["-I", f"{RUNTIME}/bootstrap.py"], temporary)
        return _Places(command, TASK, TMP, [RUNTIME])

    async def _sweep(self) -> None:
        """Remove the temporary folders of environments that have ended."""
        ended = [group for group in self._groups if not group.running]
        self._groups = [group for group in self._groups if group.running]
        for group in ended:
            await self._folders.call(shutil.rmtree, group.temporary, ignore_errors=True)


def _limits(function: FunctionSpec) -> dict[str, int]:
    """Source: AWS, "Lambda quotas"."""
    limits = {
        "RLIMIT_DATA": BASE_BYTES + function.memory_size_mb * 1024 * 1024,
        "RLIMIT_FSIZE": function.ephemeral_storage_mb * 1024 * 1024,
        "RLIMIT_NOFILE": 1024,
        "RLIMIT_CORE": 0,
    }
    if os.geteuid() == 0:  # counts all processes of a user: of this one, there are only functions
        limits["RLIMIT_NPROC"] = 1024
    return limits


def _staged(mounts: list[tuple[str, str]], program: list[str], temporary: Path | None = None) -> list[str]:
    python, environment, lang = interpreter(f"{STAGE}/lang")
    wanted = {
        "process": [python, *program],
        "environment": environment,
        "mounts": lang + mounts,
        "writable": [] if temporary is None else [(str(temporary), TMP)],
        "uid": UNPRIVILEGED_ID,
    }
    return [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(wanted)]


def _unstaged(program: list[str]) -> list[str]:
    wanted = {"process": [sys.executable, *program], "environment": {}, "mounts": [], "uid": UNPRIVILEGED_ID}
    return [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(wanted)]


async def _try(command: list[str]) -> str:
    """Why a command fails; empty if it does not."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE, env={}, cwd="/",
    )  # fmt: skip
    _, said = await process.communicate()
    if process.returncode == 0:
        return ""
    lines = said.decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else f"exit status {process.returncode}"
