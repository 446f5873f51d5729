"""The processes of an environment of bwrap or docker: a pid namespace, whose first one supervises.

The other end of the control socket is `zygote/supervisor.py`, where the messages are listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from millstream.contract.functions import FunctionSpec
from millstream.runtime.egress import Forwards, endpoints
from millstream.runtime.processes import NotStarted, Places, Process
from millstream.runtime.sandboxes.cgroups import Share, Watch
from millstream.runtime.sandboxes.freezers import Freezer

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 4096
MOST_LISTENERS = 64
START_S = 20.0
"""How long a process may take to be forked; it takes a millisecond."""


class _Message(msgspec.Struct):
    up: bool = False
    started: int = 0
    exited: int = 0
    failed: int = 0
    status: int = 0
    why: str = ""
    ended: bool = False
    socket: int = 0
    restless: bool = False


class SupervisedProcesses:
    """Implements Processes. The socket's other end is the supervisor's, which the function cannot reach."""

    def __init__(self, function: str, pidfd: int, control: socket.socket, places: Places) -> None:
        self._function = function  # its name
        self._places = places
        self._pidfd = pidfd
        self._control = control
        self._processes: dict[int, Process] = {}
        self._starting: dict[int, asyncio.Future[None]] = {}
        self._sockets: dict[int, asyncio.Future[socket.socket]] = {}  # asked for
        self._last = 0
        self.kept: Process | None = None
        self._listener: socket.socket | None = None
        self.exits: list[socket.socket] = []  # listen for what the function may reach
        self._forwards: Forwards | None = None
        self.bury: Callable[[], Awaitable[None]] | None = (
            None  # ends what is around them, once they are killed
        )
        self.share: Share | Watch | None = None  # of a cgroup's memory; given back when they are gone
        self.freezer: Freezer | None = None  # its supervisor, and so all of it, is in that; given back, too
        self._frozen = False  # by that
        loop = asyncio.get_running_loop()
        self._up: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] | None = None
        self._gone = asyncio.Event()
        self._broken = self._killed = False
        control.setblocking(False)
        loop.add_reader(control, self._read)

    @property
    def places(self) -> Places:
        return self._places

    @property
    def listener(self) -> socket.socket | None:
        return self._listener

    @property
    def there(self) -> bool:
        return not self._broken

    async def up(self) -> None:
        """Wait until the isolation stands. Raises NotStarted: it does not."""
        try:
            async with asyncio.timeout(START_S):
                await self._up
        except TimeoutError as error:
            raise NotStarted(f"its isolation did not stand within {START_S:g} s") from error

    async def open_exits(self, function: FunctionSpec) -> None:
        """Forward what the function may reach, once the isolation stands. Raises OSError."""
        if self.exits:
            self._forwards = Forwards(function.name)
            await self._forwards.start(list(zip(self.exits, endpoints(function.network), strict=True)))

    async def start_python(self, frames: Sequence[int], output: int) -> Process:
        return await self._start({"op": "python"}, [*frames, output])

    async def start_snapshot(self, frames: Sequence[int], output: int) -> Process:
        return await self._start({"op": "snapshot"}, [*frames, output])

    async def restore(self, frames: Sequence[int]) -> Process:
        return await self._start({"op": "restore"}, [*frames])

    async def start_program(
        self, command: Sequence[str], environment: Mapping[str, str], directory: str, output: int
    ) -> Process:
        what = {"op": "exec", "command": command, "environment": environment, "directory": directory}
        return await self._start(what, [output])

    async def _start(self, request: dict[str, Any], descriptors: list[int]) -> Process:
        loop = asyncio.get_running_loop()
        self._last += 1
        number = self._last
        process = Process(loop.create_future())
        started = loop.create_future()
        self._processes[number], self._starting[number] = process, started
        try:
            self._tell({**request, "id": number}, descriptors)
            async with asyncio.timeout(START_S):
                await started
        except TimeoutError as error:
            raise NotStarted(f"it was not forked within {START_S:g} s") from error
        finally:
            self._starting.pop(number, None)
        return process

    def make_socket(self) -> asyncio.Future[socket.socket]:
        made: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._last += 1
        self._sockets[self._last] = made
        try:
            self._tell({"op": "socket", "id": self._last}, [])
        except NotStarted as error:
            del self._sockets[self._last]
            made.set_exception(error)
        return made

    def signal(self, process: Process, number: int) -> None:
        for known, one in self._processes.items():
            if one is process:
                self._say({"op": "signal", "id": known, "number": number})

    def stop(self) -> None:
        # A supervisor that is frozen, too, would end nothing.
        self._frozen = not self._ending and self._by_kernel(Freezer.freeze)
        if not self._frozen:
            self._say({"op": "stop"})

    def go_on(self) -> None:
        if not self._frozen:
            self._say({"op": "continue"})
        elif not self._by_kernel(Freezer.thaw):
            self._end_now()  # whoever waits for it is told by the end of file
        self._frozen = False

    def _by_kernel(self, do: Callable[[Freezer], None]) -> bool:
        """False if it has no cgroup, or the kernel refuses, which is said."""
        if self.freezer is None or self._killed:
            return False
        try:
            do(self.freezer)
        except OSError as error:
            extra = {"function": self._function, "error": error.strerror}
            logger.warning("an environment's cgroup does not freeze or thaw it", extra=extra)
            return False
        return True

    @property
    def _ending(self) -> bool:
        return self._ended is not None and not self._ended.done()

    def end(self) -> None:
        if self._frozen:
            self.go_on()
        self._ended = asyncio.get_running_loop().create_future()
        keep = self.kept is not None and not self.kept.exited.done()
        self._say({"op": "end", "keep": keep})

    async def ended(self) -> None:
        if self._ended is not None:
            if self._broken and not self._ended.done():
                raise NotStarted("the sandbox ended")
            await self._ended
            self._ended = None

    def kill(self) -> None:
        self._killed = True
        self._end_now()
        self._break("the sandbox was ended")
        self._control.close()
        if self._forwards is not None:
            self._forwards.close()
        for listener in (self._listener, *self.exits):
            if listener is not None:
                listener.close()
        asyncio.get_running_loop().add_reader(self._pidfd, self._end)

    def _end_now(self) -> None:
        # The first process in a container is of a user whom only root may signal; it ends by the end of file.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def gone(self) -> None:
        if self.bury is not None:
            await self.bury()
        await self._gone.wait()  # the kernel ends what SIGKILL was sent to

    def out_of_memory(self) -> bool:
        return self.share is not None and self.share.out_of_memory()

    def peak_kb(self, process: Process) -> int:
        return status_kb(process.pid, "VmHWM")

    def memory_kb(self, process: Process) -> int:
        return status_kb(process.pid, "VmRSS")

    def _say(self, message: dict[str, Any]) -> None:
        """Tell it something that needs no answer; a supervisor that is gone ends by its end of file."""
        with contextlib.suppress(NotStarted):
            self._tell(message, [])

    def _tell(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if self._broken:
            raise NotStarted("the sandbox ended")
        try:
            socket.send_fds(self._control, [msgspec.json.encode(message)], descriptors)
        except OSError as error:  # a supervisor that does not read, or is gone
            raise NotStarted(f"its supervisor does not answer: {error.strerror}") from error

    def _read(self) -> None:
        try:
            data, received, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, MOST_LISTENERS)
        except BlockingIOError:
            return
        except OSError:
            data, received = b"", []
        if not data:
            self._break("the sandbox ended")
            return
        self._take(msgspec.json.decode(data, type=_Message), received)

    def _take(self, message: _Message, received: list[int]) -> None:
        if message.up:
            self._take_listeners([socket.socket(fileno=received.pop(0)) for _ in received[:]])
            _set(self._up)
        if message.started:
            if received and message.started in self._processes:
                self._processes[message.started].pid = pid_of(received[0])
            _set(self._starting.get(message.started))
        if message.failed:
            _fail(self._starting.get(message.failed), f"fork: {message.why}")
        if message.exited and (process := self._processes.pop(message.exited, None)) is not None:
            _exited(process, message.status)
        if message.restless:
            logger.warning("environment ended, it did not stay frozen", extra={"function": self._function})
        if message.ended:
            _set(self._ended)
        if message.socket and (asked := self._sockets.pop(message.socket, None)) is not None:
            _take_socket(asked, received)
        for descriptor in received:
            os.close(descriptor)

    def _take_listeners(self, listeners: list[socket.socket]) -> None:
        for listener in listeners:
            listener.setblocking(False)
        if self._places.port and listeners:
            self._listener = listeners.pop(0)
        self.exits = listeners

    def _break(self, why: str) -> None:
        """The supervisor is gone: whoever waits for it is told."""
        if self._broken:
            return
        self._broken = True
        asyncio.get_running_loop().remove_reader(self._control)
        for waiting in (self._up, *self._starting.values(), self._ended):
            _fail(waiting, why)
        for asked in self._sockets.values():
            _take_socket(asked, [])
        self._sockets.clear()
        for process in self._processes.values():
            _exited(process, -signal.SIGKILL)
        self._processes.clear()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        for given in (self.share, self.freezer):
            if given is not None:
                given.close()
        self._gone.set()


def _exited(process: Process, status: int) -> None:
    if not process.exited.done():
        process.exited.set_result(status)


def _take_socket(asked: asyncio.Future[socket.socket], received: list[int]) -> None:
    """Answer with the socket; what is left in `received` is closed by the caller."""
    if asked.done():
        return
    if received:
        asked.set_result(socket.socket(fileno=received.pop(0)))
    else:
        asked.set_exception(NotStarted("no socket in its network"))
        asked.exception()  # nobody need be waiting


def _set(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None] | None, why: str) -> None:
    if future is not None and not future.done():
        future.set_exception(NotStarted(why))
        future.exception()  # nobody need be waiting


def pid_of(pidfd: int) -> int:
    """The process of a pidfd. -1: it is gone, or no descriptor is left to find out."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines():
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return -1


def status_kb(pid: int, name: str) -> int:
    """A size of /proc/PID/status in KB. 0: the process is gone."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
