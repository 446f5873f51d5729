"""RabbitMQ as a destination: the kit, routes, refusals, and connections that are lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from millstream.amqp.address import AMQP
from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge, InvalidConfiguration, Refused
from millstream.destinations import rabbitmq as destinations_rabbitmq
from millstream.destinations.rabbitmq import RabbitMqDestination
from millstream.destinations.registry import parse_destination
from tests.brokers.rabbitmq import PASSWORD, POWERLESS, USER, RabbitMqServer
from tests.brokers.rabbitmq_server import MAX_MESSAGE_BYTES
from tests.brokers.relay import Relay
from tests.contract.destinations_kit import (
    AWKWARD,
    SECRET,
    WITHIN_S,
    DestinationsKit,
    NoInvoker,
    Target,
    host,
)

pytestmark = pytest.mark.broker


class QueueSide(Target):
    """A queue of its own, which `die` deletes: no broker would route to it any more."""

    def __init__(self, server: RabbitMqServer) -> None:
        self._server = server
        self._queue = server.queue("classic")
        self.options = {"target": f"{server.url()}?routing_key={self._queue}"}
        self.missing = {"target": f"{server.url()}?routing_key=nowhere", "kind": "rabbitmq"}

    def read(self, count: int) -> Sequence[bytes]:
        return self._server.bodies(self._queue, count)

    def shrink(self) -> int:
        """Nothing to do: the broker's own limit is small."""
        return MAX_MESSAGE_BYTES

    def die(self) -> None:
        self._server.delete(self._queue)


class TestRabbitMq(DestinationsKit):
    bad_options: Sequence[tuple[str, object]] = (
        ("target", "amqp://host"),
        ("target", "amqp://host/vhost?routing_key="),
        ("target", "amqp://host/vhost?queue=q"),
        ("target", "amqp://host/vhost?routing_key=a&routing_key=b"),
        ("target", "amqp://host/a/b?routing_key=q"),
        ("target", "amqp://host:port/?routing_key=q"),
        ("target", f"amqp://host/?routing_key={'q' * 256}"),
        ("target", "https://host/?routing_key=q"),
        ("target", "amqp://?routing_key=q"),
        ("target", 7),
        ("basic_auth", {"username": "u"}),
        ("basic_auth", "u:p"),
        ("ca_file", "beside-a-plain-url.pem"),
        ("heartbeat", 0),
        ("exchange", "e"),
    )

    @pytest.fixture
    def target(self, rabbitmq: RabbitMqServer) -> Target:
        return QueueSide(rabbitmq)


class Anywhere(Target):
    """A target that only says where it is."""

    def __init__(self, target: str, **options: Any) -> None:
        self.options = {"target": target, **options}
        self.invoker = NoInvoker()

    def read(self, count: int) -> Sequence[bytes]:
        raise AssertionError("nothing is read here")

    def die(self) -> None:
        raise AssertionError("nothing is killed here")


@asynccontextmanager
async def opened(target: str, **options: Any) -> AsyncIterator[RabbitMqDestination]:
    destination = RabbitMqDestination.parse({"target": target, **options})
    await destination.open(host(Anywhere(target)))
    try:
        yield destination
    finally:
        await destination.aclose()


@pytest.fixture
def exchange(rabbitmq: RabbitMqServer) -> Iterator[str]:
    name = f"e-{uuid.uuid4().hex[:12]}"
    with rabbitmq.channel() as channel:
        channel.exchange_declare(name, "direct")
        yield name
        channel.exchange_delete(name)


async def test_a_record_goes_through_an_exchange_by_its_routing_key(
    rabbitmq: RabbitMqServer, exchange: str
) -> None:
    queue = rabbitmq.queue()
    with rabbitmq.channel() as channel:
        channel.queue_bind(queue, exchange, "a key/&")
    async with opened(f"{rabbitmq.url()}?exchange={exchange}&routing_key=a+key%2F%26") as destination:
        await destination.deliver(AWKWARD)
    with rabbitmq.channel() as channel:
        _, properties, body = channel.basic_get(queue, auto_ack=True)
    assert body == AWKWARD.body
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert properties.timestamp == int(AWKWARD.written_at)


