"""Streams on a real server, over a relay that spoils what the broker sends: nothing is passed over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import cramjam
import pytest
from rstream import CompressionType, Producer
from rstream.client import Client
from rstream.compression import GzipCompressionCodec, StreamCompressionCodecs
from rstream.exceptions import OffsetNotFound

from millstream.contract.errors import SourceUnavailable
from millstream.contract.records import Reason, Record
from millstream.contract.streams import After
from millstream.triggers.rabbitmq_stream_reader import RabbitMqStreamReader
from millstream.triggers.rabbitmq_stream_subscription import FIRST_CREDITS
from tests.brokers.rabbitmq import PASSWORD, USER, RabbitMqServer
from tests.brokers.relay import Relay
from tests.contract.queue_kit import until
from tests.contract.streams import WITHIN_S, read
from tests.triggers.test_rabbitmq_stream import data, reading

pytestmark = pytest.mark.broker

DELIVER = (8).to_bytes(2, "big")
SUBSCRIBED = (0x8007).to_bytes(2, "big")


class SpoilingRelay(Relay):
    """Changes one chunk, or loses it. If it is an early one, the answer to the subscription waits for it.

    So the client has both at once, as it has them from a broker that is near.
    """

    def __init__(self, url: str, number: int, spoil: Callable[[bytearray], bytes]) -> None:
        super().__init__(url)
        self._left = number  # chunks before the one that is spoilt
        self._spoil = spoil
        self._together = number < FIRST_CREDITS
        self.subscriptions = 0

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listen: bool) -> None:
        if listen:
            return await super()._pipe(reader, writer, listen)
        held = b""
        try:
            while True:
                length = await reader.readexactly(4)
                frame = bytearray(length + await reader.readexactly(int.from_bytes(length, "big")))
                self.subscriptions += frame[4:6] == SUBSCRIBED
                if frame[4:6] == DELIVER:
                    self._left -= 1
                held += self._spoil(frame) if self._left == -1 and frame[4:6] == DELIVER else frame
                if self._left < 0 or not (self._together and frame[4:6] in (SUBSCRIBED, DELIVER)):
                    writer.write(held)
                    held = b""
                    await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()


def broken(frame: bytearray) -> bytes:
    """A chunk that says that it has one entry more than it has; it stands outside of what is checked."""
    frame[12] += 1
    return bytes(frame)


def changed(frame: bytearray) -> bytes:
    """A chunk whose bytes were changed on the way."""
    frame[-1] ^= 0xFF
    return bytes(frame)


def lost(_: bytearray) -> bytes:
    return b""


@asynccontextmanager
async def spoilt(
    server: RabbitMqServer, stream: str, number: int, spoil: Callable[[bytearray], bytes]
) -> AsyncIterator[tuple[SpoilingRelay, RabbitMqStreamReader]]:
    relay = SpoilingRelay(server.stream_url(), number, spoil)
    async with relay:
        url = server.stream_url(port=urlsplit(relay.url).port)
        async with reading(url, stream) as reader:
            yield relay, reader


async def read_through(reader: RabbitMqStreamReader, count: int) -> tuple[list[Record], list[str]]:
    """So many records, and what was said meanwhile."""
    records: list[Record] = []
    said: list[str] = []
    async with asyncio.timeout(WITHIN_S):
        while len(records) < count:
            try:
                records += (await reader.read(100, 1.0)).records
            except SourceUnavailable as unavailable:
                said.append(str(unavailable))
    return records, said


@pytest.mark.parametrize(
    ("spoil", "number", "says"),
    [
        *[(broken, number, "a chunk that is cut short") for number in (0, 1, 3)],
        *[(changed, number, "ValueError") for number in (0, 1, 3)],
        *[(lost, number, "records were lost on the way, and are read again") for number in (1, 3)],
    ],
)
async def test_a_chunk_that_cannot_be_read_is_asked_for_again_before_any_behind_it(
    rabbitmq: RabbitMqServer,
    spoil: Callable[[bytearray], bytes],
    number: int,
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = rabbitmq.queue("stream")
    for at in range(6):  # a chunk each
        rabbitmq.publish(stream, str(at).encode())
    async with spoilt(rabbitmq, stream, number, spoil) as (relay, reader):
        records, said = await read_through(reader, 6)
        assert [data(record) for record in records] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        said += [line.message for line in caplog.records]
        assert len(said) == 1
        assert says in said[0]
        assert relay.subscriptions == 2


async def test_offsets_that_another_consumer_stores_hold_nothing_up(
    rabbitmq: RabbitMqServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker writes them into the stream, where each takes an offset of its own."""
    stream = rabbitmq.queue("stream")
    address = urlsplit(rabbitmq.stream_url())
    host, port = str(address.hostname), int(address.port or 0)
    client = Client(host, port, frame_max=2**20, heartbeat=60, connection_closed_handler=lambda _: None)
    await client.start()
    try:
        await client.authenticate("/", USER, PASSWORD)
        for at in range(6):
            rabbitmq.publish(stream, str(at).encode())
            await client.store_offset(stream, "another", at)
            await stored(client, stream, at)
    finally:
        await client.close()
    async with reading(rabbitmq.stream_url(), stream) as reader:
        records, said = await read_through(reader, 6)
    assert [data(record) for record in records] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert [int(record.item_id) for record in records] == [0, 2, 4, 6, 8, 10]
    assert not said
    assert not caplog.records


