"""RabbitMQ as a destination whose opening is cancelled. No broker is asked."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from millstream.contract.clock import SystemClock
from millstream.contract.ports import Host
from millstream.destinations.rabbitmq import RabbitMqDestination
from tests.contract.destinations_kit import NoInvoker

WITHIN_S = 10.0


async def test_a_connection_ends_whose_opening_was_cancelled() -> None:
    connected = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    threads = set(threading.enumerate())
    async with asyncio.timeout(WITHIN_S), await asyncio.start_server(say_nothing, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        destination = RabbitMqDestination.parse({"target": f"amqp://127.0.0.1:{port}/?routing_key=q"})
        async with asyncio.TaskGroup() as group:
            opening = group.create_task(destination.open(Host(Path(), SystemClock(), NoInvoker())))
            await connected.wait()
            opening.cancel()
        assert opening.cancelled()
        while not set(threading.enumerate()) <= threads:
            await asyncio.sleep(0)
