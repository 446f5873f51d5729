"""Kafka throughput: the mapping end to end against a minimal loop on the same client library.

Both read the same topic of one private broker. The loop polls, builds events with the same msgspec
structs, pipes each to one Python process that parses it and decodes every value, and commits each
second; the mapping does so through a sandboxed function. `1k-noop` does neither decode.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer
from kafka import KafkaConsumer

from benchmarks.idle import cpu_s, memory_mb
from benchmarks.report import Result, case
from benchmarks.streams import mapping_rate
from millstream.triggers.kafka_records import TIMESTAMP_TYPES, KafkaEvent
from tests.brokers.kafka import Kafka

PARTITIONS = 4
REPEATS = 3
WARM_UP = 20_000
COMMIT_S = 1.0
NO_AWS = "http://127.0.0.1:9"

RECORDS = {"1k": 200_000, "100b": 600_000}
SLOW_SHARE = 4  # kafka-python reads a part of them
BYTES = {"1k": 1024, "100b": 100}

DECODE = "base64.b64decode(record['value'])"
CASES = {
    "1k-batch-1000": ("1k", 1000, DECODE),
    "100b-batch-1000": ("100b", 1000, DECODE),
    "1k-batch-100": ("1k", 100, DECODE),
    "100b-batch-100": ("100b", 100, DECODE),
    "1k-noop": ("1k", 1000, ""),
}

APP = """
import base64
from millstream import App, Kafka

app = App("bench")


@app.function(timeout=30, memory_size=512)
def handle(event, context):
    {body}


app.map(
    Kafka(
        "{topic}",
        bootstrap_servers="{servers}",
        starting_position="TRIM_HORIZON",
        consumer_group_id="{group}",
        batch_size={size},
        client="{client}",
    ),
    to=handle,
)
"""

EACH = """for records in event["records"].values():
        for record in records:
            """

CHILD = """
import base64, json, struct, sys
source, answers = sys.stdin.buffer, sys.stdout.buffer
while head := source.read(4):
    event = source.read(struct.unpack(">I", head)[0])
    {body}
    answers.write(b"1")
    answers.flush()
"""

Poll = Callable[[int], list[KafkaEvent]]


def run(client: str = "confluent") -> Result:
    """Interleaved: baseline, mapping, baseline … of each case."""
    share = 1 if client == "confluent" else SLOW_SHARE
    counts = {name: count // share for name, count in RECORDS.items()}
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kafka").mkdir()
        broker = Kafka(folder / "kafka")
        broker.start()
        try:
            topics = {kind: broker.create_topic(PARTITIONS) for kind in counts}
            for kind, topic in topics.items():
                _fill(broker.bootstrap, topic, counts[kind], BYTES[kind])
            for case_name, (kind, size, body) in CASES.items():
                cases[case_name] = _case(
                    folder / case_name, client, broker.bootstrap, topics[kind], counts[kind], size, body
                )
        finally:
            broker.close()
    return {"benchmark": "kafka", "client": client, "cases": cases}


def _case(
    folder: Path, client: str, servers: str, topic: str, records: int, size: int, body: str
) -> dict[str, object]:
    folder.mkdir()
    rates, baselines, used, held = [], [], [], []
    for repeat in range(REPEATS):
        baselines.append(_bare(client, servers, topic, records, size, body, f"bare-{size}-{body}-{repeat}"))
        group = f"ours-{folder.name}-{repeat}"
        handled = f"{EACH}{body}" if body else "pass"
        app = APP.format(topic=topic, servers=servers, group=group, size=size, body=handled, client=client)

        def watch(pid: int) -> None:
            used.append(cpu_s(pid) / records * 1e6)
            held.append(memory_mb(pid))

        rates.append(mapping_rate(folder / str(repeat), NO_AWS, app, records, watch))
    more = {"cpu_s_per_million": round(sorted(used)[1], 1), "memory_mb": round(max(held), 1)}
    return case(rates, baselines, "records/s", **more)


def _fill(servers: str, topic: str, count: int, size: int) -> None:
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "log_level": 0})
    value = os.urandom(size)
    for number in range(count):
        while True:
            try:
                producer.produce(topic, value, partition=number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60.0) == 0


def _bare(client: str, servers: str, topic: str, records: int, size: int, body: str, group: str) -> float:
    """Records a second of the minimal loop, behind its first ones."""
    encode = msgspec.json.Encoder().encode
    done, timed_from, started_at = 0, 0, 0.0
    with _child(body) as child, _consumer(client, servers, topic, group) as (poll, commit):
        committed_at = time.monotonic()
        assert child.stdin is not None
        assert child.stdout is not None
        while done < records:
            found = poll(size)
            if not found:
                continue
            parts: dict[str, list[KafkaEvent]] = {}
            for event in found:
                parts.setdefault(f"{topic}-{event.partition}", []).append(event)
            encoded = encode({"eventSource": "x", "bootstrapServers": servers, "records": parts})
            child.stdin.write(struct.pack(">I", len(encoded)) + encoded)
            child.stdin.flush()
            assert child.stdout.read(1) == b"1"
            done += len(found)
            if done >= WARM_UP and not started_at:
                started_at, timed_from = time.perf_counter(), done
            if time.monotonic() - committed_at >= COMMIT_S:
                commit()
                committed_at = time.monotonic()
        return (done - timed_from) / (time.perf_counter() - started_at)


@contextmanager
def _child(body: str) -> Iterator[subprocess.Popen[bytes]]:
    each = 'for rs in json.loads(event)["records"].values():\n        for record in rs:\n            '
    source = CHILD.format(body=f"{each}{body}" if body else "pass")
    child = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def _consumer(
    client: str, servers: str, topic: str, group: str
) -> Iterator[tuple[Poll, Callable[[], object]]]:
    if client == "confluent":
        settings = {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        more = {"bootstrap.servers": servers, "fetch.queue.backoff.ms": 2, "log_level": 0}
        consumer = Consumer({**settings, **more})
        consumer.subscribe([topic])

        def poll(limit: int) -> list[KafkaEvent]:
            found = []
            for m in consumer.consume(limit, 0.05):
                kind, ms = m.timestamp()
                kind_name = TIMESTAMP_TYPES[kind - 1]
                found.append(
                    KafkaEvent(
                        topic, m.partition() or 0, m.offset() or 0, ms, kind_name, value=m.value(), headers=[]
                    )
                )
            return found

        yield poll, consumer.commit
        consumer.close()
    else:
        theirs: Any = KafkaConsumer(
            topic,
            bootstrap_servers=servers,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )

        def poll_theirs(limit: int) -> list[KafkaEvent]:
            return [
                KafkaEvent(
                    topic, m.partition, m.offset, m.timestamp, "CREATE_TIME", value=m.value, headers=[]
                )
                for part in theirs.poll(timeout_ms=50, max_records=limit).values()
                for m in part
            ]

        yield poll_theirs, theirs.commit_async
        theirs.close(autocommit=False)
