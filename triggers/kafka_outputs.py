"""Exactly once from Kafka to Kafka: what a function returns and its batch's offsets, in one transaction.

            answer ── take ──► held ──┐
checkpoint ── commit ─────────────────┴─► begin, produce, offsets, commit ──► released

A transaction whose end is not known is never guessed: the membership ends, and the next one goes on
from the group's offsets, which say whether it was committed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
from confluent_kafka import KafkaException, Producer, TopicPartition

from millstream.contract import outside_json
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import LeaseLost, Refused, SourceUnavailable, StateUnavailable
from millstream.contract.functions import Success
from millstream.contract.records import Record
from millstream.kafka.access import Access
from millstream.triggers.kafka_client import written_for
from millstream.triggers.kafka_confluent_errors import REFUSED

logger = logging.getLogger(__name__)

CALL_S = 10.0
"""How long a call of the transaction's protocol may take."""

BEGIN_THREADS = 16
"""Partitions that are taken over at once."""

MOST_OUTPUT_BYTES = 1_000_000 - 1024
"""Key, value and headers of what a function returns. Source: librdkafka's message.max.bytes, and about
what a topic takes by default."""

THREADS = 4
"""Transactions that run at once; each partition has one at most."""

HELD_BYTES = 8 * 1024 * 1024
"""What may be held of one partition before the next answer waits for a commit."""


class Output(msgspec.Struct, frozen=True, gc=False):
    """A record that a function returns, in the form that events have: key and value are base64."""

    topic: str
    partition: int | None = None
    key: bytes | None = None
    value: bytes | None = None
    headers: list[dict[str, list[int]]] = []


class _Answer(msgspec.Struct):
    records: list[Output] = []


@dataclass(frozen=True, slots=True)
class _Held:
    """What one batch brought."""

    last: int  # the batch's last offset
    outputs: Sequence[Output]
    bytes: int


class KafkaOutputs:
    """Implements Transactions, for one member of a group; each partition has a transactional id of its own.

    So that whoever takes a partition over ends the transaction of the one before, and fences it.
    """

    def __init__(
        self,
        topic: str,
        transactional_id: str,
        access: Access,
        number: Callable[[str], int],
    ) -> None:
        self._topic = topic
        self._id = transactional_id
        self._access = access
        self._number = number
        self._member: Any = None
        self._mark = ""  # what is written beside offsets
        self._calls = BlockingClient(f"kafka-transactions-{topic}", THREADS)
        self._producers: dict[int, Producer] = {}
        self._held: dict[int, deque[_Held]] = {}
        self._unknown: set[int] = set()  # partitions with a transaction whose end nobody has seen
        self._released = asyncio.Event()

    async def take(self, records: Sequence[Record], answer: Success) -> str | None:
        try:
            outputs = read_outputs(answer.payload)
        except ValueError as error:
            return str(error)
        if not outputs:
            return None
        last = records[-1]
        held = self._held.setdefault(self._number(last.partition), deque())
        while sum(one.bytes for one in held) >= HELD_BYTES:
            self._released.clear()
            await self._released.wait()
        held.append(_Held(int(last.position), outputs, len(answer.payload)))
        return None

    def forget(self, partition: int) -> bool:
        self._held.pop(partition, None)
        self._released.set()
        return partition not in self._unknown

    async def commit(self, partition: int, position: int) -> None:
        held = self._held.get(partition, deque())
        due = [one for one in held if one.last <= position]
        outputs = [output for one in due for output in one.outputs]
        self._unknown.add(partition)
        try:
            await self._calls.call(self._transact, partition, position + 1, outputs)
        except StateUnavailable:
            self._unknown.discard(partition)
            raise
        self._unknown.discard(partition)
        for _ in due:
            held.popleft()
        self._released.set()

    def belong(self, member: Any, identity: str | None) -> None:
        self._member = member
        self._mark = written_for(identity)

    def begin(self, partitions: Sequence[int]) -> None:
        """At once, and none any more after the first that fails: the polling thread waits for all."""
        if not partitions:
            return
        failed = threading.Event()
        with ThreadPoolExecutor(min(len(partitions), BEGIN_THREADS), "kafka-transactions-begin") as pool:
            made = list(pool.map(lambda partition: self._begin(partition, failed), partitions))
        self._producers |= dict(zip(partitions, made, strict=True))

    def _begin(self, partition: int, failed: threading.Event) -> Producer:
        if failed.is_set():
            raise SourceUnavailable(f"{self._topic}: transactional_id {self._id}: no answer")
        producer = Producer(
            self._access.for_librdkafka()
            | {
                "client.id": "millstream",
                "transactional.id": f"{self._id}-{self._topic}-{partition}",
                "transaction.timeout.ms": 60_000,
                "linger.ms": 5,
                "queue.buffering.max.kbytes": 2 * HELD_BYTES // 1024,
                "log_level": 0,
            }
        )
        try:
            producer.init_transactions(CALL_S)
        except KafkaException as raised:
            failed.set()
            error = raised.args[0]
            why = f"{self._topic}: transactional_id {self._id}: {error.name()}"
            raise (Refused if error.code() in REFUSED else SourceUnavailable)(why) from raised
        return producer

    def end(self, partition: int) -> None:
        self._producers.pop(partition, None)

    async def aclose(self) -> None:
        await self._calls.call(self._producers.clear)
        self._calls.close()

    def _transact(self, partition: int, offset: int, outputs: Sequence[Output]) -> None:
        producer = self._producers.get(partition)
        if producer is None:
            raise LeaseLost(f"partition {partition} is another member's by now")
        try:
            producer.begin_transaction()
            for output in outputs:
                _produce(producer, output)
        except KafkaException as raised:
            self._undo(partition, producer, raised, begun_only=True)
        try:
            place = TopicPartition(self._topic, partition, offset, metadata=self._mark)
            producer.send_offsets_to_transaction([place], self._member, CALL_S)
            producer.commit_transaction(CALL_S)
        except KafkaException as raised:
            self._undo(partition, producer, raised)

    def _undo(
        self, partition: int, producer: Producer, raised: KafkaException, *, begun_only: bool = False
    ) -> NoReturn:
        """Undo a transaction; one that is begun only cannot have been committed, whatever has failed."""
        error = raised.args[0]
        why = f"{self._topic}-{partition}: transaction: {error.name()}"
        if error.fatal():
            raise LeaseLost(why) from raised  # fenced by whoever has the partition now
        if not error.txn_requires_abort() and not begun_only:
            raise SourceUnavailable(f"{why}, its end is not known") from raised
        try:
            producer.abort_transaction(CALL_S)
        except KafkaException as again:
            raise SourceUnavailable(f"{why}, its end is not known") from again
        raise StateUnavailable(why) from raised


