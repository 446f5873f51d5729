"""RabbitMQ streams on a real server: what producers write, super streams, streams made anew, losses."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from rstream import AMQPMessage
from rstream._pyamqp.message import (  # type: ignore[attr-defined]  # it does not export them
    Header,
    Properties,
)
from rstream.client import Client
from rstream.exceptions import StreamNotAvailable

from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.records import Record
from millstream.contract.streams import After, Oldest, Partition, Start
from millstream.triggers.rabbitmq_stream import RabbitMqStreamTrigger
from millstream.triggers.rabbitmq_stream_messages import StreamRecordMaker
from millstream.triggers.rabbitmq_stream_reader import RabbitMqStreamReader
from millstream.triggers.rabbitmq_stream_source import RabbitMqStreamSource
from tests.brokers.rabbitmq import PASSWORD, POWERLESS, USER, RabbitMqServer
from tests.brokers.relay import Relay
from tests.contract.queue_kit import FUNCTION
from tests.contract.streams import WITHIN_S, host, read

MANY = 5_000


@asynccontextmanager
async def opened(url: str, stream: str, **options: Any) -> AsyncIterator[RabbitMqStreamSource]:
    declared = {"stream": stream, "url": url, "starting_position": "TRIM_HORIZON", **options}
    source = await RabbitMqStreamTrigger.parse(declared).open(host(url), FUNCTION)
    assert isinstance(source, RabbitMqStreamSource)
    try:
        yield source
    finally:
        await source.aclose()


@asynccontextmanager
async def reading(
    url: str, stream: str, start: Start | None = None, **options: Any
) -> AsyncIterator[RabbitMqStreamReader]:
    async with opened(url, stream, **options) as source:
        reader = await source.reader(Partition(stream), start or Oldest())
        try:
            yield reader
        finally:
            await reader.aclose()


async def refused(url: str, stream: str, **options: Any) -> str:
    with pytest.raises(Refused) as caught:
        async with opened(url, stream, **options):
            pass
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def event(record: Record) -> dict[str, Any]:
    return msgspec.json.decode(record.event, type=dict[str, Any])


def data(record: Record) -> bytes:
    return base64.b64decode(event(record)["data"])


# ---- what producers write


def made(message: AMQPMessage | bytes) -> dict[str, Any]:
    """The event of a message, as JSON has it."""
    return event(StreamRecordMaker("s").record(7, 1_600_000_000_123, bytes(message), 1.0))


def test_bytes_that_are_no_message_are_the_data() -> None:
    for raw in (b'{"a": 1}', b"", b"\x00\x53", b"\x00\x53\xff\xff\xff"):
        found = made(raw)
        assert base64.b64decode(found["data"]) == raw
        assert found["basicProperties"]["headers"] == {"x-stream-offset": 7}
        assert found["basicProperties"]["bodySize"] == len(raw)


def test_a_message_of_a_stream_client_has_its_properties() -> None:
    known = Properties(
        message_id="m",
        user_id=b"u",
        reply_to="r",
        correlation_id="c",
        content_type="text/plain",
        content_encoding="utf-8",
        creation_time=1_600_000_000_000,
    )
    header = Header(durable=True, priority=3)
    given = {"text": "ü", "n": 5, "flag": True}
    found = made(AMQPMessage(body=b"x", properties=known, header=header, application_properties=given))
    properties = {name: value for name, value in found["basicProperties"].items() if value is not None}
    assert properties == {
        "contentType": "text/plain",
        "contentEncoding": "utf-8",
        "headers": {"text": {"bytes": [-61, -68]}, "n": 5, "flag": True, "x-stream-offset": 7},
        "deliveryMode": 2,
        "priority": 3,
        "correlationId": "c",
        "replyTo": "r",
        "messageId": "m",
        "timestamp": "Sep 13, 2020, 12:26:40 PM",
        "userId": "u",
        "bodySize": 1,
    }


@pytest.mark.parametrize(
    ("value", "body"),
    [("text ü", "text ü".encode()), ([1, "a"], b'[1,"a"]'), ({"k": "v"}, b'{"k":"v"}'), (b"raw", b"raw")],
)
def test_a_message_whose_body_is_a_value_has_its_text_or_its_json(value: object, body: bytes) -> None:
    found = made(AMQPMessage(value=value))
    assert base64.b64decode(found["data"]) == body


def test_a_record_tells_when_the_broker_got_it() -> None:
    record = StreamRecordMaker("s").record(7, 1_600_000_000_123, b"x", 1.0)
    assert (record.arrived_at, record.received_at) == (1_600_000_000.123, 1.0)
    assert (record.item_id, record.position) == ("7", "7:1600000000123")


def test_failures_may_be_named_by_a_number_or_a_string() -> None:
    options = {"stream": "s", "url": "rabbitmq-stream://h", "starting_position": "LATEST"}
    named = RabbitMqStreamTrigger.parse(options).policy.item_id
    assert [named(each) for each in (7, "7", True, None, {"offset": 7})] == ["7", "7", None, None, None]


async def test_without_rstream_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("millstream.triggers.rabbitmq_stream_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rstream", None)
    with pytest.raises(InvalidConfiguration, match=r"millstream\[rabbitmq-streams\]"):
        async with opened("rabbitmq-stream://h", "s"):
            pass


@pytest.mark.broker
async def test_a_message_of_a_queues_client_has_all_its_properties(rabbitmq: RabbitMqServer) -> None:
    stream = rabbitmq.queue("stream")
    rabbitmq.publish(
        stream,
        b"x",
        content_type="text/plain",
        headers={"h": "v"},
        priority=3,
        expiration="60000",
        type="t",
        app_id="a",
        user_id=USER,
        timestamp=0,
    )
    async with reading(rabbitmq.stream_url(), stream) as reader:
        (record,) = await read(reader, 1)
    properties = {
        name: value for name, value in event(record)["basicProperties"].items() if value is not None
    }
    assert properties == {
        "contentType": "text/plain",
        "headers": {"h": {"bytes": [118]}, "x-stream-offset": 0},
        "deliveryMode": 2,
        "priority": 3,
        "expiration": "60000",
        "timestamp": "Jan 1, 1970, 12:00:00 AM",
        "type": "t",
        "userId": USER,
        "appId": "a",
        "bodySize": 1,
    }


# ---- reading


@pytest.mark.broker
async def test_many_chunks_come_whole_and_in_order(rabbitmq: RabbitMqServer) -> None:
    stream = rabbitmq.queue("stream")
    _fill(rabbitmq, stream, MANY)
    async with reading(rabbitmq.stream_url(), stream) as reader:
        records = await read(reader, MANY)
    assert [int(data(record)) for record in records] == list(range(MANY))


@pytest.mark.broker
async def test_a_stream_that_was_made_anew_is_read_from_its_oldest_record(rabbitmq: RabbitMqServer) -> None:
    stream = rabbitmq.queue("stream")
    rabbitmq.publish(stream, b"old 0", b"old 1", b"old 2")
    async with reading(rabbitmq.stream_url(), stream) as reader:
        records = await read(reader, 3)
    rabbitmq.delete(stream)
    rabbitmq.queue("stream", name=stream)
    rabbitmq.publish(stream, b"new 0", b"new 1", b"new 2", b"new 3")
    async with reading(rabbitmq.stream_url(), stream, After(records[1].position)) as reader:
        assert [data(record) for record in await read(reader, 4)] == [b"new 0", b"new 1", b"new 2", b"new 3"]


@pytest.mark.broker
async def test_a_stream_that_was_made_anew_and_is_short_is_read_from_its_oldest_record(
    rabbitmq: RabbitMqServer,
) -> None:
    stream = rabbitmq.queue("stream")
    rabbitmq.publish(stream, *[b"old"] * 5)
    async with reading(rabbitmq.stream_url(), stream) as reader:
        records = await read(reader, 5)
    rabbitmq.delete(stream)
    rabbitmq.queue("stream", name=stream)
    rabbitmq.publish(stream, b"new 0")
    async with reading(rabbitmq.stream_url(), stream, After(records[-1].position)) as reader:
        await reader.read(1, 0.5)
        rabbitmq.publish(stream, b"new 1")
        assert [data(record) for record in await read(reader, 2)] == [b"new 0", b"new 1"]


@pytest.mark.broker
async def test_a_stream_that_a_node_does_not_have_is_read_from_one_that_has_it(
    rabbitmq: RabbitMqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one node here, which says at first that it has not."""
    stream = rabbitmq.queue("stream")
    rabbitmq.publish(stream, b"x")
    asked: list[str] = []
    subscribe = Client.subscribe

    async def subscribe_elsewhere(self: Client, stream: str, *given: Any) -> None:
        asked.append(self.host)
        if len(asked) == 1:
            raise StreamNotAvailable
        await subscribe(self, stream, *given)

    monkeypatch.setattr(Client, "subscribe", subscribe_elsewhere)
    async with Relay(rabbitmq.stream_url()) as relay:
        url = rabbitmq.stream_url(port=urlsplit(relay.url).port).replace("127.0.0.1", "localhost")
        async with reading(url, stream) as reader:
            assert [data(record) for record in await read(reader, 1)] == [b"x"]
    assert asked == ["localhost", "127.0.0.1"]


