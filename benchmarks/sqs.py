"""SQS throughput: the mapping end to end against a bare boto3 loop that receives and deletes.

Both take 10,000 waiting messages off one queue of one endpoint, with as many threads; the first
500 are warm-up. The baseline processes nothing; the mapping runs a sandboxed function on each batch.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import boto3

from benchmarks.report import Result, case
from millstream.aws.clients import client_config
from millstream.cli.embedded import aws_endpoint, daemon_process
from millstream.daemon import data_dir
from millstream.daemon.control import NoDaemon, Request, ask
from millstream.triggers.sqs_reader import THREADS

MESSAGES = 10_000
WARM_UP = 500
REPEATS = 3
DEADLINE_S = 120.0
BODY = json.dumps({"id": "0123456789abcdef", "quantity": 3, "note": "x" * 200})

APP = """
from millstream import App, Sqs

app = App("bench")


@app.function(timeout=10)
def handle(event, context):
    return None


app.map(Sqs("{queue}", batch_size={size}, batching_window={window}), to=handle)
"""


def run() -> Result:
    """Interleaved: baseline, batch-10, baseline, batch-100, and again."""
    cases = {"batch-10": (10, 0), "batch-100": (100, 1)}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    baselines: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder, aws_endpoint(Path(folder) / "aws.log") as endpoint_url:
        sqs = _client(endpoint_url, THREADS)
        for repeat in range(REPEATS):
            for name, (size, window) in cases.items():
                queue = f"bare-{name}-{repeat}"
                baselines[name].append(_bare_loop(endpoint_url, _filled(sqs, queue)))
                queue = f"mapping-{name}-{repeat}"
                _filled(sqs, queue)
                directory = Path(folder) / queue
                directory.mkdir()
                app = APP.format(queue=queue, size=size, window=window)
                rates[name].append(_mapping(directory, endpoint_url, app))
    return {
        "benchmark": "sqs",
        "cases": {name: case(rates[name], baselines[name], "messages/s", threads=THREADS) for name in cases},
    }


def _client(endpoint_url: str, connections: int) -> Any:
    session = boto3.session.Session()
    return session.client("sqs", endpoint_url=endpoint_url, config=client_config(connections))


def _filled(sqs: Any, name: str) -> str:
    """A queue of its own for each run: an endpoint may still answer a long poll of the run before."""
    url: str = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
    for first in range(0, MESSAGES, 10):
        entries = [{"Id": str(n), "MessageBody": BODY} for n in range(first, first + 10)]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    return url


def _bare_loop(endpoint_url: str, url: str) -> float:
    """Messages a second of receive 10, delete batch 10, in THREADS threads."""
    sqs = _client(endpoint_url, THREADS)
    lock = threading.Lock()
    count, started_at, ended_at = 0, 0.0, 0.0

    def loop() -> None:
        nonlocal count, started_at, ended_at
        while count < MESSAGES:
            messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            if not messages:
                continue
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            sqs.delete_message_batch(QueueUrl=url, Entries=entries)
            with lock:
                count += len(messages)
                now = time.perf_counter()
                if count >= WARM_UP and not started_at:
                    started_at, first = now, count
                    counted.append(first)
                ended_at = now

    counted: list[int] = []
    threads = [threading.Thread(target=loop) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    return (count - counted[0]) / (ended_at - started_at)


def _mapping(directory: Path, endpoint_url: str, source: str) -> float:
    """Messages a second that a daemon takes off the queue, its function run on each batch."""
    app = directory / "app.py"
    app.write_text(source, encoding="utf-8")
    socket = data_dir.control_socket(directory / ".millstream")
    with daemon_process(app, endpoint_url):
        first_at, first = _when(socket, WARM_UP)
        last_at, last = _when(socket, MESSAGES)
    return (last - first) / (last_at - first_at)


def _when(socket: Path, delivered: int) -> tuple[float, int]:
    """When at least so many were delivered, and how many they were."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        try:
            status: Any = ask(socket, Request("mappings", backlog=False))["mappings"][0]["status"]
        except NoDaemon:
            status = {"delivered": 0}
        if status["delivered"] >= delivered:
            return time.perf_counter(), status["delivered"]
        time.sleep(0.02)
    raise TimeoutError(f"{delivered} messages were not delivered within {DEADLINE_S:g} s")