def read_outputs(payload: bytes) -> Sequence[Output]:
    """The records that a function returns; none of null, `{}` or an object without `records`.

    Raises:
        ValueError: what is wrong with it, in a user's words.
    """
    try:
        answer = _read(payload)
        records = answer.records if answer is not None else ()
        for record in records:
            _check(record)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        wanted = '{"records": [{"topic", "key", "value", "headers"}]}, key and value in base64'
        raise ValueError(f"the function's answer: wanted {wanted}, found {error}") from error
    return records


def _read(payload: bytes) -> _Answer | None:
    try:
        return msgspec.json.decode(payload, type=_Answer | None)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return msgspec.convert(outside_json.read(payload), type=_Answer | None)


def _check(output: Output) -> None:
    """Raise ValueError unless a producer would take the record."""
    names = [name for header in output.headers for name in header]
    for text in (output.topic, *names):
        text.encode()  # half a surrogate pair is JSON, and nothing that Kafka has
    if not output.topic or "\0" in output.topic:
        raise ValueError("no topic")
    if output.partition is not None and not 0 <= output.partition < 2**31:
        raise ValueError(f"partition {output.partition}")
    headers = sum(len(value) for header in output.headers for value in header.values())
    size = len(output.key or b"") + len(output.value or b"") + headers + sum(map(len, names))
    if size > MOST_OUTPUT_BYTES:
        raise ValueError(f"a record of {size} bytes, above {MOST_OUTPUT_BYTES}")


def _produce(producer: Producer, output: Output) -> None:
    headers: Any = [(n, bytes(byte & 0xFF for byte in v)) for each in output.headers for n, v in each.items()]
    more: dict[str, Any] = {} if output.partition is None else {"partition": output.partition}
    while True:
        try:
            producer.produce(output.topic, output.value, output.key, headers=headers, **more)
        except BufferError:
            producer.poll(0.1)
        else:
            return
