"""Topics whose records are checked against a schema registry, on a real broker, with both clients."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

import pytest

from millstream.contract.errors import Refused, SourceUnavailable
from millstream.contract.records import Reason, Record
from tests.brokers.kafka import Kafka
from tests.brokers.schema_registry import Kept, SchemaRegistry
from tests.triggers.kafka_rig import offsets, opened, produce
from tests.triggers.schema_samples import ORDER, avro, framed

pytestmark = pytest.mark.broker


@pytest.fixture(params=["confluent", "kafka-python"])
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def order(number: int) -> bytes:
    return framed(1, avro(ORDER, {"id": number, "note": None}))


def checked(registry: SchemaRegistry, client: str, **more: Any) -> dict[str, Any]:
    registry.add(1, Kept("AVRO", json.dumps(ORDER)))
    config = {"schema_registry_uri": registry.url, "schema_validation_configs": ["VALUE"], **more}
    return {"client": client, "schema_registry_config": config}


def ids(records: list[Record]) -> list[int | Reason]:
    """The number in each record's value, or why it is refused."""
    found: list[int | Reason] = []
    for record in records:
        value = base64.b64decode(json.loads(record.event)["value"])
        found.append(json.loads(value)["id"] if record.refused is None else record.refused)
    return found


async def test_records_come_decoded_and_in_order_and_what_does_not_fit_is_refused(
    kafka: Kafka, schema_registry: SchemaRegistry, client: str
) -> None:
    topic = kafka.create_topic(1)
    values = [order(0), b"no schema", order(2), framed(9, b"x"), order(4)]
    produce(kafka.bootstrap, topic, 0, values)
    async with opened(kafka.bootstrap, topic, **checked(schema_registry, client)) as it:
        (lease,) = await it.assigned(count=1)
        records = await it.read(await it.source.reader([lease]), 5)
    assert offsets(records) == [0, 1, 2, 3, 4]
    assert ids(records) == [0, Reason.DESERIALIZATION_ERROR, 2, Reason.SCHEMA_NOT_FOUND, 4]


async def test_a_registry_that_is_away_holds_every_record_until_it_is_back(
    kafka: Kafka, schema_registry: SchemaRegistry, client: str
) -> None:
    topic = kafka.create_topic(1)
    async with opened(kafka.bootstrap, topic, **checked(schema_registry, client)) as it:
        (lease,) = await it.assigned(count=1)
        reader = await it.source.reader([lease])
        schema_registry.fault = (503, b"")
        produce(kafka.bootstrap, topic, 0, [order(number) for number in range(50)])
        for _ in range(3):
            with pytest.raises(SourceUnavailable, match="schema registry"):
                async with asyncio.timeout(10.0):
                    while True:
                        assert not (await reader.read(20, 0.2)).records
        schema_registry.fault = None
        records = await it.read(reader, 50)
    assert ids(records) == [*range(50)]


async def test_a_reader_that_was_closed_meanwhile_passes_nothing_over(
    kafka: Kafka, schema_registry: SchemaRegistry, client: str
) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, [order(number) for number in range(10)])
    async with opened(kafka.bootstrap, topic, **checked(schema_registry, client)) as it:
        (lease,) = await it.assigned(count=1)
        reader = await it.source.reader([lease])
        await it.commit(lease, await it.read(reader, 3))
        schema_registry.fault = (503, b"")
        produce(kafka.bootstrap, topic, 0, [framed(2, b"x")])
        with pytest.raises(SourceUnavailable):
            async with asyncio.timeout(10.0):
                while True:
                    await reader.read(100, 0.2)
        await reader.aclose()
        schema_registry.fault = None
        records = await it.read(await it.source.reader([lease]), 8)
    assert ids(records) == [*range(3, 10), Reason.SCHEMA_NOT_FOUND]


async def test_readers_of_schemas_that_are_not_installed_are_asked_for(
    kafka: Kafka, schema_registry: SchemaRegistry, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka.create_topic(1)
    monkeypatch.setitem(sys.modules, "millstream.triggers.kafka_schemas", None)
    with pytest.raises(Refused, match=r"millstream\[kafka-schemas\]"):
        async with opened(kafka.bootstrap, topic, None, **checked(schema_registry, client)):
            pass


async def test_a_registry_that_is_not_there_is_told_at_open(
    kafka: Kafka, schema_registry: SchemaRegistry, client: str
) -> None:
    topic, options = kafka.create_topic(1), checked(schema_registry, client)
    schema_registry.login = "Basic none"
    with pytest.raises(Refused, match="HTTP status 401"):
        async with opened(kafka.bootstrap, topic, None, **options):
            pass
    schema_registry.close()
    with pytest.raises(SourceUnavailable, match="schema registry"):
        async with opened(kafka.bootstrap, topic, None, **options):
            pass
