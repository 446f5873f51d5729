"""Kinesis through a whole daemon that is killed again and again, and resharded in the middle."""

from __future__ import annotations

import random
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.brokers.kinesis_local import KinesisLocal
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.streams import Recorded, make_stream, out_of_order, put, repeated, until_active

pytestmark = [pytest.mark.broker, pytest.mark.timeout(420)]

RECORDS = 15_000
SHARDS = 4
KILLS = 20
BATCH = 25
WORK_S = 0.03
"""A function takes so long for a batch: there is work left at each kill, though the records are few enough
for an endpoint whose answers take the longer, the more it holds."""
POISON_PERCENT = 3

APP = """
import base64, json, time
from millstream import App, Kinesis

app = App("test")


@app.function(timeout=10)
def handle(event, context):
    numbers = [json.loads(base64.b64decode(r["kinesis"]["data"]))["id"] for r in event["Records"]]
    if any(number * 2654435761 % 100 < {poison} for number in numbers):
        raise SystemError("poison")
    time.sleep({work_s})


app.map(
    Kinesis(
        "{stream}",
        starting_position="TRIM_HORIZON",
        batch_size={batch},
        maximum_retry_attempts=0,
        bisect_batch_on_function_error=True,
    ),
    to=handle,
    on_success="{done}",
    on_failure="{failed}",
)
"""


def poison(number: int) -> bool:
    return number * 2654435761 % 100 < POISON_PERCENT


def test_over_twenty_kills_and_a_reshard_nothing_is_lost(tmp_path: Path, kinesis_local: KinesisLocal) -> None:
    """At each kill a shard has at most one batch in flight, and one whose checkpoint is being written."""
    kinesis = kinesis_local.client()
    stream = make_stream(kinesis, SHARDS)
    done = Recorded(tmp_path / "done.jsonl", "requestPayload")
    failed = Recorded(tmp_path / "failed.jsonl", "payload")
    files = {"done": f"file://{done.file}", "failed": f"file://{failed.file}"}
    source = APP.format(stream=stream, batch=BATCH, poison=POISON_PERCENT, work_s=WORK_S, **files)
    producer = threading.Thread(target=_produce, args=(kinesis_local, stream))
    producer.start()
    daemon = RunningDaemon(tmp_path, kinesis_local.endpoint_url)
    chance = random.Random(5)
    lives = [0]  # how much had been delivered as each life of the daemon began
    try:
        daemon.start(source)
        for _ in range(KILLS):
            wait_until("it gets on", lambda: len(done.numbers()) > lives[-1])
            time.sleep(chance.uniform(0.1, 1.0))  # a kill at any moment is what is tested
            daemon.kill()
            lives.append(len(done.numbers()))
            daemon.start()
        wait_until(
            "all are delivered or given up",
            lambda: len({*done.numbers(), *failed.numbers()}) == RECORDS,
            within_s=240.0,
        )
        assert daemon.stop() == 0
    finally:
        producer.join()
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
    took, poisoned = done.numbers(), {n for n in range(RECORDS) if poison(n)}
    assert set(failed.numbers()) == poisoned
    assert set(took) == set(range(RECORDS)) - poisoned
    for begin, end in pairwise([*lives, len(took)]):
        assert out_of_order(took[begin:end]) == {}
    assert repeated(took) <= KILLS * (SHARDS + 1) * 2 * BATCH


def _produce(broker: KinesisLocal, stream: str) -> None:
    """All records, in order for each key; after half of them a shard is split and two are merged."""
    kinesis = broker.client()
    put(kinesis, stream, 0, RECORDS // 2)
    shards = kinesis.list_shards(StreamName=stream)["Shards"]
    ranges = {s["ShardId"]: s["HashKeyRange"] for s in shards}
    first, second, third, *_ = sorted(ranges, key=lambda s: int(ranges[s]["StartingHashKey"]))
    middle = (int(ranges[first]["StartingHashKey"]) + int(ranges[first]["EndingHashKey"])) // 2
    kinesis.split_shard(StreamName=stream, ShardToSplit=first, NewStartingHashKey=str(middle))
    until_active(kinesis, stream)
    kinesis.merge_shards(StreamName=stream, ShardToMerge=second, AdjacentShardToMerge=third)
    until_active(kinesis, stream)
    put(kinesis, stream, RECORDS // 2, RECORDS - RECORDS // 2)