# ---- what is refused, and losses


@pytest.mark.broker
async def test_a_wrong_login_is_said_and_shows_no_password(rabbitmq: RabbitMqServer) -> None:
    login = {"username": USER, "password": "wrong-7d1e"}
    said = await refused(rabbitmq.stream_url(), rabbitmq.queue("stream"), basic_auth=login)
    assert "refuses the login: AuthenticationFailure" in said
    assert "wrong-7d1e" not in said


@pytest.mark.broker
@pytest.mark.parametrize(("user", "virtual_host"), [(USER, "nowhere"), (POWERLESS, "other")])
async def test_a_virtual_host_that_is_not_ours_is_said(
    rabbitmq: RabbitMqServer, user: str, virtual_host: str
) -> None:
    said = await refused(rabbitmq.stream_url(virtual_host, user=user), "s")
    assert said.endswith(f"does not let us into virtual host '{virtual_host}'")


@pytest.mark.broker
async def test_a_stream_that_we_may_not_read_is_said(rabbitmq: RabbitMqServer) -> None:
    stream = rabbitmq.queue("stream")
    async with reading(rabbitmq.stream_url(user=POWERLESS), stream) as reader:
        with pytest.raises(Refused, match="AccessRefused"):
            await reader.read(1, WITHIN_S)


