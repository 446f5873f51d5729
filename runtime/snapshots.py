"""Our own Python bootstrap with snapshots: the handler is loaded once, and each runtime is a fork of that.

    snapshot ── loaded, hooks before ──► kept ── restore ──► runtime ── reset ──► gone
                                          ▲                                        │
                                          └────────────────────────────────────────┘

All of it is in the environment's own sandbox. A snapshot that cannot fork goes on itself, once, and a reset
loads the handler again: where the driver has no supervisor, or what the function loads starts threads.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import msgspec

from millstream.runtime.framed import FramedLink
from millstream.runtime.link import Answer, Broken, Invocation
from millstream.runtime.processes import Process, Processes

logger = logging.getLogger(__name__)

FORKS = b"forks"
"""What a snapshot says that can fork; see `bootstrap/snapshotting.py`."""


class SnapshotLinks:
    """Implements Links."""

    def __init__(self, function: str, processes: Processes, config: dict[str, Any], output: int) -> None:
        self._function = function
        self._processes = processes
        self._config = msgspec.json.encode(config)
        self._output = output

    @property
    def kept(self) -> bool:
        return _is_there(self._processes.kept)

    def link(self) -> SnapshotLink:
        return SnapshotLink(self._function, self._processes, self._config, self._output)


class SnapshotLink:
    """Implements Link."""

    def __init__(self, function: str, processes: Processes, config: bytes, output: int) -> None:
        self._function = function
        self._processes = processes
        self._config = config
        self._output = output
        self._runtime: FramedLink | None = None  # what runs, or will; None: the snapshot is kept, and forks
        self._snapshot = False

    @property
    def snapshot(self) -> bool:
        return self._snapshot

    @property
    def quiet(self) -> bool:
        return _is_there(self._processes.kept) if self._runtime is None else self._runtime.quiet

    @property
    def process(self) -> Process | None:
        return self._processes.kept if self._runtime is None else self._runtime.process

    @property
    def waiting(self) -> bool:
        return self.quiet

    async def settled(self) -> None:
        if not self.waiting:
            raise Broken

    async def start(self) -> None:
        """Load the handler, unless what did so is there."""
        if _is_there(self._processes.kept):
            self._snapshot = True
            return
        if self._processes.kept is not None:
            self._lose()
        launch = partial(self._processes.start_snapshot, output=self._output)
        self._runtime = FramedLink(self._processes, launch, b"C", self._config)
        await self._runtime.start()

    async def ready(self) -> bytes | None:
        if self._runtime is None:
            return None
        document = await self._runtime.ready()
        self._snapshot = document is None
        if self._snapshot and self._runtime.said == FORKS:
            self._processes.kept = self._runtime.process
            self._runtime.close()
            self._runtime = None
        return document

    async def restore(self) -> bytes | None:
        """A snapshot of which this failed once is not asked again, whoever's fault it was."""
        document, good = None, False
        try:
            if self._runtime is None:
                self._runtime = await self._fork()
            else:
                self._runtime.go_on()
            self._snapshot = False
            document = await self._runtime.ready()
            good = document is None
        finally:
            if not good:
                self._processes.kept = None
        return document

    async def _fork(self) -> FramedLink:
        """Raises NotStarted."""
        runtime = FramedLink(self._processes, self._processes.restore, b"A", b"")
        forked = False
        try:
            await runtime.start()
            forked = True
        finally:
            if not forked:
                runtime.close()
                self._lose()
        return runtime

    def _lose(self) -> None:
        self._processes.kept = None
        logger.warning("snapshot lost, the function is loaded again", extra={"function": self._function})

    async def run(self, invocation: Invocation) -> Answer:
        if self._runtime is None:
            raise Broken
        return await self._runtime.run(invocation)

    @property
    def response_s(self) -> float:
        return 0.0 if self._runtime is None else self._runtime.response_s

    def peak_kb(self) -> int:
        return 0 if self._runtime is None else self._runtime.peak_kb()

    def memory_kb(self) -> int:
        """Of the runtime alone: what the snapshot holds is shared with it, but for what it has changed."""
        process = self.process
        return 0 if process is None else self._processes.memory_kb(process)

    def close(self) -> None:
        if self._runtime is not None:
            self._runtime.close()


def _is_there(process: Process | None) -> bool:
    return process is not None and not process.exited.done()
