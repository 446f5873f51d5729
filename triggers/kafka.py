"""Kafka topics as event sources: options, the event, and failure records."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import Problem, Refused, SourceUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.options import parse_options, shown
from millstream.contract.ports import (
    BatchLimits,
    Capabilities,
    DataFormat,
    FilterRules,
    Host,
    JsonObject,
    Mismatch,
)
from millstream.contract.records import Record, by_partition
from millstream.contract.stream_options import TimedStreamOptions
from millstream.contract.stream_trigger import RecordFailure
from millstream.contract.streams import StartingPosition, StreamPolicy
from millstream.contract.times import iso_ms
from millstream.kafka.access import Access, access_of
from millstream.kafka.admission import admit
from millstream.kafka.libraries import CONFLUENT, chosen
from millstream.kafka.options import SECRET_FIELDS, KafkaConnectionOptions
from millstream.triggers.kafka_client import (
    Client,
    GroupSettings,
    RecordCheck,
    Transactions,
    buffered_bytes,
    new_client,
    prefetch_bytes,
)
from millstream.triggers.kafka_records import RecordMaker, item_id, key_of
from millstream.triggers.kafka_registry import FIELD as SCHEMA_REGISTRY
from millstream.triggers.kafka_schema_options import SchemaRegistryOptions, open_registry
from millstream.triggers.kafka_source import KafkaSource

TOPIC = "a topic's name"

DEFAULT_WINDOW_S = 0.5
"""Source: AWS, CreateEventSourceMapping: 500 ms for Kafka where no window is set."""

EVENT_SOURCE = "SelfManagedKafka"
"""Without `aws:`. Source: the models of AWS's Powertools (tests/triggers/test_powertools_models.py)."""


def _topic(text: str) -> str:
    valid = 0 < len(text) <= 249 and text not in (".", "..")
    if not valid or not all(c.isascii() and (c.isalnum() or c in "._-") for c in text):
        raise ValueError(TOPIC)
    return text


class KafkaOptions(KafkaConnectionOptions, TimedStreamOptions):
    """Options of a Kafka mapping. Those between `client` and `transactional_id` are ours."""

    topic: Annotated[str, AfterValidator(_topic)] = Field(description=TOPIC)
    consumer_group_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="a string of 1 to 200 characters"
    )
    batching_window: float = Field(  # type: ignore[assignment]  # half a second, which whole ones cannot say
        default=DEFAULT_WINDOW_S, ge=0, le=300, description="a number of seconds from 0 to 300"
    )
    client: Literal["auto", "confluent", "kafka-python"] = Field(
        default="auto", description='"auto", "confluent" or "kafka-python"'
    )
    group_instance_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="a string of 1 to 200 characters"
    )
    isolation_level: Literal["read_committed", "read_uncommitted"] = Field(
        default="read_committed", description='"read_committed" or "read_uncommitted"'
    )
    one_partition_per_batch: bool = Field(default=True, description="True or False")
    session_timeout: int = Field(
        default=10, ge=1, le=1800, description="a whole number of seconds from 1 to 1800"
    )
    transactional_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="a string of 1 to 200 characters"
    )
    schema_registry_config: SchemaRegistryOptions | None = None

    def misfits(self) -> list[Problem]:
        problems = super().misfits()
        if self.transactional_id is None:
            return problems
        wrong = {
            "client": ('"confluent" or "auto" beside transactional_id', self.client == "kafka-python"),
            "one_partition_per_batch": ("True beside transactional_id", not self.one_partition_per_batch),
            "report_batch_item_failures": (
                "False beside transactional_id: an answer is published whole",
                self.report_batch_item_failures,
            ),
        }
        found = {name: wanted for name, (wanted, is_wrong) in wrong.items() if is_wrong}
        return problems + [Problem("", name, found[name], shown(getattr(self, name))) for name in found]


