"""An idle daemon on 1,000 shards: share of a core and memory, beside a bare loop that makes the same calls.

Both ask each shard once a second for records, which is what an idle shard is asked; in turn, on one
endpoint. What the daemon takes beyond the calls themselves is the difference.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3

from benchmarks.idle import cpu_s, memory_mb
from benchmarks.report import Result, case
from millstream.aws.clients import client_config
from millstream.cli.embedded import aws_endpoint, daemon_process

SHARDS = 1_000
SETTLE_S = 25.0  # every shard has its reader, and all have slowed down to one read a second
SPAN_S = 20.0
THREADS = 16

APP = """
from millstream import App, Kinesis

app = App("shards")


@app.function
def handle(event, context):
    return None


app.map(Kinesis("{stream}", starting_position="LATEST"), to=handle)
"""

BARE = """
import sys, threading, time
import boto3
from botocore.config import Config

url, stream, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
kinesis = boto3.client("kinesis", endpoint_url=url, config=Config(max_pool_connections=threads))
shards = []
asked = {"StreamName": stream}
while True:
    answer = kinesis.list_shards(**asked)
    shards += [shard["ShardId"] for shard in answer["Shards"]]
    if not answer.get("NextToken"):
        break
    asked = {"NextToken": answer["NextToken"]}

def loop(mine):
    kind = {"StreamName": stream, "ShardIteratorType": "LATEST"}
    iterators = [kinesis.get_shard_iterator(ShardId=s, **kind)["ShardIterator"] for s in mine]
    due = time.monotonic()
    while True:
        for n, iterator in enumerate(iterators):
            iterators[n] = kinesis.get_records(ShardIterator=iterator, Limit=10_000)["NextShardIterator"]
        due += 1
        time.sleep(max(0.0, due - time.monotonic()))

for n in range(threads):
    threading.Thread(target=loop, args=(shards[n::threads],)).start()
"""


def run() -> Result:
    """The bare loop, then the daemon; a daemon on one shard shows what it weighs without them."""
    with tempfile.TemporaryDirectory() as folder, aws_endpoint(Path(folder) / "aws.log") as endpoint_url:
        session = boto3.session.Session()
        kinesis: Any = session.client("kinesis", endpoint_url=endpoint_url, config=client_config(1))
        kinesis.create_stream(StreamName="one", ShardCount=1)
        kinesis.create_stream(StreamName="many", ShardCount=SHARDS)
        command = [sys.executable, "-c", BARE, endpoint_url, "many", str(THREADS)]
        bare = subprocess.Popen(command)
        try:
            bare_share, bare_mb = _watched(bare.pid)
        finally:
            bare.kill()
            bare.wait()
        with _daemon(Path(folder) / "one", endpoint_url, "one") as daemon:
            _, one_mb = _watched(daemon.pid)
        with _daemon(Path(folder) / "many", endpoint_url, "many") as daemon:
            share, many_mb = _watched(daemon.pid)
    more = {
        "beyond_calls": round(share - bare_share, 2),
        "memory_mb": many_mb,
        "baseline_memory_mb": bare_mb,
        "kb_per_shard": round((many_mb - one_mb) * 1024 / SHARDS, 1),
    }
    return {"benchmark": "shards", "cases": {"idle-1000": case([share], [bare_share], "% of a core", **more)}}


def _daemon(directory: Path, endpoint_url: str, stream: str) -> Any:
    directory.mkdir()
    app = directory / "app.py"
    app.write_text(APP.format(stream=stream), encoding="utf-8")
    return daemon_process(app, endpoint_url)


def _watched(pid: int) -> tuple[float, float]:
    """Share of a core in percent, and proportional set size in MB, once settled."""
    time.sleep(SETTLE_S)
    before = cpu_s(pid)
    time.sleep(SPAN_S)
    return (cpu_s(pid) - before) / SPAN_S * 100, memory_mb(pid)
