"""Powertools for Python as it is published, each of its parts against the source that it is for."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from millstream.daemon import data_dir
from tests.brokers.kafka import Kafka
from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, name_of, wait_until
from tests.daemon.streams import make_stream, make_table

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]

HANDLERS = Path(__file__).parent / "powertools" / "orders.py"
DISTRIBUTIONS = (
    "aws-lambda-powertools", "aws-xray-sdk", "wrapt", "pydantic", "pydantic-core", "typing-extensions",
    "annotated-types", "typing-inspection", "jmespath",
)  # fmt: skip

APP = """
from millstream import App, DynamoDB, Function, Kafka, Kinesis, Sqs

app = App("powertools")
options = {{
    "code": "orders", "layers": ["layer"], "timeout": 30, "memory_size": 256, "network": ["aws"],
    "environment": {{"POWERTOOLS_METRICS_NAMESPACE": "shop"}},
}}
stream = {{
    "starting_position": "TRIM_HORIZON", "report_batch_item_failures": True, "maximum_retry_attempts": 1,
    "batching_window": 1,
}}


def function(name):
    return Function(name, handler="orders." + name, **options)


def failed(name):
    return "file://{folder}/" + name + ".jsonl"


queue = Sqs({queue!r}, report_batch_item_failures=True, maximum_retry_attempts=0)
app.map(queue, to=function("from_queue"), on_failure=failed("from_queue"))
app.map(Kinesis({stream!r}, **stream), to=function("from_stream"), on_failure=failed("from_stream"))
app.map(DynamoDB({table!r}, **stream), to=function("from_table"), on_failure=failed("from_table"))
topic = Kafka({topic!r}, bootstrap_servers={servers!r}, **stream)
app.map(topic, to=function("from_topic"), on_failure=failed("from_topic"))
app.map(Sqs({parsed!r}), to=function("parsed"))
"""

BAD = 7
"""The order that every handler refuses."""


def orders() -> Iterator[tuple[int, bytes]]:
    for number in range(10):
        order = {"id": number, **({"fails": True} if number == BAD else {})}
        yield number, json.dumps(order).encode()


def site(distribution: str) -> Iterator[Path]:
    """List the folders and files of a distribution."""
    found = importlib.metadata.distribution(distribution)
    tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
    for top in tops:
        yield Path(str(found.locate_file(top)))


def installed(folder: Path) -> None:
    """Copy the distributions as `pip install -t` leaves them."""
    for distribution in DISTRIBUTIONS:
        for path in site(distribution):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, folder)


def taken(daemon: RunningDaemon, function: str) -> list[int]:
    """Orders of which the function's own log says that it took them, in its order."""
    log = data_dir.logs(daemon.data) / f"{function}.log"
    found = re.findall(r'"message":"taken".*?"order":(\d+)', log.read_text()) if log.exists() else []
    return [int(number) for number in found]


def test_powertools_works_as_it_is_with_each_source(
    daemon: RunningDaemon, ministack: Ministack, kafka: Kafka
) -> None:
    clients = {name: ministack.client(name) for name in ("sqs", "kinesis", "dynamodb")}
    queue, parsed = ministack.queue(VisibilityTimeout="60"), ministack.queue(VisibilityTimeout="60")
    stream, table = make_stream(clients["kinesis"], 1), make_table(clients["dynamodb"])
    topic = kafka.create_topic(1)
    clients["dynamodb"].create_table(
        TableName="idempotency",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for _, order in [*orders(), (3, b'{"id": 3}')]:
        clients["sqs"].send_message(QueueUrl=queue, MessageBody=order.decode())
    for number, order in orders():
        if number != BAD:
            clients["sqs"].send_message(QueueUrl=parsed, MessageBody=order.decode())
        clients["kinesis"].put_record(StreamName=stream, Data=order, PartitionKey="k")
        item: dict[str, Any] = {"pk": {"S": str(number)}, "id": {"N": str(number)}}
        item |= {"fails": {"BOOL": True}} if number == BAD else {}
        clients["dynamodb"].put_item(TableName=table, Item=item)
        producer.produce(topic, order)
    assert producer.flush(30.0) == 0
    (daemon.folder / "orders").mkdir()
    shutil.copy(HANDLERS, daemon.folder / "orders")
    (daemon.folder / "layer" / "python").mkdir(parents=True)
    installed(daemon.folder / "layer" / "python")
    daemon.start(
        APP.format(
            folder=daemon.folder, queue=name_of(queue), parsed=name_of(parsed), stream=stream, table=table,
            topic=topic, servers=kafka.bootstrap,
        )
    )  # fmt: skip
    good = [number for number in range(10) if number != BAD]
    names = ("from_queue", "from_stream", "from_table", "from_topic")
    for name in (*names, "parsed"):
        wait_until(f"{name} has taken all", lambda name=name: sorted(set(taken(daemon, name))) == good, 120.0)
    for name in names:
        wait_until(f"{name} gave one up", (daemon.folder / f"{name}.jsonl").exists)
    assert daemon.stop() == 0

    assert sorted(taken(daemon, "from_queue")) == good  # the order that was sent twice is taken once
    for name in names:
        log = (data_dir.logs(daemon.data) / f"{name}.log").read_text()
        assert re.findall(r'.*(?i:warn).*|.*"level":"(?:ERROR|CRITICAL)".*', log) == []
        assert '"Namespace":"shop"' in log
        assert re.search(r'"function_request_id":"[0-9a-f-]{36}"', log)
        assert re.search(r'"xray_trace_id":"1-[0-9a-f]{8}-[0-9a-f]{24}"', log)
