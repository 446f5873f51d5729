"""The RabbitMQ trigger on a real server: what it refuses, how it settles, how it gets over losses."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.records import Batch, Record, Returned, resolve_all
from millstream.triggers.rabbitmq import RabbitMqTrigger
from millstream.triggers.rabbitmq_reader import RabbitMqReader
from tests.brokers.rabbitmq import PASSWORD, POWERLESS, USER, RabbitMqServer
from tests.brokers.relay import Relay
from tests.contract.queue_kit import FUNCTION, WITHIN_S, host, receive, settle, until

pytestmark = pytest.mark.broker


def at(server: RabbitMqServer, relay: Relay) -> str:
    """The server's URL by way of a relay."""
    return server.url(port=urlsplit(relay.url).port)


@asynccontextmanager
async def reading(url: str, queue: str, **options: Any) -> AsyncIterator[RabbitMqReader]:
    reader = await RabbitMqTrigger.parse({"queue": queue, "url": url, **options}).open(host(url), FUNCTION)
    try:
        yield reader
    finally:
        await reader.aclose()


async def refused(url: str, queue: str, **options: Any) -> str:
    """Why the broker, or we, will not; in the words of a message."""
    with pytest.raises(Refused) as caught:
        async with reading(url, queue, **options):
            pass
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def give_back(reader: RabbitMqReader, records: list[Record]) -> None:
    await reader.settle(resolve_all(Batch(tuple(records)), Returned()))


def data(record: Record) -> bytes:
    return base64.b64decode(msgspec.json.decode(record.event)["data"])


# ---- what is refused, and how that is said


async def test_a_wrong_login_is_said_and_shows_no_password(rabbitmq: RabbitMqServer) -> None:
    login = {"username": USER, "password": "wrong-7d1e"}
    said = await refused(rabbitmq.url(), rabbitmq.queue(), basic_auth=login)
    assert "refuses the login: ACCESS_REFUSED" in said
    assert "wrong-7d1e" not in said


@pytest.mark.parametrize(("user", "virtual_host"), [(USER, "nowhere"), (POWERLESS, "other")])
async def test_a_virtual_host_that_is_not_ours_is_said(
    rabbitmq: RabbitMqServer, user: str, virtual_host: str
) -> None:
    said = await refused(rabbitmq.url(virtual_host, user=user), "q")
    assert f"does not let us into '{virtual_host}'" in said


async def test_a_queue_that_is_not_there_is_said(rabbitmq: RabbitMqServer) -> None:
    said = await refused(rabbitmq.url(), "nowhere")
    assert said == "nowhere: NOT_FOUND - no queue 'nowhere' in vhost '/'"


async def test_a_queue_that_we_may_not_read_is_said(rabbitmq: RabbitMqServer) -> None:
    said = await refused(rabbitmq.url(user=POWERLESS), rabbitmq.queue())
    assert "ACCESS_REFUSED" in said


async def test_a_stream_is_told_where_it_belongs(rabbitmq: RabbitMqServer) -> None:
    stream = rabbitmq.queue("stream")
    async with reading(rabbitmq.url(), stream) as reader, asyncio.timeout(WITHIN_S):
        with pytest.raises(InvalidConfiguration, match="RabbitMqStream"):
            while True:  # the first ones may come before the broker has begun to read for us
                rabbitmq.publish(stream, b"x")
                assert list(await reader.receive(1, 0.2)) == []


async def test_a_function_of_more_than_fourteen_minutes_is_refused(rabbitmq: RabbitMqServer) -> None:
    trigger = RabbitMqTrigger.parse({"queue": "q", "url": rabbitmq.url()})
    with pytest.raises(InvalidConfiguration, match="at most 840 s, found 900 s"):
        await trigger.open(host(rabbitmq.url()), replace(FUNCTION, timeout_s=900))


async def test_a_function_that_may_run_beyond_the_brokers_patience_is_refused(
    rabbitmq: RabbitMqServer,
) -> None:
    trigger = RabbitMqTrigger.parse({"queue": "q", "url": rabbitmq.url(), "consumer_timeout": 60})
    with pytest.raises(InvalidConfiguration, match=r"consumer_timeout: wanted at least 68 beside .* 59 s"):
        await trigger.open(host(rabbitmq.url()), replace(FUNCTION, timeout_s=59))


async def test_a_port_where_nothing_speaks_amqp_is_unavailable(rabbitmq: RabbitMqServer) -> None:
    url = rabbitmq.url(port=rabbitmq.stream_port)
    with pytest.raises(SourceUnavailable):
        await RabbitMqTrigger.parse({"queue": "q", "url": url}).open(host(url), FUNCTION)


