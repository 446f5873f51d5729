"""Frames from an end that may send anything."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.runtime import ends as ends_module
from millstream.runtime.ends import Ends, make_ends, make_pipes
from millstream.runtime.frames import HEADER, READ_BYTES, UNASKED_BYTES, Frame, Frames
from millstream.runtime.link import Broken
from tests.examples import examples

LIMIT = 1024 * 1024


class Other:
    """The process's side, without the process."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._open = [os.dup(descriptor) for descriptor in descriptors]
        for descriptor in self._open:
            os.set_blocking(descriptor, False)

    def send(self, data: bytes) -> int:
        return os.write(self._open[-1], data)

    async def send_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[self.send(data) :]
            except BlockingIOError:
                await asyncio.sleep(0)

    def read(self) -> bytes:
        try:
            return os.read(self._open[0], LIMIT)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())


@asynccontextmanager
async def connected(make: Callable[[], Ends]) -> AsyncIterator[tuple[Frames, Other]]:
    made = make()
    frames = Frames(made.reader, made.writer, LIMIT)
    with made.theirs() as descriptors:
        other = Other(descriptors)
    yield frames, other
    frames.close()
    other.close()


@pytest.fixture(params=[make_ends, make_pipes])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Frames, Other]]:
    async with connected(request.param) as (frames, other):
        yield frames, other


Both = tuple[Frames, Other]


def frame(kind: bytes, body: bytes) -> bytes:
    return HEADER.pack(kind, len(body)) + body


async def send(frames: Frames, kind: bytes, *parts: bytes) -> None:
    rest = frames.send(kind, *parts)
    if rest is not None:
        await frames.send_rest(rest)


async def soon(frames: Frames) -> Frame:
    async with asyncio.timeout(5.0):
        return await frames.receive()


async def test_frames_come_whole_and_in_order_however_they_are_cut(ends: Both) -> None:
    frames, theirs = ends
    data = frame(b"A", b"one") + frame(b"B", b"") + frame(b"C", b"three")
    for byte in data:
        theirs.send(bytes([byte]))
        await asyncio.sleep(0)
    assert [await soon(frames) for _ in range(3)] == [(b"A", b"one"), (b"B", b""), (b"C", b"three")]
    assert frames.quiet


async def test_a_frame_as_long_as_the_limit_is_taken(ends: Both) -> None:
    frames, theirs = ends
    body = bytes(LIMIT)
    async with asyncio.TaskGroup() as group:
        group.create_task(theirs.send_all(frame(b"A", body)))
        assert await soon(frames) == (b"A", body)


async def test_a_longer_one_is_refused_by_its_header_alone(ends: Both) -> None:
    frames, theirs = ends
    theirs.send(HEADER.pack(b"A", LIMIT + 1))
    with pytest.raises(Broken):
        await soon(frames)
    assert not frames.quiet


async def test_an_end_of_file_breaks_whoever_waits_and_whoever_comes(ends: Both) -> None:
    frames, theirs = ends
    theirs.send(frame(b"A", b"cut off")[:-1])
    theirs.close()
    for _ in range(2):
        with pytest.raises(Broken):
            await soon(frames)


async def test_what_is_sent_unasked_is_seen_and_not_collected(ends: Both) -> None:
    frames, theirs = ends
    sent = 0
    try:
        while sent < LIMIT:
            sent += theirs.send(bytes(65536))
            for _ in range(10):
                await asyncio.sleep(0)
    except BlockingIOError:
        pass
    assert not frames.quiet
    assert sent < UNASKED_BYTES * 8  # a little was taken, the rest fills the socket
    assert sent < LIMIT


async def test_a_frame_that_the_socket_cannot_hold_is_sent_as_it_drains(ends: Both) -> None:
    frames, theirs = ends
    body = bytes(4 * LIMIT)
    received = bytearray()
    async with asyncio.timeout(5.0), asyncio.TaskGroup() as group:
        group.create_task(send(frames, b"I", body[:LIMIT], body[LIMIT:]))
        while len(received) < HEADER.size + len(body):
            received += theirs.read()
            await asyncio.sleep(0)
    assert bytes(received) == frame(b"I", body)


async def test_sending_to_an_end_that_is_gone_breaks(ends: Both) -> None:
    frames, theirs = ends
    theirs.close()
    with pytest.raises(Broken):
        frames.send(b"I", b"x")


@pytest.mark.parametrize("first", [0, 10, 2 * LIMIT])
async def test_closing_ends_a_send_that_nobody_reads(ends: Both, first: int) -> None:
    frames, _ = ends
    async with asyncio.timeout(5.0), asyncio.TaskGroup() as group:
        sending = group.create_task(_broken(send(frames, b"I", bytes(first), bytes(4 * LIMIT))))
        await asyncio.sleep(0)  # it has begun
        frames.close()
        assert await sending


async def _broken(sending: Awaitable[None]) -> bool:
    try:
        await sending
    except Broken:
        return True
    return False


@given(
    sizes=st.lists(st.one_of(st.integers(0, 40), st.integers(READ_BYTES - 5, 3 * READ_BYTES)), max_size=6),
    cuts=st.lists(st.integers(997, 2 * READ_BYTES), min_size=1, max_size=6),
)
@examples(40)
@pytest.mark.parametrize("make", [make_ends, make_pipes])
def test_frames_of_any_length_come_whole_however_they_are_cut(
    make: Callable[[], Ends], sizes: list[int], cuts: list[int]
) -> None:
    asyncio.run(_come_whole(make, sizes, cuts))


async def _come_whole(make: Callable[[], Ends], sizes: list[int], cuts: list[int]) -> None:
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
    data = b"".join(frame(b"A", body) for body in bodies)

    async def write(theirs: Other) -> None:
        at, turn = 0, 0
        while at < len(data):
            piece = data[at : at + cuts[turn % len(cuts)]]
            await theirs.send_all(piece)
            await asyncio.sleep(0)
            at, turn = at + len(piece), turn + 1

    async with connected(make) as (frames, theirs), asyncio.timeout(10.0), asyncio.TaskGroup() as group:
        group.create_task(write(theirs))
        for body in bodies:
            assert await frames.receive() == (b"A", body)
        assert frames.quiet


async def test_what_was_sent_before_a_hang_up_counts_and_nothing_after_it(ends: Both) -> None:
    frames, theirs = ends
    theirs.send(HEADER.pack(b"S", 2) + b"ok")
    frames.hang_up()
    assert await frames.receive() == (b"S", b"ok")
    assert not frames.quiet
    with pytest.raises(Broken):
        await frames.receive()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are refused on Linux alone")
async def test_no_descriptor_comes_with_what_is_sent() -> None:
    made = make_ends()
    read_end, write_end = os.pipe()
    with made.theirs() as descriptors:
        if len(descriptors) == 1:  # two are pipes, which carry none
            theirs = socket.socket(fileno=os.dup(descriptors[0]))
            with theirs, pytest.raises(PermissionError):
                socket.send_fds(theirs, [b"S"], [write_end])
    os.close(write_end)
    assert select.select([read_end], [], [], 5.0)[0], "the last of the writing ends is closed"
    os.close(read_end)
    made.writer.close()
    made.reader.close()


def test_a_kernel_that_cannot_refuse_descriptors_has_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends_module, "SO_PASSRIGHTS", 1 << 20)
    made = make_ends()
    with made.theirs() as descriptors:
        assert [stat.S_ISFIFO(os.fstat(descriptor).st_mode) for descriptor in descriptors] == [True, True]
    made.writer.close()
    made.reader.close()