async def stored(client: Client, stream: str, offset: int) -> None:
    """Wait until the broker has an offset, which it does not confirm."""
    async with asyncio.timeout(WITHIN_S):
        while await known(client, stream) != offset:
            await asyncio.sleep(0.01)


async def known(client: Client, stream: str) -> int | None:
    try:
        return await client.query_offset(stream, "another")
    except OffsetNotFound:
        return None


async def test_a_subscription_ends_with_its_reader_though_its_answer_comes_with_the_end(
    rabbitmq: RabbitMqServer,
) -> None:
    """A cancellation that comes together with an answer is lost in rstream."""
    stream = rabbitmq.queue("stream")
    rabbitmq.publish(stream, b"x")
    threads = set(threading.enumerate())
    for _ in range(20):
        async with reading(rabbitmq.stream_url(), stream) as reader:
            await reader.read(1, 0.005)
    await until(lambda: set(threading.enumerate()) <= threads)


# ---- sub-batches


CODECS = {CompressionType.Snappy: "snappy", CompressionType.Lz4: "lz4", CompressionType.Zstd: "zstd"}


class Packed(GzipCompressionCodec):
    """rstream's codec, with a compression in the place of gzip's."""

    def __init__(self, kind: CompressionType, spoil: bool) -> None:
        self._kind, self._spoil = kind, spoil

    def compress(self, messages: object) -> None:
        content = b"".join(len(m).to_bytes(4, "big") + m for m in messages)  # type: ignore[attr-defined]  # bytes
        packed = bytes(getattr(cramjam, CODECS[self._kind]).compress(content))
        self.message_count = len(messages)  # type: ignore[arg-type]  # it is a list
        self.uncompressed_data_size = len(content)
        self.buffer = packed[: len(packed) // 2] if self._spoil else packed
        self.compressed_data_size = len(self.buffer)

    def compression_type(self) -> int:
        return self._kind.value


async def send(
    server: RabbitMqServer,
    stream: str,
    kind: CompressionType,
    *,
    spoil: bool = False,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two messages, a sub-batch of a hundred, and two more."""
    if kind in CODECS:
        codecs = StreamCompressionCodecs.available_compress_codecs
        monkeypatch.setitem(codecs, kind, Packed(kind, spoil))
    sent = [str(at).encode() for at in range(104)]
    server.publish(stream, *sent[:2])
    confirmed = asyncio.Event()
    async with Producer("127.0.0.1", server.stream_port, username=USER, password=PASSWORD) as producer:
        await producer.send_sub_entry(
            stream, list(sent[2:102]), compression_type=kind, on_publish_confirm=lambda _: confirmed.set()
        )
        async with asyncio.timeout(WITHIN_S):
            await confirmed.wait()
    server.publish(stream, *sent[102:])


@pytest.mark.parametrize("kind", list(CompressionType))
async def test_sub_batches_of_every_codec_are_read(
    rabbitmq: RabbitMqServer, kind: CompressionType, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = rabbitmq.queue("stream")
    await send(rabbitmq, stream, kind, monkeypatch=monkeypatch)
    async with reading(rabbitmq.stream_url(), stream) as reader:
        records = await read(reader, 104)
    assert [int(data(record)) for record in records] == list(range(104))
    assert [int(record.item_id) for record in records] == list(range(104))
    async with reading(rabbitmq.stream_url(), stream, After(records[50].position)) as reader:
        assert [int(data(record)) for record in await read(reader, 53)] == list(range(51, 104))


async def test_one_that_cannot_be_read_is_given_up_and_what_is_around_it_read(
    rabbitmq: RabbitMqServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = rabbitmq.queue("stream")
    await send(rabbitmq, stream, CompressionType.Zstd, spoil=True, monkeypatch=monkeypatch)
    async with reading(rabbitmq.stream_url(), stream) as reader:
        records = await read(reader, 104)
    assert [int(record.item_id) for record in records] == list(range(104))
    given_up = [record for record in records if record.refused is Reason.DESERIALIZATION_ERROR]
    assert [int(record.item_id) for record in given_up] == list(range(2, 102))
    assert "sub-batch cannot be read" in caplog.text


# ---- streams that are made anew


async def test_a_shorter_stream_to_which_nothing_is_written_is_read_from_its_oldest_record(
    rabbitmq: RabbitMqServer, caplog: pytest.LogCaptureFixture
) -> None:
    stream = rabbitmq.queue("stream")
    rabbitmq.publish(stream, *[b"old"] * 5)
    async with reading(rabbitmq.stream_url(), stream) as reader:
        records = await read(reader, 5)
    rabbitmq.delete(stream)
    rabbitmq.queue("stream", name=stream)
    rabbitmq.publish(stream, b"new 0", b"new 1")
    async with reading(rabbitmq.stream_url(), stream, After(records[-1].position)) as reader:
        assert [data(record) for record in await read(reader, 2)] == [b"new 0", b"new 1"]
    assert "stream was made anew under its name" in caplog.text


async def test_a_stream_at_whose_end_nothing_comes_is_read_on(
    rabbitmq: RabbitMqServer, caplog: pytest.LogCaptureFixture
) -> None:
    stream = rabbitmq.queue("stream")
    rabbitmq.publish(stream, *[b"old"] * 5)
    async with reading(rabbitmq.stream_url(), stream) as reader:
        records = await read(reader, 5)
    async with reading(rabbitmq.stream_url(), stream, After(records[-1].position)) as reader:
        assert (await reader.read(1, 4.0)).records == []
        rabbitmq.publish(stream, b"new")
        assert [data(record) for record in await read(reader, 1)] == [b"new"]
    assert not caplog.records
