"""Streams for the tests of whole daemons, and what became of their records."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_stream(kinesis: Any, shards: int) -> str:
    """A new, active Kinesis stream's name."""
    name = f"s-{uuid.uuid4().hex[:12]}"
    kinesis.create_stream(StreamName=name, ShardCount=shards)
    until_active(kinesis, name)
    return name


def stream_arn(kinesis: Any, name: str) -> str:
    arn: str = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    return arn


def make_consumer(kinesis: Any, stream: str) -> str:
    """The ARN of a new enhanced fan-out consumer, which is active."""
    arn = stream_arn(kinesis, stream)
    made = kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        found = kinesis.describe_stream_consumer(ConsumerARN=made["ConsumerARN"])["ConsumerDescription"]
        if found["ConsumerStatus"] == "ACTIVE":
            return str(made["ConsumerARN"])
        time.sleep(0.02)
    raise AssertionError(f"{made['ConsumerARN']} is not active")


def make_table(dynamodb: Any) -> str:
    """A new table's name; its key is the text `pk`, its stream has both images."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    dynamodb.create_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    return name


def until_active(kinesis: Any, name: str) -> None:
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        summary = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
        if summary["StreamStatus"] == "ACTIVE":
            return
        time.sleep(0.02)
    raise AssertionError(f"{name} is not active")


def put(kinesis: Any, name: str, first: int, count: int, keys: int = 97) -> None:
    """Records whose data is `{"id": N, "key": "kM"}`, in order for each key."""
    for start in range(first, first + count, 500):
        numbers = range(start, min(start + 500, first + count))
        records = [{"Data": data(n, keys), "PartitionKey": key_of(n, keys)} for n in numbers]
        while records:
            answer = kinesis.put_records(StreamName=name, Records=records)
            records = [
                record for record, put in zip(records, answer["Records"], strict=True) if put.get("ErrorCode")
            ]


def data(number: int, keys: int = 97) -> bytes:
    return json.dumps({"id": number, "key": key_of(number, keys)}).encode()


def key_of(number: int, keys: int = 97) -> str:
    return f"k{number % keys}"


def listed(data_dir: Path) -> list[dict[str, Any]]:
    """What `millstream mappings --json` prints."""
    command = [sys.executable, "-m", "millstream", "mappings", "--json", "--data-dir", str(data_dir)]
    printed = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
    found: list[dict[str, Any]] = json.loads(printed)
    return found


class Recorded:
    """A JSON-lines file of invocation records that grows: numbers of the records in their events.

    `payload` is "requestPayload" in an on-success file, "payload" in an on-failure file; `number_of`
    tells the number of a record in an event.
    """

    def __init__(
        self,
        file: Path,
        payload: str = "requestPayload",
        number_of: Callable[[dict[str, Any]], int] | None = None,
    ) -> None:
        self.file = file
        self._payload = payload
        self._number_of = number_of or number
        self._read = 0  # bytes
        self._numbers: list[int] = []

    def numbers(self) -> list[int]:
        """All of them, in the order of the file; what was read before is not read again."""
        if not self.file.exists():
            return []
        with self.file.open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                if not line.endswith(b"}\n"):
                    break  # being written, or cut by a kill
                self._read += len(line)
                event = json.loads(line)[self._payload]
                records = (json.loads(event) if isinstance(event, str) else event)["Records"]
                self._numbers += map(self._number_of, records)
        return self._numbers


def number(record: dict[str, Any]) -> int:
    found: int = json.loads(base64.b64decode(record["kinesis"]["data"]))["id"]
    return found


def out_of_order(numbers: list[int], keys: int = 97) -> dict[str, list[int]]:
    """Keys whose numbers do not rise, with these."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for n in numbers:
        by_key[key_of(n, keys)].append(n)
    return {key: found for key, found in by_key.items() if found != sorted(found)}


def repeated(numbers: list[int]) -> int:
    """How many deliveries there were beyond the first of each record."""
    return sum(count - 1 for count in Counter(numbers).values())