async def test_an_encrypted_connection_is_checked_against_the_ca(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue()
    rabbitmq.publish(queue, b"x")
    url = rabbitmq.url(port=rabbitmq.tls_port).replace("amqp:", "amqps:")
    assert "certificate verify failed" in await refused(url, queue)
    async with reading(url, queue, ca_file=str(rabbitmq.certificate)) as reader:
        await settle(reader, await receive(reader, 1))
    said = await refused(url, queue, ca_file="/nowhere.pem")
    assert said == "no PEM certificates in the ca_file /nowhere.pem: No such file or directory"


# ---- reading and settling


@pytest.mark.parametrize("virtual_host", ["/", "other", "a/b c"])
async def test_a_queue_of_any_virtual_host_is_read(rabbitmq: RabbitMqServer, virtual_host: str) -> None:
    queue = rabbitmq.queue(virtual_host=virtual_host)
    rabbitmq.publish(queue, b"x", virtual_host=virtual_host)
    async with reading(rabbitmq.url(virtual_host), queue) as reader:
        (record,) = await receive(reader, 1)
        assert record.partition == f"{queue}::{virtual_host}"
        await settle(reader, [record])


async def test_headers_come_through_a_broker_as_they_were_sent(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue()
    headers = {"s": "ü", "x": b"\xff", "n": 2**40, "t": True, "none": None, "d": Decimal("1.25"), "l": ["a"]}
    rabbitmq.publish(queue, b"x", headers=headers, message_id="m", timestamp=0)
    async with reading(rabbitmq.url(), queue) as reader:
        (record,) = await receive(reader, 1)
        await settle(reader, [record])
    properties = msgspec.json.decode(record.event)["basicProperties"]
    assert properties["headers"] == {
        "s": {"bytes": [-61, -68]},
        "x": [-1],
        "n": 2**40,
        "t": True,
        "none": None,
        "d": 1.25,
        "l": [{"bytes": [97]}],
    }
    assert properties["timestamp"] == "Jan 1, 1970, 12:00:00 AM"
    assert properties["bodySize"] == 1


async def test_a_body_of_many_frames_is_whole(rabbitmq: RabbitMqServer) -> None:
    queue, body = rabbitmq.queue("classic"), bytes(range(256)) * 4096
    rabbitmq.publish(queue, body)
    async with reading(rabbitmq.url(), queue) as reader:
        (record,) = await receive(reader, 1)
        await settle(reader, [record])
    assert data(record) == body


async def test_no_more_is_held_than_runs_and_a_batch_that_rests_and_one_ahead(
    rabbitmq: RabbitMqServer,
) -> None:
    queue = rabbitmq.queue("classic")
    rabbitmq.publish(queue, *[b"x"] * 100)
    async with reading(rabbitmq.url(), queue, batch_size=10, concurrency=2) as reader:
        consumer = await reader.connect()
        await until(lambda: len(consumer) == 40)
        assert rabbitmq.ready(queue) == 60
        await settle(reader, await receive(reader, 10))
        await until(lambda: len(consumer) == 40)


def test_nothing_is_read_ahead_of_functions_that_run_for_long() -> None:
    trigger = RabbitMqTrigger.parse({"queue": "q", "url": "amqp://h", "batch_size": 10_000, "concurrency": 3})
    assert [trigger.prefetch(timeout_s) for timeout_s in (3.0, 590.0, 840.0)] == [50_000, 50_000, 30_000]


async def test_a_poll_gathers_what_comes_within_a_moment(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue("classic")
    rabbitmq.publish(queue, *[b"x"] * 50)
    async with reading(rabbitmq.url(), queue) as reader:
        pages = [await reader.receive(50, WITHIN_S)]
        while sum(map(len, pages)) < 50:
            pages.append(await reader.receive(50, WITHIN_S))
    assert len(pages) <= 5


async def test_a_single_active_consumer_hands_over_when_it_closes(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue(single_active_consumer=True)
    async with reading(rabbitmq.url(), queue) as active, reading(rabbitmq.url(), queue) as waiting:
        rabbitmq.publish(queue, b"1", b"2")
        assert [data(record) for record in await receive(active, 2)] == [b"1", b"2"]
        assert list(await waiting.receive(1, 0.2)) == []
        await active.aclose()
        records = await receive(waiting, 2)
        assert [data(record) for record in records] == [b"1", b"2"]
        await settle(waiting, records)


# ---- losses


async def test_a_queue_that_is_deleted_is_said(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue()
    async with reading(rabbitmq.url(), queue) as reader, asyncio.TaskGroup() as group:
        poll = group.create_task(_outcome(reader))
        await asyncio.sleep(0)
        rabbitmq.delete(queue)
        gone = await poll
    assert isinstance(gone, Refused)
    assert "NOT_FOUND" in str(gone)


async def test_a_consumer_that_is_cancelled_consumes_again_if_the_queue_is_there(
    rabbitmq: RabbitMqServer,
) -> None:
    """As when a queue fails over: here it is made anew, while our question is held back."""
    queue = rabbitmq.queue("classic")
    async with Relay(rabbitmq.url()) as relay, reading(at(rabbitmq, relay), queue) as reader:
        relay.stall(to_client=False)
        rabbitmq.delete(queue)
        await relay.hears(b"\x00\x3c\x00\x14")  # the basic.consume of the start
        await relay.hears(b"\x00\x3c\x00\x14")
        rabbitmq.queue("classic", name=queue)
        relay.resume()
        rabbitmq.publish(queue, b"x")
        await settle(reader, await receive(reader, 1))


async def test_a_receipt_of_a_lost_connection_settles_nothing(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue()
    rabbitmq.publish(queue, b"1", b"2")
    async with Relay(rabbitmq.url()) as relay, reading(at(rabbitmq, relay), queue) as reader:
        old = await receive(reader, 2)
        await relay.cut()
        assert isinstance(await _outcome(reader), SourceUnavailable)
        await relay.restore()
        new = await receive(reader, 2)
        assert {record.item_id for record in old} & {record.item_id for record in new} == set()
        with pytest.raises(SourceUnavailable, match="2 records of a connection that was lost"):
            await settle(reader, old)
        with pytest.raises(SourceUnavailable, match="1 records"):
            await settle(reader, [old[0], new[0]])
        rabbitmq.publish(queue, b"3")
        assert data(*await receive(reader, 1)) == b"3"  # the channel is as it was
        await reader.aclose()
        assert rabbitmq.ready(queue) == 2


async def test_a_connection_outlives_its_heartbeat_while_nobody_reads(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue("classic")
    rabbitmq.publish(queue, b"1")
    async with reading(rabbitmq.url(), queue, heartbeat=1) as reader:
        consumer = await reader.connect()
        records = await receive(reader, 1)
        await asyncio.sleep(3.5)  # as long as a function that runs: more than two heartbeats
        await settle(reader, records)
        assert await reader.connect() is consumer
        rabbitmq.publish(queue, b"2")
        await settle(reader, await receive(reader, 1))
    assert rabbitmq.ready(queue) == 0


async def test_closing_does_not_wait_for_a_broker_that_does_not_answer(rabbitmq: RabbitMqServer) -> None:
    queue, threads = rabbitmq.queue("classic"), set(threading.enumerate())
    async with Relay(rabbitmq.url()) as relay, reading(at(rabbitmq, relay), queue) as reader:
        relay.stall()
        start = time.monotonic()
        await reader.aclose()
        assert time.monotonic() - start < 1.0
        await until(lambda: set(threading.enumerate()) <= threads)


async def test_a_connection_that_is_being_opened_can_be_given_up(rabbitmq: RabbitMqServer) -> None:
    threads = set(threading.enumerate())
    trigger = RabbitMqTrigger.parse({"queue": "q", "url": rabbitmq.url()})
    async with Relay(rabbitmq.url()) as relay, asyncio.TaskGroup() as group:
        relay.stall()
        trigger = RabbitMqTrigger.parse({"queue": "q", "url": at(rabbitmq, relay)})
        opening = group.create_task(trigger.open(host(relay.url), FUNCTION))
        await relay.hears(b"AMQP")
        opening.cancel()
        await until(lambda: set(threading.enumerate()) <= threads)


async def test_a_broker_that_is_killed_is_read_again_once_it_is_back(own_rabbitmq: RabbitMqServer) -> None:
    queue = own_rabbitmq.queue("classic")
    own_rabbitmq.publish(queue, b"1", b"2")
    async with reading(own_rabbitmq.url(), queue) as reader:
        await receive(reader, 2)
        own_rabbitmq.kill()
        assert isinstance(await _outcome(reader), SourceUnavailable)
        with pytest.raises(SourceUnavailable, match="Connection refused"):
            await reader.receive(1, 0.0)
        own_rabbitmq.start()
        again = await receive(reader, 2)
        assert [data(record) for record in again] == [b"1", b"2"]
        assert [record.delivery_count for record in again] == [2, 2]
        await settle(reader, again)


async def _outcome(reader: RabbitMqReader) -> Exception | None:
    try:
        await reader.receive(1, 20.0)
    except (SourceUnavailable, Refused) as error:
        return error
    return None
