"""A connection on a host that has no thread left for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from millstream.amqp.address import Address
from millstream.amqp.connection import ConnectionThread


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_connection_without_a_thread_is_over_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told = asyncio.Event()
    connection = ConnectionThread(Address("127.0.0.1", 1), "test", lambda _: None, told.set)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    connection.start()
    async with asyncio.timeout(1.0):
        await told.wait()
    assert connection.over
    assert isinstance(connection.error, RuntimeError)
    assert not connection.call(lambda: None)
    await connection.aclose()
