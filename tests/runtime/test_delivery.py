"""Batches of telemetry over real sockets: when they are sent, and what becomes of what has no room."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from millstream.runtime.delivery import ENVIRONMENT_BYTES, TRIES, Buffering, Destination, Room, Subscriber
from millstream.runtime.processes import NotStarted

WITHIN_S = 10.0
QUICK = Buffering(1000, 262_144, 0.025)
SLOW = Buffering(1000, 262_144, 30.0)


@dataclass
class Far:
    """A subscriber's server: requests or lines as they come, and sockets that connect to it."""

    port: int = 0
    batches: asyncio.Queue[list[Any]] = field(default_factory=asyncio.Queue)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    room: Room = field(default_factory=Room)
    subscribers: list[Subscriber] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    sockets: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                line = await reader.readline()
                if not line:
                    break
                if line.startswith(b"POST"):
                    head = await reader.readuntil(b"\r\n\r\n")
                    (size,) = (each for each in head.split(b"\r\n") if each.startswith(b"Content-Length"))
                    self.batches.put_nowait(json.loads(await reader.readexactly(int(size.split()[1]))))
                    await self.answers.wait()
                    writer.write(b"HTTP/1.1 500 No\r\n\r\n")
                else:
                    self.batches.put_nowait([json.loads(line)])
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def subscriber(self, buffering: Buffering, path: str | None = "/in", port: int = 0) -> Subscriber:
        made = Subscriber(Destination(port or self.port, path), buffering, self.make_socket, self.room)
        self.subscribers.append(made)
        return made

    def make_socket(self) -> asyncio.Future[socket.socket]:
        self.sockets += 1
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        future.set_result(socket.socket())
        return future

    async def batch(self) -> list[Any]:
        async with asyncio.timeout(WITHIN_S):
            return await self.batches.get()


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    made = Far()
    made.answers.set()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1 << 22)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    for subscriber in made.subscribers:
        subscriber.close()
    assert made.room.used_bytes == 0
    for writer in made.writers:
        writer.close()
    server.close()
    await asyncio.sleep(0)


def event(number: int) -> bytes:
    return b'{"n":%d}' % number


async def test_a_batch_is_sent_when_its_time_is_up(far: Far) -> None:
    subscriber = far.subscriber(QUICK)
    for number in range(3):
        subscriber.put(event(number))
    assert await far.batch() == [{"n": 0}, {"n": 1}, {"n": 2}]
    subscriber.put(event(3))
    assert await far.batch() == [{"n": 3}]


async def test_a_batch_is_sent_when_it_is_large(far: Far) -> None:
    subscriber = far.subscriber(SLOW)
    large = json.dumps("x" * 200_000).encode()
    subscriber.put(large)
    subscriber.put(large)
    assert len(await far.batch()) == 1
    subscriber.put(b"1")
    subscriber.flush()
    assert len(await far.batch()) == 2


async def test_a_batch_is_sent_when_it_has_many_events(far: Far) -> None:
    subscriber = far.subscriber(SLOW)
    for number in range(1001):
        subscriber.put(event(number))
    assert len(await far.batch()) == 1000


async def test_lines_go_over_one_connection(far: Far) -> None:
    subscriber = far.subscriber(QUICK, None)
    subscriber.put(event(1))
    assert await far.batch() == [{"n": 1}]
    subscriber.put(event(2))
    assert await far.batch() == [{"n": 2}]
    assert far.sockets == 1


async def test_a_connection_that_was_closed_is_made_again(far: Far) -> None:
    subscriber = far.subscriber(QUICK, None)
    subscriber.put(event(1))
    await far.batch()
    far.writers[0].transport.abort()
    async with asyncio.timeout(WITHIN_S):
        while far.sockets < 2:
            subscriber.put(event(2))
            await asyncio.sleep(0.01)
    subscriber.put(event(3))
    while await far.batch() != [{"n": 3}]:
        pass


async def test_what_has_no_room_is_dropped_and_told_of(far: Far) -> None:
    far.answers.clear()
    subscriber = far.subscriber(QUICK)
    subscriber.put(event(0))
    await far.batch()
    for number in range(1500):
        subscriber.put(event(number))
    far.answers.set()
    batch = await far.batch()
    assert len(batch) == 1001
    assert batch[-1]["type"] == "platform.logsDropped"
    record = batch[-1]["record"]
    assert record["droppedRecords"] == 500
    assert record["droppedBytes"] == sum(len(event(number)) for number in range(1000, 1500))


async def test_all_subscribers_share_what_is_kept(far: Far) -> None:
    far.answers.clear()
    many = [far.subscriber(Buffering(10_000, 1_048_576, 30.0)) for _ in range(10)]
    for subscriber in many:
        for _ in range(20):
            subscriber.put(json.dumps("x" * 100_000).encode())
    assert far.room.used_bytes <= ENVIRONMENT_BYTES


async def test_a_batch_that_nobody_takes_is_tried_and_dropped(far: Far) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    subscriber = far.subscriber(QUICK, port=port)
    subscriber.put(event(1))
    async with asyncio.timeout(WITHIN_S):
        while far.sockets < TRIES or far.room.used_bytes:
            await asyncio.sleep(0.01)
    assert far.sockets == TRIES


async def test_an_environment_that_ended_gives_no_socket(far: Far) -> None:
    def none() -> asyncio.Future[socket.socket]:
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        future.set_exception(NotStarted("it ended"))
        far.sockets += 1
        return future

    subscriber = Subscriber(Destination(far.port, "/"), QUICK, none, far.room)
    subscriber.put(event(1))
    async with asyncio.timeout(WITHIN_S):
        while far.sockets < TRIES or far.room.used_bytes:
            await asyncio.sleep(0.01)
    subscriber.close()


@pytest.mark.parametrize("answered", [True, False])
async def test_a_subscriber_can_be_closed_at_any_time(far: Far, answered: bool) -> None:
    if not answered:
        far.answers.clear()
    subscriber = far.subscriber(QUICK)
    subscriber.put(event(1))
    subscriber.flush()
    await far.batch()
    subscriber.put(event(2))
    subscriber.close()
    subscriber.put(event(3))
