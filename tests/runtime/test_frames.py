"""Frames from an end that may send anything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from millstream.runtime.frames import HEADER, UNASKED_BYTES, Frames
from millstream.runtime.link import Broken

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


async def soon(frames: Frames) -> tuple[bytes, bytes]:
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
        group.create_task(frames.send(b"I", body[:LIMIT], body[LIMIT:]))
        while len(received) < HEADER.size + len(body):
            received += await asyncio.get_running_loop().sock_recv(theirs, LIMIT)
    assert bytes(received) == frame(b"I", body)


async def test_sending_to_an_end_that_is_gone_breaks(ends: Ends) -> None:
    frames, theirs = ends
    theirs.close()
    with pytest.raises(Broken):
        await frames.send(b"I", b"x")


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
