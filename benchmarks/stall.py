"""Latency of a quiet mapping (send → handler, 20 messages/s): alone, and beside a hostile one of its daemon.

The quiet mapping is on RabbitMQ and has a stream on Kinesis beside it, whose lease must never be lost; the
hostile one is on a server of another kind, so that what the quiet one feels is the daemon. Cases:

filters     messages of 1 MiB, `[[1],[1],…]`, before five patterns that look into them
answers     answers of 6 MB, with halves of characters in them, for which failures are reported
page-10000  pages of 10,000 records of 1 KiB before five patterns, of which none matches
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pika

from benchmarks.report import Result, case
from benchmarks.streams import percentile
from millstream.amqp.address import AMQP
from millstream.cli.embedded import aws_endpoint, daemon_process
from millstream.daemon import data_dir
from tests.brokers.rabbitmq import RabbitMqServer, server

RATE = 20.0
SECONDS = 15.0
WARM_UP = 40  # messages
REPEATS = 3
LATENCY = "latency_ms="
HOSTILE_EVERY_S = 0.5
RECORDS = 200_000

QUIET = """
import base64
import json
import time
from millstream import App, Kinesis, RabbitMq, Sqs

app = App("stall")
ORDERS = [{{"type": ["order%d" % n], "deep": {{"er": [{{"prefix": "x"}}]}}}} for n in range(5)]
PATTERNS = [{{"{data}": order}} for order in ORDERS]


@app.function(timeout=10)
def quiet(event, context):
    now = time.time()
    for messages in event["rmqMessagesByQueue"].values():
        for message in messages:
            sent_at = json.loads(base64.b64decode(message["data"]))["sent_at"]
            print("latency_ms=%.3f" % ((now - sent_at) * 1000))


@app.function(timeout=10)
def leased(event, context):
    return None


app.map(RabbitMq("{queue}", batching_window=0), to=quiet)
app.map(Kinesis("leased", starting_position="TRIM_HORIZON"), to=leased)
"""

FILTERS = """

@app.function(timeout=30)
def hostile(event, context):
    return None


app.map(Sqs("hostile"), to=hostile, filters=PATTERNS)
"""

ANSWERS = """

@app.function(timeout=30, memory_size=512)
def hostile(event, context):
    return {"batchItemFailures": [], "note": "\\ud83d" * 1_000_000}


app.map(Sqs("hostile", report_batch_item_failures=True), to=hostile)
"""

PAGES = """

@app.function(timeout=30)
def hostile(event, context):
    return None


app.map(
    Kinesis("pages", starting_position="TRIM_HORIZON", batch_size=10_000), to=hostile, filters=PATTERNS
)
"""


def run() -> Result:
    """Each case alone and beside, in turn."""
    cases: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        aws_endpoint(Path(folder) / "aws.log") as endpoint_url,
        server() as broker,
    ):
        os.environ[AMQP.variable] = broker.url()
        world = _World(Path(folder), endpoint_url, broker)
        for name, app, data, harass in (
            ("filters", FILTERS, "body", world.send_hostile_messages),
            ("answers", ANSWERS, "body", world.send_messages),
            ("page-10000", PAGES, "data", world.rewind_pages),
        ):
            alone: list[float] = []
            beside: list[float] = []
            lost = 0
            for _ in range(REPEATS):
                alone.append(world.p99("", data, lambda: None)[0])
                p99, lines = world.p99(app, data, harass)
                beside.append(p99)
                lost += lines
            # rate: p99 alone, baseline: p99 beside; a ratio of 1 means that the neighbour is not felt.
            cases[name] = case(alone, beside, "ms", leases_lost=lost)
    return {"benchmark": "stall", "cases": cases}


class _World:
    """The servers, and the daemons that run on them one after the other."""

    def __init__(self, folder: Path, endpoint_url: str, broker: RabbitMqServer) -> None:
        self._folder = folder
        self._endpoint_url = endpoint_url
        self._broker = broker
        self._runs = 0
        session = boto3.session.Session()
        self._sqs: Any = session.client("sqs", endpoint_url=endpoint_url)
        kinesis: Any = session.client("kinesis", endpoint_url=endpoint_url)
        self._hostile = self._sqs.create_queue(QueueName="hostile")["QueueUrl"]
        for stream in ("leased", "pages"):
            kinesis.create_stream(StreamName=stream, ShardCount=1)
            kinesis.get_waiter("stream_exists").wait(StreamName=stream)
        record = json.dumps({"type": "x", "pad": "x" * 900, "n": list(range(20))}).encode()
        for _ in range(RECORDS // 500):
            records = [{"Data": record, "PartitionKey": "k"}] * 500
            kinesis.put_records(StreamName="pages", Records=records)

    def p99(self, hostile: str, data: str, harass: Callable[[], None]) -> tuple[float, int]:
        """99th percentile of the quiet mapping's latency in milliseconds, and leases that were lost."""
        self._runs += 1
        directory = self._folder / str(self._runs)
        directory.mkdir()
        queue = self._broker.queue()
        app = QUIET.format(queue=queue, data=data) + hostile
        (directory / "app.py").write_text(app, encoding="utf-8")
        self._sqs.purge_queue(QueueUrl=self._hostile)
        with daemon_process(directory / "app.py", self._endpoint_url), _again_and_again(harass):
            self._send(queue)
        log = (data_dir.logs(directory / ".millstream") / "quiet.log").read_text(encoding="utf-8")
        latencies = [float(line.split(LATENCY, 1)[1]) for line in log.splitlines() if LATENCY in line]
        said = (directory / "daemon.log").read_text(encoding="utf-8")
        return percentile(latencies[WARM_UP:], 99), said.count("lease lost")

    def send_hostile_messages(self) -> None:
        """Send a message that five patterns have to look into."""
        body = "[" + ",".join(["[1]"] * 262_000) + "]"
        self._sqs.send_message(QueueUrl=self._hostile, MessageBody=body)

    def send_messages(self) -> None:
        """One message, for one large answer."""
        self._sqs.send_message(QueueUrl=self._hostile, MessageBody="{}")

    def rewind_pages(self) -> None:
        """Nothing: each daemon reads the stream from its beginning."""

    def _send(self, queue: str) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self._broker.url()))
        channel = connection.channel()
        next_at = time.monotonic()
        for _ in range(int(RATE * SECONDS) + WARM_UP):
            body = json.dumps({"sent_at": time.time()}).encode()
            channel.basic_publish("", queue, body)
            next_at += 1 / RATE
            connection.sleep(max(0.0, next_at - time.monotonic()))
        connection.close()


@contextmanager
def _again_and_again(do: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def work() -> None:
        while not over.wait(HOSTILE_EVERY_S):
            do()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