@pytest.mark.broker
async def test_a_network_that_stalls_is_noticed_by_the_heartbeat(rabbitmq: RabbitMqServer) -> None:
    stream = rabbitmq.queue("stream")
    async with Relay(rabbitmq.stream_url()) as relay:
        url = rabbitmq.stream_url(port=urlsplit(relay.url).port)
        async with reading(url, stream, heartbeat=1) as reader:
            await reader.read(1, 0.2)
            relay.stall()
            start = time.monotonic()
            with pytest.raises(SourceUnavailable, match="silent"):
                await reader.read(1, WITHIN_S)
            assert time.monotonic() - start < 5
            relay.resume()
            rabbitmq.publish(stream, b"x")
            assert [data(record) for record in await read(reader, 1)] == [b"x"]


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """What a server needs to encrypt, and the certificate that it shows."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context, certificate


class TlsRelay(Relay):
    """A relay that takes encrypted connections, and makes plain ones."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        super().__init__(url)
        self._context = context

    async def restore(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self._context)
        self._port = self._server.sockets[0].getsockname()[1]


@pytest.mark.broker
async def test_an_encrypted_connection_is_checked_against_the_ca(
    rabbitmq: RabbitMqServer, tls: tuple[ssl.SSLContext, Path]
) -> None:
    context, certificate = tls
    stream = rabbitmq.queue("stream")
    rabbitmq.publish(stream, b"x")
    async with TlsRelay(rabbitmq.stream_url(), context) as relay:
        url = rabbitmq.stream_url(port=urlsplit(relay.url).port).replace("stream:", "stream+tls:", 1)
        assert "certificate verify failed" in await refused(url, stream)
        async with reading(url, stream, ca_file=str(certificate)) as reader:
            assert [data(record) for record in await read(reader, 1)] == [b"x"]


def _fill(server: RabbitMqServer, stream: str, count: int) -> None:
    connection = server.connection()
    try:
        channel = connection.channel()
        for number in range(count):
            channel.basic_publish("", stream, str(number).encode())
    finally:
        connection.close()