@dataclass(frozen=True)
class KafkaTrigger:
    """The declared source of one mapping on a topic."""

    options: KafkaOptions

    capabilities = Capabilities(ordered_by_key=True)
    filter_rules = FilterRules("value", ("value",), DataFormat.BASE64, Mismatch.DROP)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(KafkaOptions, options, SECRET_FIELDS | {SCHEMA_REGISTRY}))

    @property
    def limits(self) -> BatchLimits:
        return BatchLimits(self.options.batch_size, float(self.options.batching_window))

    @property
    def policy(self) -> StreamPolicy:
        shared = not self.options.one_partition_per_batch
        return replace(self.options.policy, share_batches=shared, item_id=item_id)

    @property
    def starting_position(self) -> StartingPosition:
        return self.options.start

    @property
    def source(self) -> str:
        return self.options.topic

    async def open(self, host: Host, function: FunctionSpec) -> KafkaSource:
        """Connect and find the topic.

        Raises:
            Refused: there is no such topic, the cluster refuses us, or a file or secret cannot be read.
            SourceUnavailable: no broker answers now.
        """
        options = self.options
        library = chosen(options.client if options.transactional_id is None else CONFLUENT)
        name = f"kafka-{options.topic}"
        maker = RecordMaker(options.topic)
        settings = GroupSettings(
            options.topic,
            options.consumer_group_id or host.mapping,
            options.group_instance_id,
            float(options.session_timeout),
            float(options.session_timeout),
            options.isolation_level == "read_committed",
            prefetch_bytes(host.buffer_bytes),
            buffered_bytes(host.buffer_bytes),
        )

        abandoned = threading.Event()

        def connect() -> tuple[Client, Access, RecordCheck | None]:
            access = access_of(options, options.bootstrap_servers, host)
            admit(access)
            client = new_client(library, settings, access, maker)
            try:
                if not client.partitions():
                    raise Refused(f"{options.topic}: a topic without partitions")
                check = self._check(name, host)
                if abandoned.is_set():  # nobody waits for the client any more
                    raise SourceUnavailable(f"{options.topic}: not wanted any more")
                return client, access, check
            except BaseException:
                client.close()
                raise

        calls = BlockingClient(name, 1)
        try:
            client, access, check = await calls.call(connect)
        except BaseException:
            abandoned.set()
            calls.close()
            raise
        outputs = self._outputs(access, maker)
        return KafkaSource(name, client, maker, calls, options.topic, settings, outputs, check)

    def _check(self, name: str, host: Host) -> RecordCheck | None:
        """What looks at records by their schemas; blocks."""
        options = self.options.schema_registry_config
        if options is None:
            return None
        try:
            from millstream.triggers.kafka_schemas import SchemaCheck, Schemas
        except ImportError as error:
            way = 'pip install "millstream[kafka-schemas]"'
            raise Refused(f"{SCHEMA_REGISTRY}: {error.name} is not installed ({way})") from error
        registry = open_registry(options, host)
        attributes = [attribute.lower() for attribute in options.schema_validation_configs]
        return SchemaCheck(name, Schemas(registry, attributes, options.event_record_format == "JSON"))

    def _outputs(self, access: Access, maker: RecordMaker) -> Transactions | None:
        if self.options.transactional_id is None:
            return None
        from millstream.triggers.kafka_outputs import KafkaOutputs

        name, topic = self.options.transactional_id, self.options.topic
        return KafkaOutputs(topic, name, access, maker.number)

    def envelope(self, records: Sequence[Record]) -> bytes:
        servers = self.options.bootstrap_servers.encode()
        head = b'{"eventSource":"%b","bootstrapServers":"%b","records":{' % (EVENT_SOURCE.encode(), servers)
        pieces: list[bytes] = []
        for name, part in by_partition(records):
            events = [record.event for record in part]
            events[0] = b'%b"%b":[%b' % (head, name.encode(), events[0])
            events[-1] += b"]"
            pieces += events
            head = b""
        pieces[-1] += b"}}"
        return b",".join(pieces)  # once: a copy of a large event costs as much as its records did

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        """Which records failed, and when they came.

        Source: AWS, "Capturing discarded batches for a self-managed Apache Kafka event source".
        """
        return {
            "KafkaBatchInfo": {
                "batchSize": len(records),
                "bootstrapServers": self.options.bootstrap_servers,
                "payloadSize": len(self.envelope(records)),
                "recordsInfo": {name: _span(part) for name, part in by_partition(records)},
            }
        }

    def record_failure(self, record: Record) -> RecordFailure:
        """One record, as a topic for failures is told of it.

        Source: AWS, as above: `recordInfo`, and the record's own key.
        """
        details = {
            "batchSize": 1,
            "bootstrapServers": self.options.bootstrap_servers,
            "payloadSize": len(self.envelope([record])),
            "recordInfo": {"offset": record.position, "timestamp": iso_ms(record.arrived_at)},
        }
        return RecordFailure({"KafkaBatchInfo": details}, key_of(record))


def _span(records: Sequence[Record]) -> JsonObject:
    first, last = records[0], records[-1]
    return {
        "firstRecordOffset": first.position,
        "lastRecordOffset": last.position,
        "firstRecordTimestamp": iso_ms(first.arrived_at),
        "lastRecordTimestamp": iso_ms(last.arrived_at),
    }
