"""What whole daemons give up on streams: the documents at their destinations, and destinations that fail."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.dynamodb_fake import DynamoDbFake
from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.streams import make_stream, make_table, stream_arn

pytestmark = pytest.mark.broker

SHARD = "shardId-000000000000"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MILLISECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
SECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"

APP = """
import base64, json
from millstream import App, DynamoDB, Kinesis

app = App("test")
start = dict(starting_position="TRIM_HORIZON", maximum_retry_attempts=1)


def broken(event, context):
    raise ValueError("never")


def picky(event, context):
    numbers = [r["kinesis"]["sequenceNumber"] for r in event["Records"]]
    print(" took " + json.dumps([base64.b64decode(r["kinesis"]["data"]).decode() for r in event["Records"]]))
    return {"batchItemFailures": [{"itemIdentifier": numbers[-1]}]}


def declare(name, handler, source, target):
    app.map(source, to=app.function(name=name)(handler) and name, on_failure=target)


"""


@dataclass
class GivenUp:
    """What became of three records that no function took."""

    daemon: RunningDaemon
    sent: list[str]  # their sequence numbers
    stream_arn: str
    table_arn: str
    sqs: str
    named: str
    sns: dict[str, Any]
    dynamodb: str
    key: str
    object: str

    def mapping(self, function: str) -> dict[str, Any]:
        found = self.daemon.mappings() or []
        return next(one for one in found if one["row"]["function"] == function)


@pytest.fixture(scope="module")
def given_up(tmp_path_factory: pytest.TempPathFactory, ministack: Ministack) -> Iterator[GivenUp]:
    """One daemon for them all: each mapping has a function and a destination of its own."""
    queues = {name: ministack.queue() for name in ("sqs", "named", "behind_sns", "dynamodb")}
    arns = {name: queue_arn(ministack, url) for name, url in queues.items()}
    topic = make_topic(ministack, arns["behind_sns"])
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    ministack.client("s3").create_bucket(Bucket=bucket)
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, 1)
    sent = [put(kinesis, stream, data) for data in "abc"]
    table = make_table(ministack.client("dynamodb"))
    for number in range(2):
        ministack.client("dynamodb").put_item(TableName=table, Item={"pk": {"S": str(number)}})
    named = f"Kinesis({stream!r}, report_batch_item_failures=True, **start)"
    app = APP + "\n".join(
        [
            f"declare('to_sqs', broken, Kinesis({stream!r}, **start), {arns['sqs']!r})",
            f"declare('to_sns', broken, Kinesis({stream!r}, **start), {topic!r})",
            f"declare('to_s3', broken, Kinesis({stream!r}, **start), 'arn:aws:s3:::{bucket}')",
            f"declare('picky', picky, {named}, {arns['named']!r})",
            f"declare('of_table', broken, DynamoDB({table!r}, **start), {arns['dynamodb']!r})",
        ]
    )
    daemon = RunningDaemon(tmp_path_factory.mktemp("given-up"), ministack.endpoint_url)
    try:
        daemon.start(app)
        key, content = the_object(ministack, bucket)
        yield GivenUp(
            daemon,
            sent,
            stream_arn(kinesis, stream),
            ministack.client("dynamodb").describe_table(TableName=table)["Table"]["LatestStreamArn"],
            body(ministack, queues["sqs"]),
            body(ministack, queues["named"]),
            json.loads(body(ministack, queues["behind_sns"])),
            body(ministack, queues["dynamodb"]),
            key,
            content,
        )
        assert daemon.stop() == 0
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


def queue_arn(ministack: Ministack, url: str) -> str:
    answer = ministack.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    arn: str = answer["Attributes"]["QueueArn"]
    return arn


def make_topic(ministack: Ministack, subscriber: str) -> str:
    sns = ministack.client("sns")
    topic: str = sns.create_topic(Name=f"t-{uuid.uuid4().hex[:12]}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=subscriber)
    return topic


def put(kinesis: Any, stream: str, data: str) -> str:
    """One record; its sequence number."""
    number: str = kinesis.put_record(StreamName=stream, Data=data.encode(), PartitionKey="k")[
        "SequenceNumber"
    ]
    return number


def bodies(ministack: Ministack, url: str) -> list[str]:
    found = ministack.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
    return [message["Body"] for message in found.get("Messages", [])]


def body(ministack: Ministack, url: str) -> str:
    """The one message of a queue."""
    (found,) = wait_until("a message comes", lambda: bodies(ministack, url))
    return str(found)


def the_object(ministack: Ministack, bucket: str) -> tuple[str, str]:
    """Key and content of the one object of a bucket."""
    s3 = ministack.client("s3")
    (found,) = wait_until("an object comes", lambda: s3.list_objects_v2(Bucket=bucket).get("Contents"))
    return found["Key"], s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read().decode()


def kinesis_document(given_up: GivenUp, function: str, **changes: object) -> dict[str, Any]:
    """What a document must be, its times and its request id left out; in the order of the wire."""
    first, last = given_up.sent[0], given_up.sent[-1]
    about = {"startSequenceNumber": first, "endSequenceNumber": last, "batchSize": 3, **changes}
    return {
        "requestContext": {
            "requestId": None,
            "functionArn": f"arn:aws:lambda:us-east-1:000000000000:function:{function}",
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 2,
        },
        "responseContext": {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": changes.get("functionError", "Unhandled"),
        },
        "version": "1.0",
        "timestamp": None,
        "KinesisBatchInfo": {
            "shardId": SHARD,
            "startSequenceNumber": about["startSequenceNumber"],
            "endSequenceNumber": last,
            "approximateArrivalOfFirstRecord": None,
            "approximateArrivalOfLastRecord": None,
            "batchSize": about["batchSize"],
            "streamArn": given_up.stream_arn,
        },
    }


def masked(document: str, times: str = MILLISECONDS) -> dict[str, Any]:
    """The document without its times and its request id, whose forms are checked instead."""
    found: dict[str, Any] = json.loads(document)
    assert document == json.dumps(found, separators=(",", ":"))
    _mask(found["requestContext"], "requestId", UUID)
    _mask(found, "timestamp", MILLISECONDS)
    (about,) = (found[name] for name in found if name.endswith("BatchInfo"))
    _mask(about, "approximateArrivalOfFirstRecord", times)
    _mask(about, "approximateArrivalOfLastRecord", times)
    return found


def _mask(part: dict[str, Any], name: str, form: str) -> None:
    assert re.fullmatch(form, part[name]), part[name]
    part[name] = None


def in_order(document: dict[str, Any]) -> str:
    """Text that differs if the order of keys does."""
    return json.dumps(document, indent=1)


def test_a_batch_given_up_is_told_to_a_queue_without_its_payload(given_up: GivenUp) -> None:
    assert in_order(masked(given_up.sqs)) == in_order(kinesis_document(given_up, "to_sqs"))


def test_a_batch_given_up_is_told_to_a_topic_without_payload_or_subject(given_up: GivenUp) -> None:
    assert in_order(masked(given_up.sns["Message"])) == in_order(kinesis_document(given_up, "to_sns"))
    assert "Subject" not in given_up.sns


def test_a_bucket_is_given_the_whole_event_as_a_json_string(given_up: GivenUp) -> None:
    document = masked(given_up.object)
    event = json.loads(document.pop("payload"))
    assert in_order(document) == in_order(kinesis_document(given_up, "to_s3"))
    assert [record["kinesis"]["sequenceNumber"] for record in event["Records"]] == given_up.sent
    assert [record["kinesis"]["data"] for record in event["Records"]] == ["YQ==", "Yg==", "Yw=="]
    assert list(json.loads(given_up.object))[-1] == "payload"


def test_an_objects_key_says_mapping_shard_and_time(given_up: GivenUp) -> None:
    mapping = given_up.mapping("to_s3")["row"]["uuid"]
    at = datetime.fromisoformat(json.loads(given_up.object)["timestamp"])
    start = f"aws/lambda/{mapping}/{SHARD}/{at:%Y/%m/%d}/{at:%Y-%m-%dT%H.%M.%S}-"
    assert re.fullmatch(re.escape(start) + UUID, given_up.key)


def test_records_that_the_function_named_have_no_function_error(given_up: GivenUp) -> None:
    last = given_up.sent[-1]
    expected = kinesis_document(given_up, "picky", startSequenceNumber=last, batchSize=1, functionError=None)
    assert in_order(masked(given_up.named)) == in_order(expected)


def test_records_before_the_one_named_are_delivered_once_and_its_tries_are_its_own(given_up: GivenUp) -> None:
    """The first one, of the whole batch, does not count: AWS records it so."""
    lines = wait_until(
        "its log is written",
        lambda: lines if (lines := given_up.daemon.handled("picky")).total() == 3 else None,
    )
    took = [json.loads(batch) for batch in lines.elements()]
    assert took == [["a", "b", "c"], ["c"], ["c"]]


def test_a_tables_document_has_whole_seconds(given_up: GivenUp) -> None:
    document = masked(given_up.dynamodb, SECONDS)
    about = document["DDBStreamBatchInfo"]
    assert list(about) == list(kinesis_document(given_up, "")["KinesisBatchInfo"])
    assert about["batchSize"] == 2
    assert int(about["startSequenceNumber"]) < int(about["endSequenceNumber"])
    assert about["streamArn"] == given_up.table_arn
    assert list(document)[-1] == "DDBStreamBatchInfo"


def test_what_destinations_hold_is_counted_as_delivered_there(given_up: GivenUp) -> None:
    metrics = given_up.mapping("to_sqs")["metrics"]
    assert metrics["OnFailureDestinationDeliveredEventCount"] == 3
    assert metrics["DroppedEventCount"] == 0
    assert metrics["FailedInvokeEventCount"] == 6


def test_records_that_are_too_old_have_no_response_and_the_others_are_delivered(
    tmp_path: Path, dynamodb_fake: DynamoDbFake
) -> None:
    stream = dynamodb_fake.stream("orders")
    old = [stream.put({"pk": {"S": "x"}}, created_at=time.time() - age_s) for age_s in (90, 80)]
    stream.put({"pk": {"S": "fresh"}})
    failed, done = tmp_path / "failed.jsonl", tmp_path / "done.jsonl"
    app = f"""
