"""Latency of one mapping (send → handler, 20 messages/s) alone, and beside one whose function takes 5 s.

The slow mapping has a backlog all the time, so it runs at its full, growing concurrency.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import boto3

from benchmarks.report import Result, case
from millstream.cli.embedded import aws_endpoint, daemon_process
from millstream.daemon import data_dir

RATE = 20.0
SECONDS = 15.0
WARM_UP = 40  # messages
BACKLOG = 2_000
REPEATS = 3
LATENCY = "latency_ms="

FAST = """
import json
import time
from millstream import App, Sqs

app = App("neighbours")


@app.function(timeout=10)
def fast(event, context):
    now = time.time()
    for record in event["Records"]:
        print("latency_ms=%.3f" % ((now - json.loads(record["body"])["sent_at"]) * 1000))


app.map(Sqs("fast"), to=fast)
"""

SLOW = """

@app.function(timeout=10)
def slow(event, context):
    time.sleep(5)


app.map(Sqs("slow", batch_size=1), to=slow)
"""


def run() -> Result:
    """Alone and beside, in turn."""
    alone: list[float] = []
    beside: list[float] = []
    with tempfile.TemporaryDirectory() as folder, aws_endpoint(Path(folder) / "aws.log") as endpoint_url:
        sqs: Any = boto3.session.Session().client("sqs", endpoint_url=endpoint_url)
        attributes = {"VisibilityTimeout": "30"}
        urls = {n: sqs.create_queue(QueueName=n, Attributes=attributes)["QueueUrl"] for n in ("fast", "slow")}
        for repeat in range(REPEATS):
            for name, app, into in (("alone", FAST, alone), ("beside", FAST + SLOW, beside)):
                sqs.purge_queue(QueueUrl=urls["slow"])
                if name == "beside":
                    _fill(sqs, urls["slow"])
                directory = Path(folder) / f"{name}-{repeat}"
                directory.mkdir()
                (directory / "app.py").write_text(app, encoding="utf-8")
                into.append(_p50(directory, endpoint_url, sqs, urls["fast"]))
    # rate: p50 alone, baseline: p50 beside; a ratio of 1 means that the neighbour is not felt.
    figures = case(alone, beside, "ms")
    return {"benchmark": "neighbours", "cases": {"slow-neighbour": figures}}


def _fill(sqs: Any, url: str) -> None:
    for first in range(0, BACKLOG, 10):
        entries = [{"Id": str(n), "MessageBody": "{}"} for n in range(first, first + 10)]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)


def _p50(directory: Path, endpoint_url: str, sqs: Any, url: str) -> float:
    """Median latency in milliseconds, from the function's own log."""
    with daemon_process(directory / "app.py", endpoint_url):
        next_at = time.monotonic()
        for _ in range(int(RATE * SECONDS) + WARM_UP):
            sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"sent_at": time.time()}))
            next_at += 1 / RATE
            time.sleep(max(0.0, next_at - time.monotonic()))
    log = (data_dir.logs(directory / ".millstream") / "fast.log").read_text(encoding="utf-8")
    latencies = [float(line.split(LATENCY, 1)[1]) for line in log.splitlines() if LATENCY in line]
    return median(latencies[WARM_UP:])
