"""What a Kafka client library must do for a destination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from millstream.kafka.access import Access
from millstream.kafka.libraries import CONFLUENT

CALL_S = 5.0
"""How long the cluster may take to tell about its topic."""

USUAL_LIMIT_BYTES = 1_048_588
"""max.message.bytes of a topic that has none of its own. Source: Apache Kafka, "Topic Configs"."""

MOST_BYTES = 64 * 1024 * 1024
"""What is taken at most where the topic takes more: the libraries have limits of their own."""

OVERHEAD_BYTES = 1024
"""What a batch of one record has beside key and value, and more."""


@dataclass(frozen=True, slots=True)
class NotWritten:
    """A reason for which a record is not written."""

    why: str
    too_large: bool = False  # for its size; what is smaller may be


Answer: TypeAlias = Callable[[NotWritten | None], None]
"""Called once for each record, from any thread: None once all replicas have it, else why they have not."""


class Producer(Protocol):
    """An idempotent producer of one topic. Made by a thread that may wait; used by one thread at a time."""

    @property
    def limit_bytes(self) -> int:
        """Largest key and value together, as far as is known."""

    def learn(self, size_bytes: int) -> None:
        """Ask anew how large a record may be, after one of so many bytes was too large. Blocks."""

    def send(self, key: bytes | None, value: bytes, answer: Answer) -> None:
        """Have a record written; records of one key in the order in which they are sent.

        Raises:
            DestinationUnavailable: it is not sent; there will be no answer.
            DocumentTooLarge: the same, for its size.
        """

    def close(self) -> None:
        """Give up what is not written, and let go of the cluster."""


def new_producer(library: str, target: str, topic: str, access: Access, timeout_s: float) -> Producer:
    """A producer of that library, connected.

    Raises:
        Refused: there is no such topic, or it refuses us.
        DestinationUnavailable: no broker answers now.
    """
    if library == CONFLUENT:
        from millstream.destinations.kafka_confluent import ConfluentProducer

        return ConfluentProducer(target, topic, access, timeout_s)
    from millstream.destinations.kafka_python import KafkaPythonProducer

    return KafkaPythonProducer(target, topic, access, timeout_s)


def limit_of(found: str | None) -> int:
    """How large a record may be, by a topic's max.message.bytes. None: it does not say."""
    return max(min(int(found or USUAL_LIMIT_BYTES), MOST_BYTES) - OVERHEAD_BYTES, 1)
