"""Kafka topics for the tests of whole daemons, and what became of their records."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

FLUSHED_WITHIN_S = 30.0

APP = """
import time
from millstream import App, Kafka

app = App("test")


@app.function(timeout=30)
def handle(event, context):
    time.sleep({takes_s})
    {body}


app.map(
    Kafka("{topic}", bootstrap_servers="{servers}", starting_position="TRIM_HORIZON", {options}),
    to=handle,
    on_success="{done}",
    {more}
)
"""


def app(
    folder: Path, servers: str, topic: str, options: str = "", *, takes_s: float = 0.0, **parts: str
) -> str:
    """An app that maps a topic to a function; what it took is in `done.jsonl`."""
    parts = {"body": "pass", "more": "", **parts}
    done = (folder / "done.jsonl").as_uri()
    return APP.format(topic=topic, servers=servers, options=options, takes_s=takes_s, done=done, **parts)


def put(servers: str, topic: str, numbers: Sequence[int], partitions: int) -> None:
    """Records whose values are their numbers; number N goes to partition N modulo `partitions`."""
    # Without idempotence, a batch that is sent again may come behind its successor.
    settings = {"bootstrap.servers": servers, "log_level": 0, "linger.ms": 20, "enable.idempotence": True}
    producer = Producer({**settings, "queue.buffering.max.messages": len(numbers) + 1})
    for number in numbers:
        producer.produce(topic, str(number).encode(), partition=number % partitions)
    assert producer.flush(FLUSHED_WITHIN_S) == 0


def put_large(servers: str, topic: str, size: int) -> None:
    """One record of so many bytes."""
    producer = Producer({"bootstrap.servers": servers, "log_level": 0, "message.max.bytes": 2 * size})
    producer.produce(topic, b"x" * size, partition=0)
    assert producer.flush(FLUSHED_WITHIN_S) == 0


def deliveries(file: Path) -> Iterator[tuple[float, list[int]]]:
    """When each batch was taken (Unix seconds), and its numbers; lines that a kill has cut are left out."""
    if not file.exists():
        return
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"}\n"):
                document = json.loads(line)
                yield datetime.fromisoformat(document["timestamp"]).timestamp(), taken(document)


def taken(document: dict[str, Any]) -> list[int]:
    parts = document["requestPayload"]["records"].values()
    return [int(base64.b64decode(record["value"])) for part in parts for record in part]


def numbers(file: Path) -> list[int]:
    """All numbers that were taken, in the order of the file."""
    return [number for _, batch in deliveries(file) for number in batch]
