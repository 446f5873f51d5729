"""How the RabbitMQ trigger settles on a real server; and that no message's headers come in its way."""

from __future__ import annotations

import time
from typing import Any

import pytest

from millstream.contract.records import Reason, Rejected
from tests.brokers.rabbitmq import RabbitMqServer
from tests.contract.queue_kit import receive, settle, until
from tests.triggers.test_rabbitmq import data, give_back, reading

pytestmark = pytest.mark.broker


@pytest.mark.parametrize("single", [False, True])
async def test_a_queue_whose_messages_only_look_like_a_streams_is_read(
    rabbitmq: RabbitMqServer, single: bool
) -> None:
    """As a shovel from a stream leaves them. From a queue with one active consumer nothing can be got."""
    queue = rabbitmq.queue("quorum", single_active_consumer=single)
    for offset in range(3):
        rabbitmq.publish(queue, str(offset).encode(), headers={"x-stream-offset": offset})
    async with reading(rabbitmq.url(), queue) as reader:
        records = await receive(reader, 3)
        assert sorted(data(record) for record in records) == [b"0", b"1", b"2"]
        await settle(reader, records)
    assert rabbitmq.ready(queue) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"x-death": 5},
        {"x-death": True},
        {"x-death": [5]},
        {"x-death": [{"reason": "rejected", "queue": "q", "count": "7"}]},
        {"x-delivery-count": 2**40},
        {"x-delivery-count": "many"},
        {"x-stream-offset": "none"},
        {"deep": [[[[[[[[{"a": [{"b": []}]}]]]]]]]]},
    ],
)
async def test_no_header_of_a_message_stops_its_neighbours(
    rabbitmq: RabbitMqServer, headers: dict[str, Any]
) -> None:
    queue = rabbitmq.queue()
    rabbitmq.publish(queue, b"one")
    rabbitmq.publish(queue, b"odd", headers=headers, timestamp=2**63)
    rabbitmq.publish(queue, b"three")
    async with reading(rabbitmq.url(), queue) as reader:
        records = await receive(reader, 3)
        assert sorted(data(record) for record in records) == [b"odd", b"one", b"three"]
        assert [record.delivery_count for record in records] == [1, 1, 1]
        await settle(reader, records)
    assert rabbitmq.ready(queue) == 0


async def test_what_is_given_back_comes_at_once(rabbitmq: RabbitMqServer) -> None:
    """The core has held it before, for as long as it may be held."""
    queue = rabbitmq.queue()
    rabbitmq.publish(queue, b"x")
    async with reading(rabbitmq.url(), queue) as reader:
        start = time.monotonic()
        for count in range(1, 9):
            (record,) = await receive(reader, 1)
            assert record.delivery_count == count
            await give_back(reader, [record])
        assert time.monotonic() - start < 5.0


async def test_a_message_that_was_taken_back_ten_times_is_warned_of_once(
    rabbitmq: RabbitMqServer, caplog: pytest.LogCaptureFixture
) -> None:
    queue = rabbitmq.queue()
    rabbitmq.publish(queue, b"x")
    async with reading(rabbitmq.url(), queue) as reader:
        for count in range(1, 14):
            (record,) = await receive(reader, 1)
            assert ("a delivery limit" in caplog.text) == (count > 10)
            await give_back(reader, [record])
    assert caplog.text.count("a delivery limit") == 1


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("requeue", [True, False])
async def test_what_is_rejected_is_dead_lettered_whatever_becomes_of_what_fails(
    rabbitmq: RabbitMqServer, kind: str, requeue: bool
) -> None:
    dead = rabbitmq.queue("classic")
    queue = rabbitmq.queue(kind, dead_letter_exchange="", dead_letter_routing_key=dead)
    rabbitmq.publish(queue, b"too large", b"good")
    async with reading(rabbitmq.url(), queue, requeue=requeue) as reader:
        for record in await receive(reader, 2):
            verdict = Rejected(Reason.TOO_LARGE) if data(record) == b"too large" else None
            await settle(reader, [record], verdict)
        assert rabbitmq.bodies(dead, 1) == [b"too large"]
    assert rabbitmq.ready(queue) == rabbitmq.ready(dead) == 0


async def test_what_waits_for_too_long_goes_back_and_is_not_dead_lettered(
    rabbitmq: RabbitMqServer, caplog: pytest.LogCaptureFixture
) -> None:
    dead = rabbitmq.queue("classic")
    queue = rabbitmq.queue(dead_letter_exchange="", dead_letter_routing_key=dead)
    patience: dict[str, Any] = {"consumer_timeout": 60, "batching_window": 50, "requeue": False}
    async with reading(rabbitmq.url(), queue, **patience) as reader:
        rabbitmq.publish(queue, b"x")
        await until(lambda: "messages waited for too long" in caplog.text)
        (again,) = await receive(reader, 1)
        assert (data(again), again.delivery_count) == (b"x", 2)
        await settle(reader, [again])
    assert rabbitmq.ready(dead) == 0


@pytest.mark.parametrize(("kind", "warned"), [("classic", True), ("quorum", False)])
async def test_a_limit_of_retries_is_warned_of_on_a_queue_that_does_not_count(
    rabbitmq: RabbitMqServer, kind: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    queue = rabbitmq.queue(kind)
    rabbitmq.publish(queue, b"x")
    async with reading(rabbitmq.url(), queue, maximum_retry_attempts=2) as reader:
        for _ in range(4):
            await give_back(reader, await receive(reader, 1))
    assert caplog.text.count("queue counts no deliveries") == warned


async def test_without_requeue_what_fails_is_dead_lettered_at_once(rabbitmq: RabbitMqServer) -> None:
    dead = rabbitmq.queue("classic")
    queue = rabbitmq.queue(dead_letter_exchange="", dead_letter_routing_key=dead)
    rabbitmq.publish(queue, b"bad", b"good")
    async with reading(rabbitmq.url(), queue, requeue=False) as reader:
        records = await receive(reader, 2)
        await give_back(reader, [record for record in records if data(record) == b"bad"])
        await settle(reader, [record for record in records if data(record) == b"good"])
    assert rabbitmq.bodies(dead, 1) == [b"bad"]
    assert rabbitmq.ready(queue) == 0


async def test_each_round_through_a_dead_letter_exchange_counts(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue("classic")
    wait = rabbitmq.queue("classic", message_ttl=1, dead_letter_exchange="", dead_letter_routing_key=queue)
    rabbitmq.delete(queue)
    queue = rabbitmq.queue("classic", name=queue, dead_letter_exchange="", dead_letter_routing_key=wait)
    rabbitmq.publish(queue, b"x")
    async with reading(rabbitmq.url(), queue, requeue=False) as reader:
        for count in (1, 2, 3):
            (record,) = await receive(reader, 1)
            assert record.delivery_count == count
            await give_back(reader, [record])