async def test_a_record_that_no_queue_would_get_is_not_taken(rabbitmq: RabbitMqServer, exchange: str) -> None:
    async with opened(f"{rabbitmq.url()}?exchange={exchange}&routing_key=nowhere") as destination:
        with pytest.raises(DestinationUnavailable, match="312 NO_ROUTE"):
            await destination.deliver(AWKWARD)


async def test_each_of_many_is_told_its_own_fate(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue("classic", max_length=10, overflow="reject-publish")
    async with opened(f"{rabbitmq.url()}?routing_key={queue}") as destination:
        deliveries = [destination.deliver(AWKWARD) for _ in range(50)]
        results = await asyncio.gather(*deliveries, return_exceptions=True)
    faults = [result for result in results if isinstance(result, DestinationUnavailable)]
    assert len(results) - len(faults) == rabbitmq.ready(queue)
    assert faults
    assert "the broker refused the message" in str(faults[0])


async def test_a_record_above_what_the_broker_takes_is_too_large_and_the_limit_is_learned(
    rabbitmq: RabbitMqServer,
) -> None:
    queue = rabbitmq.queue("classic")
    large = replace(AWKWARD, body=b"x" * (MAX_MESSAGE_BYTES + 1))
    async with opened(f"{rabbitmq.url()}?routing_key={queue}") as destination:
        assert destination.limit_bytes > MAX_MESSAGE_BYTES
        with pytest.raises(DocumentTooLarge, match="406 PRECONDITION_FAILED - message size 16000001"):
            await destination.deliver(large)
        assert destination.limit_bytes == MAX_MESSAGE_BYTES
        await destination.deliver(AWKWARD)
        both = [destination.deliver(record) for record in (large, AWKWARD)]
        results = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(results[0], DocumentTooLarge)
    assert not isinstance(results[1], DocumentTooLarge)  # it was only on the same channel
    assert set(rabbitmq.bodies(queue, 1)) == {AWKWARD.body}


async def test_certificates_that_are_gone_are_said(rabbitmq: RabbitMqServer, tmp_path: Path) -> None:
    queue, ca_file = rabbitmq.queue("classic"), tmp_path / "ca.pem"
    ca_file.write_bytes(rabbitmq.certificate.read_bytes())
    async with Relay(rabbitmq.url(port=rabbitmq.tls_port)) as relay:
        url = rabbitmq.url(port=urlsplit(relay.url).port).replace("amqp:", "amqps:")
        async with opened(f"{url}?routing_key={queue}", ca_file=str(ca_file)) as destination:
            ca_file.unlink()
            await relay.cut()
            said = [await _refusal(destination) for _ in range(2)]
            assert "no PEM certificates" in said[1]
    with pytest.raises(Refused, match="no PEM certificates"):
        async with opened(f"{url}?routing_key={queue}", ca_file=str(ca_file)):
            pass


async def test_an_exchange_that_is_not_there_is_said_at_open(rabbitmq: RabbitMqServer) -> None:
    with pytest.raises(Refused, match="NOT_FOUND - no exchange 'nowhere'"):
        async with opened(f"{rabbitmq.url()}?exchange=nowhere"):
            pass


async def test_a_wrong_login_is_said_at_open_and_shows_no_password(rabbitmq: RabbitMqServer) -> None:
    with pytest.raises(Refused, match="refuses the login") as caught:
        async with opened(
            f"{rabbitmq.url()}?routing_key=q", basic_auth={"username": USER, "password": SECRET}
        ):
            pass
    assert SECRET not in str(caught.value)


async def test_a_broker_that_does_not_answer_at_open_is_unavailable(rabbitmq: RabbitMqServer) -> None:
    async with Relay(rabbitmq.url()) as relay:
        url = rabbitmq.url(port=urlsplit(relay.url).port)
    with pytest.raises(DestinationUnavailable, match="Connection refused"):
        async with opened(f"{url}?routing_key=q"):
            pass


async def test_an_encrypted_connection_delivers(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue()
    url = rabbitmq.url(port=rabbitmq.tls_port).replace("amqp:", "amqps:")
    async with opened(f"{url}?routing_key={queue}", ca_file=str(rabbitmq.certificate)) as destination:
        await destination.deliver(AWKWARD)
    assert rabbitmq.bodies(queue, 1) == [AWKWARD.body]


async def test_a_lost_connection_is_made_anew_with_the_next_delivery(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue("classic")
    async with Relay(rabbitmq.url()) as relay:
        url = rabbitmq.url(port=urlsplit(relay.url).port)
        async with opened(f"{url}?routing_key={queue}") as destination, asyncio.timeout(WITHIN_S):
            await relay.cut()
            with pytest.raises(DestinationUnavailable):
                await destination.deliver(AWKWARD)
            await relay.restore()
            await destination.deliver(AWKWARD)
    assert AWKWARD.body in rabbitmq.bodies(queue, 1)


async def test_a_confirm_that_is_lost_gives_no_receipt(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue("classic")
    async with Relay(rabbitmq.url()) as relay, asyncio.TaskGroup() as group:
        url = rabbitmq.url(port=urlsplit(relay.url).port)
        async with opened(f"{url}?routing_key={queue}") as destination:
            relay.stall(to_broker=False)
            delivery = group.create_task(_refusal(destination))
            await relay.hears(AWKWARD.body[:20])
            await relay.cut()
            assert destination.name in await delivery


async def test_what_a_broker_does_not_read_is_not_kept_for_it(
    rabbitmq: RabbitMqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is short of memory reads nothing for hours: each try would be kept beside the others."""
    monkeypatch.setattr(destinations_rabbitmq, "CONFIRMED_WITHIN_S", 1.0)
    queue = rabbitmq.queue("classic")
    large = replace(AWKWARD, body=b"x" * (MAX_MESSAGE_BYTES - 1))  # more than a socket holds
    async with Relay(rabbitmq.url()) as relay:
        url = rabbitmq.url(port=urlsplit(relay.url).port)
        async with opened(f"{url}?routing_key={queue}") as destination:
            relay.stall(to_client=False)
            for _ in range(2):
                with pytest.raises(DestinationUnavailable, match="no confirm"):
                    await destination.deliver(large)
            relay.resume()
            monkeypatch.setattr(destinations_rabbitmq, "CONFIRMED_WITHIN_S", WITHIN_S)
            await destination.deliver(large)
    assert rabbitmq.ready(queue) == 1


async def _refusal(destination: RabbitMqDestination) -> str:
    with pytest.raises(DestinationUnavailable) as caught:
        await destination.deliver(AWKWARD)
    return str(caught.value)


def test_the_name_has_the_route_and_no_login() -> None:
    target = f"amqp://{USER}:{SECRET}@rabbit.example.com/v?exchange=failed&routing_key=a%20b"
    destination = parse_destination(target)
    assert destination.name == "amqp://rabbit.example.com:5672/v?exchange=failed&routing_key=a+b"
    assert SECRET not in repr(vars(destination))


def test_the_broker_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AMQP.variable, f"amqps://{USER}:{PASSWORD}@rabbit.example.com/orders")
    destination = parse_destination("amqp://?routing_key=failed")
    assert destination.name == "amqps://rabbit.example.com:5671/orders?routing_key=failed"
    monkeypatch.delenv(AMQP.variable)
    with pytest.raises(InvalidConfiguration, match=f"or a broker's URL in {AMQP.variable}"):
        parse_destination("amqp://?routing_key=failed")


async def test_a_target_that_we_may_not_look_at_is_said(rabbitmq: RabbitMqServer) -> None:
    queue = rabbitmq.queue("classic")
    async with opened(f"{rabbitmq.url(user=POWERLESS)}?routing_key={queue}") as destination:
        with pytest.raises(DestinationUnavailable, match="ACCESS_REFUSED"):
            await destination.deliver(AWKWARD)
