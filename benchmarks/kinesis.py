"""Kinesis throughput: the mapping end to end against a bare boto3 GetRecords loop; and its latency.

Both read the same 100,000 records of 1 KiB from the 4 shards of one stream on one endpoint. The
baseline, a thread for each shard, only reads; the mapping runs a sandboxed function that parses and
decodes every record.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import boto3

from benchmarks.report import Result, case
from benchmarks.streams import latencies, mapping_rate, percentile
from millstream.aws.clients import client_config
from millstream.cli.embedded import aws_endpoint, daemon_process

RECORDS = 100_000
RECORD_BYTES = 1024
SHARDS = 4
WARM_UP = 10_000
REPEATS = 3
PUT = 500  # records of one PutRecords; the service's limit
PAGE = 1_000  # of the bare loop: larger ones make the endpoint slower

LATENCY_RATE = 20.0
LATENCY_RECORDS = 400
LATENCY_WARM_UP = 60
PACE_S = 0.2  # between two reads of a shard; the service's limit is 5 a second

APP = """
import base64
from millstream import App, Kinesis

app = App("bench")


@app.function(timeout=30, memory_size=512)
def handle(event, context):
    for record in event["Records"]:
        base64.b64decode(record["kinesis"]["data"])


app.map(
    Kinesis("bench", starting_position="TRIM_HORIZON", batch_size={size}, parallelization_factor={factor}),
    to=handle,
)
"""

LATENCY_APP = """
import base64
import time
from millstream import App, Kinesis

app = App("latency")


@app.function(timeout=30)
def handle(event, context):
    now = time.time()
    for record in event["Records"]:
        sent_at = float(base64.b64decode(record["kinesis"]["data"]))
        print("latency_ms=%.3f" % ((now - sent_at) * 1000))


app.map(Kinesis("latency", starting_position="TRIM_HORIZON"), to=handle)
"""

CASES = {
    "batch-1000-pf1": (1000, 1),
    "batch-1000-pf4": (1000, 4),
    "batch-100-pf1": (100, 1),
    "batch-100-pf4": (100, 4),
}


def run() -> Result:
    """Interleaved: baseline, the first case, baseline, the second, and again; the latency last."""
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    baselines: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder, aws_endpoint(Path(folder) / "aws.log") as endpoint_url:
        kinesis = _client(endpoint_url)
        _fill(kinesis)
        _bare_loop(kinesis)  # warms the endpoint up
        for repeat in range(REPEATS):
            for name, (size, factor) in CASES.items():
                baselines[name].append(_bare_loop(kinesis))
                directory = Path(folder) / f"{name}-{repeat}"
                app = APP.format(size=size, factor=factor)
                rates[name].append(mapping_rate(directory, endpoint_url, app, RECORDS))
        cases = {name: case(rates[name], baselines[name], "records/s") for name in CASES}
        cases["latency-20"] = _latency(kinesis, endpoint_url, Path(folder) / "latency")
    return {"benchmark": "kinesis", "cases": cases}


def _client(endpoint_url: str) -> Any:
    session = boto3.session.Session()
    return session.client("kinesis", endpoint_url=endpoint_url, config=client_config(SHARDS))


def _fill(kinesis: Any) -> None:
    kinesis.create_stream(StreamName="bench", ShardCount=SHARDS)
    data = os.urandom(RECORD_BYTES)
    for first in range(0, RECORDS, PUT):
        records = [{"Data": data, "PartitionKey": f"key-{n % 997}"} for n in range(first, first + PUT)]
        kinesis.put_records(StreamName="bench", Records=records)


def _bare_loop(kinesis: Any) -> float:
    """Records a second of GetRecords on each shard in a thread of its own, from the oldest to the newest."""
    lock = threading.Lock()
    count, counted, started_at, ended_at = 0, 0, 0.0, 0.0

    def loop(shard: str) -> None:
        nonlocal count, counted, started_at, ended_at
        iterator = _oldest(kinesis, "bench", shard)
        while True:
            answer = kinesis.get_records(ShardIterator=iterator, Limit=PAGE)
            iterator = answer["NextShardIterator"]
            with lock:
                count += len(answer["Records"])
                ended_at = time.perf_counter()
                if count >= WARM_UP and not started_at:
                    started_at, counted = ended_at, count
            if answer["MillisBehindLatest"] == 0:
                return

    shards = [shard["ShardId"] for shard in kinesis.list_shards(StreamName="bench")["Shards"]]
    threads = [threading.Thread(target=loop, args=(shard,)) for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if count != RECORDS:
        raise AssertionError(f"{RECORDS} records were put, {count} were read")
    return (count - counted) / (ended_at - started_at)


def _oldest(kinesis: Any, stream: str, shard: str) -> str:
    asked = {"StreamName": stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
    iterator: str = kinesis.get_shard_iterator(**asked)["ShardIterator"]
    return iterator


def _latency(kinesis: Any, endpoint_url: str, directory: Path) -> dict[str, object]:
    """Put → handler in ms, beside put → a bare loop that reads each shard as often as the service allows."""
    kinesis.create_stream(StreamName="latency", ShardCount=SHARDS)
    directory.mkdir()
    (directory / "app.py").write_text(LATENCY_APP, encoding="utf-8")
    bare: list[float] = []
    stop = threading.Event()

    def loop(shard: str) -> None:
        iterator = _oldest(kinesis, "latency", shard)
        while not stop.wait(PACE_S):
            answer = kinesis.get_records(ShardIterator=iterator, Limit=PAGE)
            iterator = answer["NextShardIterator"]
            bare.extend((time.time() - float(record["Data"])) * 1000 for record in answer["Records"])

    shards = [shard["ShardId"] for shard in kinesis.list_shards(StreamName="latency")["Shards"]]
    threads = [threading.Thread(target=loop, args=(shard,)) for shard in shards]
    for thread in threads:
        thread.start()
    with daemon_process(directory / "app.py", endpoint_url):
        next_at = time.monotonic()
        for number in range(LATENCY_RECORDS):
            data = repr(time.time()).encode()
            kinesis.put_record(StreamName="latency", Data=data, PartitionKey=f"key-{number % 97}")
            next_at += 1 / LATENCY_RATE
            time.sleep(max(0.0, next_at - time.monotonic()))
        time.sleep(2.0)
    stop.set()
    for thread in threads:
        thread.join()
    ours, theirs = latencies(directory / ".millstream", "handle")[LATENCY_WARM_UP:], bare[LATENCY_WARM_UP:]
    p99 = {"p99": round(percentile(ours, 99), 1), "baseline_p99": round(percentile(theirs, 99), 1)}
    return case([percentile(ours, 50)], [percentile(theirs, 50)], "ms", **p99)
