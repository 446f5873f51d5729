"""Our own Python bootstrap, over frames: the quick way for Python handlers.

The frames are listed in `bootstrap/bootstrap.py`. What they say is hostile: ids, sizes and JSON are
checked, and anything wrong breaks the link.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec

from millstream.contract.functions import MAX_RESPONSE_BYTES
from millstream.runtime.ends import make_ends
from millstream.runtime.frames import Frames
from millstream.runtime.link import Answer, Broken, Invocation, failure, success
from millstream.runtime.processes import NotStarted, Process, Processes

NUMBER = struct.Struct("!Q")
INVOCATION = struct.Struct("!36sQB")
PREFIX_BYTES = 36 + NUMBER.size
FRAME_BYTES = MAX_RESPONSE_BYTES + 64 * 1024
"""Longest frame that is taken: a response and room for an error document about it."""

Launch: TypeAlias = Callable[[Sequence[int]], Awaitable[Process]]
"""Starts a bootstrap with its descriptors for frames. Raises NotStarted."""


class FramedLinks:
    """Implements Links."""

    def __init__(self, processes: Processes, config: dict[str, Any], output: int) -> None:
        self._processes = processes
        self._config = msgspec.json.encode(config)
        self._launch = partial(processes.start_python, output=output)

    @property
    def kept(self) -> bool:
        return False

    def link(self) -> FramedLink:
        return FramedLink(self._processes, self._launch, b"C", self._config)


class FramedLink:
    """Implements Link."""

    def __init__(self, processes: Processes, launch: Launch, kind: bytes, first: bytes) -> None:
        self._processes = processes
        self._launch = launch
        self._first = kind, first  # the frame that it is sent before it is ready
        self._frames: Frames | None = None
        self.process: Process | None = None
        self.said = b""  # as it was ready
        self._peak_kb = 0

    @property
    def snapshot(self) -> bool:
        return False

    async def restore(self) -> bytes | None:
        return None

    @property
    def quiet(self) -> bool:
        return self._frames is not None and self._frames.quiet

    @property
    def waiting(self) -> bool:
        return self.quiet  # its answer is the last that it does

    async def settled(self) -> None:
        if not self.waiting:
            raise Broken

    async def start(self) -> None:
        try:
            ends = make_ends()
        except OSError as error:
            raise NotStarted(f"frames: {error.strerror}") from error
        self._frames = frames = Frames(ends.reader, ends.writer, FRAME_BYTES)
        with ends.theirs() as theirs:
            rest = frames.send(*self._first)  # it finds its first frame there
            self.process = await self._launch(theirs)
        self.process.exited.add_done_callback(self._hang_up)
        if rest is not None:  # pipes of a user who has many are small
            await frames.send_rest(rest)
        if self._frames is None:  # closed meanwhile, for an extension has failed
            raise Broken

    def go_on(self) -> None:
        """Tell one that waits after its snapshot; it is ready once more. Raises Broken."""
        self._open().send(b"A")

    async def ready(self) -> bytes | None:
        kind, body = await self._open().receive()
        if kind == b"R":
            self.said = bytes(body)
            return None
        if kind != b"E":
            raise Broken
        return bytes(body)

    async def run(self, invocation: Invocation) -> Answer:
        frames, request_id = self._open(), invocation.request_id
        identity = request_id.encode()
        self._peak_kb = 0
        trace = invocation.trace.encode()
        head = INVOCATION.pack(identity, invocation.deadline_ms, len(trace))
        rest = frames.send(b"I", head, trace, invocation.event)
        if rest is not None:
            await frames.send_rest(rest)
        kind, body = await frames.receive()
        if kind not in (b"S", b"F") or body[:36] != identity or len(body) < PREFIX_BYTES:
            raise Broken
        (self._peak_kb,) = NUMBER.unpack_from(body, 36)
        payload = bytes(body[PREFIX_BYTES:])
        if kind == b"F":
            return failure(payload, request_id)
        if len(payload) > MAX_RESPONSE_BYTES:
            raise Broken
        return await success(payload, request_id)

    def peak_kb(self) -> int:
        if self._peak_kb or self.process is None:
            return self._peak_kb  # as the bootstrap said with its answer
        return self._processes.peak_kb(self.process)

    @property
    def response_s(self) -> float:
        return 0.0 if self._frames is None else self._frames.took_s

    def memory_kb(self) -> int:
        return 0 if self.process is None else self._processes.memory_kb(self.process)

    def close(self) -> None:
        frames, self._frames = self._frames, None
        if frames is not None:
            frames.close()

    def _hang_up(self, exited: asyncio.Future[int]) -> None:
        if self._frames is not None:
            self._frames.hang_up()

    def _open(self) -> Frames:
        if self._frames is None:
            raise Broken
        return self._frames
