"""What kafka-python's errors mean to us."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kafka import errors as kafka_errors

from millstream.contract.errors import InvalidConfiguration, Problem, Refused, SourceUnavailable
from millstream.triggers.kafka_codecs import CodecMissing

REFUSED: dict[type[Exception], str] = {
    kafka_errors.UnsupportedCodecError: "compressed with what no installed package reads",
    kafka_errors.SaslAuthenticationFailedError: "SASL authentication failed",
    kafka_errors.UnsupportedSaslMechanismError: "SASL authentication failed",
    kafka_errors.AuthorizationError: "Cluster failed to authorize Lambda",
    kafka_errors.UnknownTopicOrPartitionError: "there is no such topic",
    kafka_errors.InvalidTopicError: "there is no such topic",
    kafka_errors.FencedInstanceIdError: "another member has this group_instance_id",
    kafka_errors.InconsistentGroupProtocolError: (
        "the group's other members assign partitions in another way"
    ),
}
"""What somebody has to mend, in AWS's words where it has some.

Source: AWS, "Troubleshooting self-managed Apache Kafka event source mapping errors".
"""


@contextmanager
def python_errors(topic: str) -> Iterator[None]:
    """Map what the library raises.

    Raises:
        OutOfRange: offsets are not in the topic.
        Refused: somebody has to mend that.
        SourceUnavailable: anything else.
    """
    try:
        yield
    except kafka_errors.OffsetOutOfRangeError as raised:
        raise OutOfRange([place.partition for place in raised.args[0]]) from raised
    except kafka_errors.LogTruncationError as raised:
        raise OutOfRange([place.partition for place in raised.divergent_offsets]) from raised
    except CodecMissing as raised:
        raise Refused(f"{topic}: {raised}") from raised
    except kafka_errors.KafkaError as raised:
        for kind, why in REFUSED.items():
            if isinstance(raised, kind):
                raise Refused(f"{topic}: {why} ({type(raised).__name__})") from raised
        raise SourceUnavailable(f"{topic}: {type(raised).__name__}") from raised


@contextmanager
def configured() -> Iterator[None]:
    """Say what the library finds wrong in its configuration."""
    try:
        yield
    except kafka_errors.KafkaConfigurationError as raised:
        wanted = "a configuration that the client takes"
        raise InvalidConfiguration([Problem("", "client", wanted, str(raised))]) from raised


class OutOfRange(Exception):
    """The cluster does not have the next offset of some partitions."""

    def __init__(self, partitions: Sequence[int]) -> None:
        super().__init__(f"out of range: {partitions}")
        self.partitions = partitions
