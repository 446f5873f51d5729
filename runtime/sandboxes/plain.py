"""The processes of an environment of the process driver: each leads a session, and ends with its group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from millstream.runtime.processes import NotStarted, Places, Process
from millstream.runtime.sandboxes.launching import UMASK, Launch
from millstream.runtime.sandboxes.supervised import status_kb

Command = Callable[[Sequence[str], Mapping[str, str], str], Launch]
"""What to execute for a program, its environment and its folder: as root, a launcher that gives up root."""


class _Watch(asyncio.SubprocessProtocol):
    """Tells of a process's end."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.SubprocessTransport", transport)

    def process_exited(self) -> None:
        status: int | None = None
        if self.transport is not None:
            status = self.transport.get_returncode()
            self.transport.close()
        if not self.process.exited.done():
            self.process.exited.set_result(-signal.SIGKILL if status is None else status)


class PlainProcesses:
    """Implements Processes, without a sandbox around them."""

    def __init__(
        self,
        places: Places,
        temporary: Path,
        python: Launch,
        command: Command,
        listener: socket.socket | None,
    ) -> None:
        self._places = places
        self.temporary = temporary
        self._python = python
        self._command = command
        self._listener = listener
        self._watches: list[_Watch] = []
        self.kept: Process | None = None  # is never set: no process here forks
        self.closed = False  # nothing more is started

    @property
    def places(self) -> Places:
        return self._places

    @property
    def listener(self) -> socket.socket | None:
        return self._listener

    @property
    def there(self) -> bool:
        return True

    @property
    def running(self) -> bool:
        """True while one of them is there."""
        return any(not watch.process.exited.done() for watch in self._watches)

    async def start_python(self, frames: Sequence[int], output: int) -> Process:
        return await self._start(self._python, [*frames], output)

    async def start_snapshot(self, frames: Sequence[int], output: int) -> Process:
        return await self.start_python(frames, output)

    async def restore(self, frames: Sequence[int]) -> Process:
        raise NotStarted("there are no snapshots that fork")

    async def start_program(
        self, command: Sequence[str], environment: Mapping[str, str], directory: str, output: int
    ) -> Process:
        return await self._start(self._command(command, environment, directory), [], output)

    async def _start(self, launch: Launch, descriptors: list[int], output: int) -> Process:
        """The numbers of `descriptors` are its arguments."""
        loop = asyncio.get_running_loop()
        watch = _Watch(Process(loop.create_future()))
        try:
            with launch.opened() as (command, more):
                transport, _ = await loop.subprocess_exec(
                    lambda: watch, *command, *map(str, descriptors), pass_fds=[*descriptors, *more],
                    stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env={}, cwd="/",
                    start_new_session=True, umask=UMASK,
                )  # fmt: skip
        except OSError as error:
            raise NotStarted(f"process: {error.strerror}") from error
        watch.process.pid = transport.get_pid()
        self._watches = [one for one in self._watches if not one.process.exited.done()]
        self._watches.append(watch)
        return watch.process

    def make_socket(self) -> asyncio.Future[socket.socket]:
        made: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        try:
            made.set_result(socket.socket())
        except OSError as error:
            made.set_exception(NotStarted(f"socket: {error.strerror}"))
        return made

    def signal(self, process: Process, number: int) -> None:
        if not process.exited.done():
            _signal_group(process.pid, number)

    def stop(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal_all(signal.SIGCONT)

    def end(self) -> None:
        self._signal_all(signal.SIGKILL)

    async def ended(self) -> None:
        for watch in self._watches:
            await asyncio.wait([watch.process.exited])

    def kill(self) -> None:
        self.end()
        self.closed = True
        if self._listener is not None:
            self._listener.close()

    async def gone(self) -> None:
        await self.ended()  # the kernel ends what SIGKILL was sent to

    def out_of_memory(self) -> bool:
        return False

    def peak_kb(self, process: Process) -> int:
        return status_kb(process.pid, "VmHWM")

    def memory_kb(self, process: Process) -> int:
        return status_kb(process.pid, "VmRSS")

    def _signal_all(self, number: int) -> None:
        """The groups of those that ended too: what they started may be left in them."""
        for watch in self._watches:
            _signal_group(watch.process.pid, number)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