from millstream import App, DynamoDB

app = App("test")


@app.function
def handle(event, context):
    return None


source = DynamoDB("orders", starting_position="TRIM_HORIZON", maximum_record_age=60)
app.map(source, to=handle, on_success="file://{done}", on_failure="file://{failed}")
"""
    daemon = RunningDaemon(tmp_path, dynamodb_fake.url)
    try:
        daemon.start(app)
        wait_until("the fresh one is delivered", lambda: done.exists() and done.read_text())
        assert daemon.stop() == 0
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
    (line,) = failed.read_text().splitlines()
    document = json.loads(line)
    assert list(document) == ["requestContext", "version", "timestamp", "DDBStreamBatchInfo", "payload"]
    assert document["requestContext"]["condition"] == "RecordAgeExceeded"
    assert document["requestContext"]["approximateInvokeCount"] == 1
    about = document["DDBStreamBatchInfo"]
    assert [about["startSequenceNumber"], about["endSequenceNumber"], about["batchSize"]] == [*old, 2]
    event = json.loads(done.read_text())["requestPayload"]
    assert [record["dynamodb"]["Keys"]["pk"]["S"] for record in event["Records"]] == ["fresh"]


def test_a_destination_that_is_missing_is_a_problem_of_its_mapping(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    stream = make_stream(ministack.client("kinesis"), 1)
    target = "arn:aws:sqs:us-east-1:000000000000:nowhere"
    daemon.start(APP + f"declare('broken', broken, Kinesis({stream!r}, **start), {target!r})\n")
    daemon.started()
    wait_until("it has a problem", lambda: "PROBLEM" in daemon.status()["state_reason"])
    assert target in daemon.status()["state_reason"]
    assert daemon.stop() == 0


class Deleted:
    """A mapping whose destination takes one record and is deleted then."""

    FUNCTION = """
