"""Kafka topics for the tests of whole daemons, and what became of their records."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
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


class Taken:
    """What functions took, from a growing `done.jsonl`; what was read before is not read again."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "done.jsonl"
        self._read = 0  # bytes
        self._batches: list[tuple[float, dict[str, list[int]]]] = []
        self._numbers: list[int] = []
        self._distinct: set[int] = set()

    def batches(self) -> list[tuple[float, dict[str, list[int]]]]:
        """When each batch was taken (Unix seconds), and its numbers by partition, in order."""
        if not self.file.exists():
            return []
        with self.file.open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                if not line.endswith(b"}\n"):
                    break  # being written, or cut by a kill
                self._read += len(line)
                self._add(json.loads(line))
        return self._batches

    def _add(self, document: dict[str, Any]) -> None:
        parts = document["requestPayload"]["records"]
        batch = {
            name: [int(base64.b64decode(record["value"])) for record in part] for name, part in parts.items()
        }
        self._batches.append((datetime.fromisoformat(document["timestamp"]).timestamp(), batch))
        for part in batch.values():
            self._numbers += part
            self._distinct.update(part)

    def numbers(self) -> list[int]:
        """All that were taken, in the order of the file."""
        self.batches()
        return self._numbers

    def distinct(self) -> set[int]:
        """Each number once."""
        self.batches()
        return self._distinct
