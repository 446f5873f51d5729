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
READY_WITHIN_S = 60.0
WARM_UP_S = 2.0  # beside the hostile one, once a first message was handled
REPEATS = 3
WARM_UP, MEASURED = "warm_up_ms", "measured_ms"
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
            sent = json.loads(base64.b64decode(message["data"]))
            print("%s=%.3f" % (sent["as"], (now - sent["at"]) * 1000))


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
        log = data_dir.logs(directory / ".millstream") / "quiet.log"
        with daemon_process(directory / "app.py", self._endpoint_url), _again_and_again(harass):
            self._send(queue, log)
        latencies = _latencies(log, MEASURED)
        said = (directory / "daemon.log").read_text(encoding="utf-8")
        return percentile(latencies, 99), said.count("lease lost")

    def send_hostile_messages(self) -> None:
        """Send a message that five patterns have to look into."""
        body = "[" + ",".join(["[1]"] * 262_000) + "]"
        self._sqs.send_message(QueueUrl=self._hostile, MessageBody=body)

    def send_messages(self) -> None:
        """One message, for one large answer."""
        self._sqs.send_message(QueueUrl=self._hostile, MessageBody="{}")

    def rewind_pages(self) -> None:
        """Nothing: each daemon reads the stream from its beginning."""

    def _send(self, queue: str, log: Path) -> None:
        """Send what is measured, once the daemon has started and others' work is under way."""
        connection = pika.BlockingConnection(pika.URLParameters(self._broker.url()))
        channel = connection.channel()

        def send(kind: str, enough: Callable[[int], bool]) -> None:
            sent, next_at = 0, time.monotonic()
            while not enough(sent):
                body = json.dumps({"as": kind, "at": time.time()}).encode()
                channel.basic_publish("", queue, body)
                sent, next_at = sent + 1, next_at + 1 / RATE
                connection.sleep(max(0.0, next_at - time.monotonic()))

        until = time.monotonic() + READY_WITHIN_S
        send(WARM_UP, lambda _: bool(_latencies(log, WARM_UP)) or time.monotonic() > until)
        send(WARM_UP, lambda sent: sent >= RATE * WARM_UP_S)
        send(MEASURED, lambda sent: sent >= RATE * SECONDS)
        connection.close()


def _latencies(log: Path, kind: str) -> list[float]:
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").splitlines()
    return [float(line.split(f"{kind}=", 1)[1]) for line in lines if f"{kind}=" in line]


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