def by_data(event, context):
    (record,) = event["Records"]
    data = base64.b64decode(record["kinesis"]["data"]).decode()
    if data.startswith("bad"):
        raise ValueError(data)
    print(" took " + data)


start = dict(starting_position="TRIM_HORIZON", maximum_retry_attempts=0, batch_size=1)
"""

    def __init__(self, daemon: RunningDaemon, ministack: Ministack, options: str) -> None:
        self.daemon, self.ministack = daemon, ministack
        self.kinesis = ministack.client("kinesis")
        self.stream = make_stream(self.kinesis, 1)
        self.url = ministack.queue()
        arn = queue_arn(ministack, self.url)
        source = f"Kinesis({self.stream!r}, {options} **start)"
        daemon.start(APP + self.FUNCTION + f"declare('handle', by_data, {source}, {arn!r})\n")
        self.put("bad 0")
        body(ministack, self.url)
        ministack.client("sqs").delete_queue(QueueUrl=self.url)

    def put(self, data: str) -> str:
        return put(self.kinesis, self.stream, data)

    def until_delivered(self, data: str) -> None:
        wait_until(f"{data} is delivered", lambda: self.daemon.handled()[data])


def test_without_its_destination_a_batch_is_dropped_counted_and_told_with_its_place(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    deleted = Deleted(daemon, ministack, "")
    lost = deleted.put("bad 1")
    deleted.put("good")
    deleted.until_delivered("good")
    status = daemon.status()
    assert (status["dropped"], status["delivery_failures"], status["discarded"]) == (1, 1, 2)
    (line,) = [line for line in daemon.text().splitlines() if "records dropped" in line]
    assert "WARNING" in line
    assert f"partition={SHARD}  first={lost}  last={lost}" in line
    assert daemon.stop() == 0


def test_where_the_destination_is_required_its_shard_waits_until_it_is_back(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    deleted = Deleted(daemon, ministack, "on_failure_required=True,")
    deleted.put("bad 1")
    deleted.put("good")
    wait_until("it is tried again", lambda: daemon.status()["delivery_failures"] >= 2)
    assert daemon.handled()["good"] == 0
    name = deleted.url.rpartition("/")[2]
    url = ministack.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    document = json.loads(body(ministack, url))
    assert document["KinesisBatchInfo"]["batchSize"] == 1
    deleted.until_delivered("good")
    assert daemon.status()["dropped"] == 0
    assert daemon.stop() == 0
