"""Event source mappings as AWS Lambda has them, for queues and streams anywhere.

This module is imported inside function sandboxes too: it must stay cheap and do nothing.
"""

from millstream.declarations import (
    App,
    Destination,
    DynamoDB,
    Function,
    Kafka,
    Kinesis,
    RabbitMq,
    RabbitMqStream,
    Source,
    Sqs,
)

__version__ = "0.1.0"

__all__ = [
    "App",
    "Destination",
    "DynamoDB",
    "Function",
    "Kafka",
    "Kinesis",
    "RabbitMq",
    "RabbitMqStream",
    "Source",
    "Sqs",
    "__version__",
]
