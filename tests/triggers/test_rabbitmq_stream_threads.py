"""A stream on a host that has no thread left for its subscription."""

from __future__ import annotations

import asyncio
import threading

import pytest

from millstream.amqp.address import STREAM, Address
from millstream.contract.clock import SystemClock
from millstream.contract.errors import SourceUnavailable
from millstream.triggers.rabbitmq_stream_chunks import ChunkReader
from millstream.triggers.rabbitmq_stream_client import Named
from millstream.triggers.rabbitmq_stream_messages import StreamRecordMaker
from millstream.triggers.rabbitmq_stream_source import NEXT
from millstream.triggers.rabbitmq_stream_subscription import StreamSubscription


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_subscription_without_a_thread_is_over_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told = asyncio.Event()
    named = Named(Address("127.0.0.1", 1, protocol=STREAM), "s", "test")
    reader = ChunkReader(StreamRecordMaker("s"))
    subscription = StreamSubscription(named, NEXT, reader, SystemClock(), told.set, 1024)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    subscription.start()
    async with asyncio.timeout(1.0):
        await told.wait()
    assert subscription.over
    assert isinstance(subscription.fault, SourceUnavailable)
