"""Any runtime that speaks the Runtime API: a program in the environment, and HTTP to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from millstream.runtime.api.runtime import VERSION, RuntimeApi
from millstream.runtime.api.server import Server
from millstream.runtime.link import Answer, Invocation, Link
from millstream.runtime.processes import Process, Processes


@dataclass(frozen=True, slots=True)
class Program:
    """What is started as a runtime."""

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: str


class ApiLink:
    """Implements Link."""

    def __init__(
        self,
        processes: Processes,
        program: Program,
        server: Server,
        arn: str,
        output: int,
        *,
        snapshots: bool,
    ) -> None:
        self._processes = processes
        self._program = program
        self._server = server
        self._output = output
        self._api = RuntimeApi(arn, snapshots=snapshots)
        self.process: Process | None = None

    @property
    def quiet(self) -> bool:
        return self.process is not None and not self.process.exited.done()

    @property
    def snapshot(self) -> bool:
        return self._api.snapshot

    async def restore(self) -> bytes | None:
        return await self._api.restore()

    @property
    def waiting(self) -> bool:
        return self._api.waiting

    async def settled(self) -> None:
        await self._api.settled()

    async def start(self) -> None:
        self._server.services[VERSION] = self._api
        program = self._program
        self.process = await self._processes.start_program(
            program.command, program.environment, program.directory, self._output
        )
        self.process.exited.add_done_callback(self._ended)

    async def ready(self) -> bytes | None:
        return await self._api.loaded()

    async def run(self, invocation: Invocation) -> Answer:
        return await self._api.run(invocation)

    def peak_kb(self) -> int:
        return 0 if self.process is None else self._processes.peak_kb(self.process)

    @property
    def response_s(self) -> float:
        return self._api.response_s

    def memory_kb(self) -> int:
        return 0 if self.process is None else self._processes.memory_kb(self.process)

    def close(self) -> None:
        self._api.end(None)

    def _ended(self, exited: asyncio.Future[int]) -> None:
        self._api.end(None if exited.cancelled() else exited.result())


class ApiLinks:
    """Implements Links: the server, which is another's, outlives each runtime."""

    def __init__(self, make: Callable[[], ApiLink]) -> None:
        self._make = make

    @property
    def kept(self) -> bool:
        return False

    def link(self) -> Link:
        return self._make()
