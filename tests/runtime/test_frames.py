"""Frames from an end that may send anything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.runtime.frames import HEADER, READ_BYTES, UNASKED_BYTES, Frame, Frames
from millstream.runtime.link import Broken
from tests.examples import examples

LIMIT = 1024 * 1024


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Frames, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    frames = Frames(ours, LIMIT)
    yield frames, theirs
    frames.close()
    theirs.close()


Ends = tuple[Frames, socket.socket]


def frame(kind: bytes, body: bytes) -> bytes:
    return HEADER.pack(kind, len(body)) + body


async def send(frames: Frames, kind: bytes, *parts: bytes) -> None:
    rest = frames.send(kind, *parts)
    if rest is not None:
        await frames.send_rest(rest)


async def soon(frames: Frames) -> Frame:
    async with asyncio.timeout(5.0):
        return await frames.receive()


async def test_frames_come_whole_and_in_order_however_they_are_cut(ends: Ends) -> None:
    frames, theirs = ends
    data = frame(b"A", b"one") + frame(b"B", b"") + frame(b"C", b"three")
    for byte in data:
        theirs.send(bytes([byte]))
        await asyncio.sleep(0)
    assert [await soon(frames) for _ in range(3)] == [(b"A", b"one"), (b"B", b""), (b"C", b"three")]
    assert frames.quiet


async def test_a_frame_as_long_as_the_limit_is_taken(ends: Ends) -> None:
    frames, theirs = ends
    body = bytes(LIMIT)
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.get_running_loop().sock_sendall(theirs, frame(b"A", body)))
        assert await soon(frames) == (b"A", body)


async def test_a_longer_one_is_refused_by_its_header_alone(ends: Ends) -> None:
    frames, theirs = ends
    theirs.send(HEADER.pack(b"A", LIMIT + 1))
    with pytest.raises(Broken):
        await soon(frames)
    assert not frames.quiet


async def test_an_end_of_file_breaks_whoever_waits_and_whoever_comes(ends: Ends) -> None:
    frames, theirs = ends
    theirs.send(frame(b"A", b"cut off")[:-1])
    theirs.close()
    for _ in range(2):
        with pytest.raises(Broken):
            await soon(frames)


async def test_what_is_sent_unasked_is_seen_and_not_collected(ends: Ends) -> None:
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


async def test_a_frame_that_the_socket_cannot_hold_is_sent_as_it_drains(ends: Ends) -> None:
    frames, theirs = ends
    body = bytes(4 * LIMIT)
    received = bytearray()
    async with asyncio.timeout(5.0), asyncio.TaskGroup() as group:
        group.create_task(send(frames, b"I", body[:LIMIT], body[LIMIT:]))
        while len(received) < HEADER.size + len(body):
            received += await asyncio.get_running_loop().sock_recv(theirs, LIMIT)
    assert bytes(received) == frame(b"I", body)


async def test_sending_to_an_end_that_is_gone_breaks(ends: Ends) -> None:
    frames, theirs = ends
    theirs.close()
    with pytest.raises(Broken):
        frames.send(b"I", b"x")


@pytest.mark.parametrize("first", [0, 10, 2 * LIMIT])
async def test_closing_ends_a_send_that_nobody_reads(ends: Ends, first: int) -> None:
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
def test_frames_of_any_length_come_whole_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    asyncio.run(_come_whole(sizes, cuts))


async def _come_whole(sizes: list[int], cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    frames = Frames(ours, LIMIT)
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
    data = b"".join(frame(b"A", body) for body in bodies)

    async def write() -> None:
        at, turn = 0, 0
        while at < len(data):
            piece = data[at : at + cuts[turn % len(cuts)]]
            await asyncio.get_running_loop().sock_sendall(theirs, piece)
            await asyncio.sleep(0)
            at, turn = at + len(piece), turn + 1

    async with asyncio.timeout(10.0), asyncio.TaskGroup() as group:
        group.create_task(write())
        for body in bodies:
            assert await frames.receive() == (b"A", body)
    assert frames.quiet
    frames.close()
    theirs.close()


async def test_what_was_sent_before_a_hang_up_counts_and_nothing_after_it() -> None:
    ours, theirs = socket.socketpair()
    frames = Frames(ours, 1000)
    with theirs:
        theirs.sendall(HEADER.pack(b"S", 2) + b"ok")
        frames.hang_up()
        assert await frames.receive() == (b"S", b"ok")
        assert not frames.quiet
        with pytest.raises(Broken):
            await frames.receive()
    frames.close()
