"""The two client libraries, and which one is used."""

from __future__ import annotations

from importlib.util import find_spec

from millstream.contract.errors import Refused

CONFLUENT = "confluent"
KAFKA_PYTHON = "kafka-python"


def chosen(client: str) -> str:
    """The library that is used: the one named, or the fastest that is installed.

    Raises:
        Refused: it is not installed.
    """
    if client == "auto":
        return CONFLUENT if _has("confluent_kafka") else KAFKA_PYTHON
    if client == CONFLUENT and not _has("confluent_kafka"):
        raise Refused('client: confluent-kafka is not installed (pip install "millstream[kafka]")')
    return client


def _has(module: str) -> bool:
    return find_spec(module) is not None
