"""Checks the records of a topic against a registry's schemas, and gives them the form that was asked for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import Refused
from millstream.contract.records import Reason, Record
from millstream.triggers.kafka_avro import Avro
from millstream.triggers.kafka_formats import Format, NotSerialized, Unfit
from millstream.triggers.kafka_json_schema import JsonSchema
from millstream.triggers.kafka_protobuf import Protobuf
from millstream.triggers.kafka_records import KafkaEvent, SchemaMetadata, encode_event
from millstream.triggers.kafka_registry import FIELD, RegisteredSchema, Registry

logger = logging.getLogger(__name__)

MAX_SCHEMAS = 1000
"""Schemas that are kept, the last used ones; also ids that are known to have none."""

MISSING_S = 10.0
"""For how long an id without a schema is not asked for again."""

NEW_SCHEMA_S = 0.5
"""How long one that was registered just now may be unknown to a registry's other nodes."""

CLOSE_S = 1.0

PREFIX_BYTES = 5
"""A zero, and the schema's id in four bytes. Source: Confluent, "Wire format"."""


@dataclass(frozen=True, slots=True)
class _Known:
    """One schema. `format` None: it cannot be understood, so that nothing fits it."""

    kind: str
    format: Format | None


class SchemaCheck:
    """Implements RecordCheck, in a thread of its own: the members' heartbeats do not wait for a registry."""

    def __init__(self, name: str, schemas: Schemas) -> None:
        self._schemas = schemas
        self._calls = BlockingClient(f"{name}-schemas", 1)

    async def checked(self, records: Sequence[Record]) -> Sequence[Record]:
        return await self._calls.call(self._schemas.applied, records)

    async def aclose(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._calls.call(self._schemas.close)
        self._calls.close()


class Schemas:
    """The schemas of one mapping; used by one thread at a time.

    `attributes` are "key", "value" or both; `as_json` makes JSON of them, else their bytes stay as they are.
    """

    def __init__(self, registry: Registry, attributes: Sequence[str], as_json: bool) -> None:
        self._registry = registry
        self._attributes = attributes
        self._as_json = as_json
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._missing: OrderedDict[int, float] = OrderedDict()  # until when, monotonic
        self._patient = False  # waits for a schema that may be new; once for all records of a call

    def applied(self, records: Sequence[Record]) -> list[Record]:
        """The records as the function gets them; those that fit no schema as they came, refused.

        Raises:
            SourceUnavailable: the registry does not answer now.
            Refused: it does not let us in, or has Protobuf schemas as text only.
        """
        self._patient = True
        return [self._applied(record) for record in records]

    def close(self) -> None:
        self._registry.close()

    def _applied(self, record: Record) -> Record:
        """Source: AWS, "Using schema registries with Kafka event sources in Lambda"."""
        changes: dict[str, bytes | SchemaMetadata] = {}
        event = msgspec.json.decode(record.event, type=KafkaEvent)
        for attribute in self._attributes:
            data = getattr(event, attribute)
            if not isinstance(data, bytes):
                continue  # none, which no schema is about
            if len(data) < PREFIX_BYTES or data[0]:
                return self._refused(record, Reason.DESERIALIZATION_ERROR)
            number = int.from_bytes(data[1:PREFIX_BYTES])
            known = self._schema(number)
            if known is None:
                return self._refused(record, Reason.SCHEMA_NOT_FOUND)
            try:
                if known.format is None:
                    raise Unfit("no schema")
                plain = data[PREFIX_BYTES:]
                text = known.format.json(plain)
            except Unfit as unfit:
                logger.debug("record does not fit its schema", extra={"schema": number, "why": str(unfit)})
                return self._refused(record, Reason.DESERIALIZATION_ERROR)
            changes[attribute] = text if self._as_json else plain
            changes[f"{attribute}_schema_metadata"] = SchemaMetadata(known.kind, str(number))
        return msgspec.structs.replace(record, event=encode_event(msgspec.structs.replace(event, **changes)))

    def _refused(self, record: Record, reason: Reason) -> Record:
        return msgspec.structs.replace(record, refused=reason)

    def _schema(self, number: int) -> _Known | None:
        known = self._known.get(number)
        if known is not None:
            self._known.move_to_end(number)
            return known
        now = time.monotonic()
        if self._missing.get(number, 0.0) > now:
            return None
        found = self._registry.schema(number)
        if found is None and self._patient:
            self._patient = False
            time.sleep(NEW_SCHEMA_S)
            found = self._registry.schema(number)
        if found is None:
            self._missing[number] = now + MISSING_S
            _trim(self._missing)
            return None
        try:
            known = _Known(found.kind, format_of(found))
        except Unfit as unfit:
            logger.warning("schema not understood", extra={"schema": number, "why": str(unfit)})
            known = _Known(found.kind, None)
        except NotSerialized as text:
            why = f"schema {number} is text, and not in Protobuf's serialized form"
            raise Refused(f"{FIELD}: {why}") from text
        self._known[number] = known
        _trim(self._known)
        return known


def format_of(schema: RegisteredSchema) -> Format:
    """The reader of a schema.

    Raises:
        Unfit: it cannot be understood.
        NotSerialized: see there.
    """
    match schema.kind:
        case "AVRO":
            return Avro(schema)
        case "JSON":
            return JsonSchema(schema)
        case "PROTOBUF":
            return Protobuf(schema)
        case other:
            raise Unfit(other)


def _trim(kept: OrderedDict[int, _Known] | OrderedDict[int, float]) -> None:
    while len(kept) > MAX_SCHEMAS:
        kept.popitem(last=False)
