"""RabbitMQ throughput: the mapping end to end against a bare pika loop that feeds one Python process.

Both take 50,000 messages of 1 KiB off a quorum queue of one private server, run a handler that parses
the event and decodes every message, and acknowledge each batch at once when its handler has answered.
The baseline is not made slow: it builds its events with the same msgspec structs.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pika

from benchmarks.report import Result, case
from benchmarks.streams import mapping_rate
from millstream.amqp.address import AMQP
from millstream.triggers.rabbitmq_messages import BasicProperties, Message
from tests.brokers.rabbitmq import PASSWORD, USER, RabbitMqServer, server

MESSAGES = 50_000
BODY_BYTES = 1024
REPEATS = 3
NO_AWS = "http://127.0.0.1:9"
CASES = {"batch-1000": 1000, "batch-100": 100}

APP = """
import base64
from millstream import App, RabbitMq

app = App("bench")


@app.function(timeout=30, memory_size=512)
def handle(event, context):
    for messages in event["rmqMessagesByQueue"].values():
        for message in messages:
            base64.b64decode(message["data"])


app.map(RabbitMq("{queue}", batch_size={size}), to=handle)
"""

CHILD = """
import base64, json, struct, sys
source, answers = sys.stdin.buffer, sys.stdout.buffer
while head := source.read(4):
    event = json.loads(source.read(struct.unpack(">I", head)[0]))
    for messages in event["rmqMessagesByQueue"].values():
        for message in messages:
            base64.b64decode(message["data"])
    answers.write(b"null")
    answers.flush()
"""


def run() -> Result:
    """Interleaved: baseline, batch-1000, baseline, batch-100, and again."""
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    baselines: dict[str, list[float]] = {name: [] for name in CASES}
    bodies = [os.urandom(BODY_BYTES) for _ in range(MESSAGES)]
    with tempfile.TemporaryDirectory() as folder, server() as broker:
        os.environ[AMQP.variable] = broker.url()
        for repeat in range(REPEATS):
            for name, size in CASES.items():
                baselines[name].append(_bare_loop(broker, _filled(broker, bodies), size))
                queue = _filled(broker, bodies)
                app = APP.format(queue=queue, size=size)
                rates[name].append(mapping_rate(Path(folder) / f"{name}-{repeat}", NO_AWS, app, MESSAGES))
    return {
        "benchmark": "rabbitmq",
        "cases": {name: case(rates[name], baselines[name], "messages/s") for name in CASES},
    }


def _filled(broker: RabbitMqServer, bodies: list[bytes]) -> str:
    queue = broker.queue()
    broker.publish_many(queue, bodies)
    return queue


@contextmanager
def _child() -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=pipe, stdout=pipe)
    try:
        yield child
    finally:
        child.communicate()


def _bare_loop(broker: RabbitMqServer, queue: str, size: int) -> float:
    """Messages a second, from the end of the first batch to that of the last."""
    with _child() as child:
        loop = _Loop(child, queue, size)
        login = pika.PlainCredentials(USER, PASSWORD)
        parameters = pika.ConnectionParameters("127.0.0.1", broker.port, credentials=login)
        connection = pika.SelectConnection(parameters, on_open_callback=loop.on_open)
        loop.stop = connection.ioloop.stop
        connection.ioloop.start()
        return (MESSAGES - size) / (loop.ended_at - loop.started_at)


class _Loop:
    """Consume, build the event, hand it to the process, acknowledge the batch."""

    def __init__(self, child: subprocess.Popen[bytes], queue: str, size: int) -> None:
        self._child = child
        self._queue = queue
        self._size = size
        self._batch: list[bytes] = []
        self._head = b'{"eventSource":"aws:rmq","eventSourceArn":"arn","rmqMessagesByQueue":{"%s::/":['
        self._head %= queue.encode()
        self._encode = msgspec.json.Encoder().encode
        self._done = 0
        self.started_at = self.ended_at = 0.0
        self.stop: Any = None

    def on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=2 * self._size)
        channel.basic_consume(self._queue, self._on_message)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        p = properties
        known = BasicProperties(
            p.content_type,
            p.content_encoding,
            p.headers,
            p.delivery_mode,
            p.priority,
            p.correlation_id,
            p.reply_to,
            p.expiration,
            p.message_id,
            p.timestamp,
            p.type,
            p.user_id,
            p.app_id,
            p.cluster_id,
            len(body),
        )
        self._batch.append(self._encode(Message(known, method.redelivered, body, msgspec.UNSET)))
        if len(self._batch) == self._size:
            self._hand_over()
            channel.basic_ack(method.delivery_tag, multiple=True)
            self._done += self._size
            self.ended_at = time.perf_counter()
            self.started_at = self.started_at or self.ended_at
            if self._done == MESSAGES:
                self.stop()

    def _hand_over(self) -> None:
        event = self._head + b",".join(self._batch) + b"]}}"
        self._batch = []
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(struct.pack(">I", len(event)) + event)
        self._child.stdin.flush()
        self._child.stdout.read(4)
