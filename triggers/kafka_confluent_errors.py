"""What librdkafka's errors mean to us."""

from __future__ import annotations

from confluent_kafka import KafkaError

REFUSED = {
    KafkaError._AUTHENTICATION: "SASL authentication failed",
    KafkaError.SASL_AUTHENTICATION_FAILED: "SASL authentication failed",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Cluster failed to authorize Lambda",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Cluster failed to authorize Lambda",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Cluster failed to authorize Lambda",
    KafkaError._SSL: "Lambda failed to authenticate server",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "there is no such topic",
    KafkaError._UNKNOWN_TOPIC: "there is no such topic",
    KafkaError._UNKNOWN_PARTITION: "there is no such partition",
    KafkaError.TOPIC_EXCEPTION: "there is no such topic",
    KafkaError.FENCED_INSTANCE_ID: "another member has this group_instance_id",
    KafkaError._FENCED: "another member has this group_instance_id",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "the group's other members assign partitions in another way",
}
"""What somebody has to mend, in AWS's words where it has some.

Source: AWS, "Troubleshooting self-managed Apache Kafka event source mapping errors".
"""

OF_ONE_BROKER = frozenset(
    {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL}
)
"""What one broker may say while others let us in."""

NO_ANSWER = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN})

OUT_OF_RANGE = frozenset(
    {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
)

UNREADABLE = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError.INVALID_MSG})
"""What is said in place of a batch that is fetched again, and again."""


def text_of(error: KafkaError) -> str:
    """What an error says. Brokers write some of it, in whatever bytes."""
    try:
        return error.str()
    except UnicodeDecodeError:
        return error.name()
