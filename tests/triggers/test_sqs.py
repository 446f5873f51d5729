"""The SQS trigger: the event's exact bytes, the queue found by each of its names, what AWS checks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from hashlib import md5
from typing import Any

import botocore.session
import pytest

from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.ports import QueuePolicy
from millstream.contract.records import Position, Record
from millstream.triggers.registry import parse_trigger
from millstream.triggers.sqs import SqsTrigger
from millstream.triggers.sqs_client import MISSING, REFUSED
from millstream.triggers.sqs_messages import Queue, attributes_md5, record
from tests.brokers.ministack import Ministack
from tests.brokers.relay import Relay
from tests.contract.queue_kit import FUNCTION, host, receive, settle

ARN = "arn:aws:sqs:us-east-1:000000000000:q"
QUEUE = Queue("q", "http://127.0.0.1/0/q", ARN, "us-east-1", 30, windowed=False)
WINDOWED = dataclasses.replace(QUEUE, windowed=True)
FIFO = dataclasses.replace(QUEUE, arn=f"{ARN}.fifo")
SYSTEM = {
    "ApproximateReceiveCount": "3",
    "SentTimestamp": "1760000000123",
    "SenderId": "AIDAEXAMPLE",
    "ApproximateFirstReceiveTimestamp": "1760000000456",
}
SYSTEM_JSON = json.dumps(SYSTEM, separators=(",", ":"))


def message(body: str = '{"a": 1}', **more: Any) -> dict[str, Any]:
    digest = md5(body.encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "MessageId": "m-1",
        "ReceiptHandle": "r-1",
        "MD5OfBody": digest,
        "Body": body,
        "Attributes": dict(SYSTEM),
        **more,
    }


def test_an_event_has_the_keys_of_aws_in_their_order() -> None:
    event = record(message(), QUEUE, 5.0).event.decode()
    assert event == (
        '{"messageId":"m-1","receiptHandle":"r-1","body":"{\\"a\\": 1}",'
        f'"attributes":{SYSTEM_JSON},"messageAttributes":{{}},'
        '"md5OfBody":"42b7b4f2921788ea14dac5566e6f06d0","eventSource":"aws:sqs",'
        f'"eventSourceARN":"{ARN}","awsRegion":"us-east-1"}}'
    )


def test_without_attributes_their_hash_is_null_where_the_mapping_has_a_window() -> None:
    event = record(message(), WINDOWED, 5.0).event.decode()
    assert '"messageAttributes":{},"md5OfMessageAttributes":null,"md5OfBody":' in event


@pytest.mark.parametrize("queue", [QUEUE, WINDOWED])
@pytest.mark.parametrize("given", [{"MD5OfMessageAttributes": "5e7ba1bcc6a6b1bd4e1c1a7b6f8b8a6e"}, {}])
def test_attributes_have_their_hash_whether_the_service_gives_it_or_not(
    queue: Queue, given: dict[str, str]
) -> None:
    attributes: dict[str, dict[str, Any]] = {
        "text": {"StringValue": "ü", "DataType": "String"},
        "number": {"StringValue": "1", "DataType": "Number.int"},
        "bytes": {"BinaryValue": b"\x00\xff\xfe", "DataType": "Binary"},
    }
    expected = given.get("MD5OfMessageAttributes") or attributes_md5(attributes)
    event = record(message(MessageAttributes=attributes, **given), queue, 5.0).event.decode()
    assert (
        '"messageAttributes":{'
        '"text":{"stringValue":"ü","stringListValues":[],"binaryListValues":[],"dataType":"String"},'
        '"number":{"stringValue":"1","stringListValues":[],"binaryListValues":[],"dataType":"Number.int"},'
        '"bytes":{"binaryValue":"AP/+","stringListValues":[],"binaryListValues":[],"dataType":"Binary"}},'
        f'"md5OfMessageAttributes":"{expected}","md5OfBody":'
    ) in event


@pytest.mark.parametrize(
    "body",
    [
        "",
        "plain",
        '{"k" :  [1,2 ]}\n',
        "ü ☃ 😀",
        '"\\/\b\f\n\r\t',
        "x" * 1024 * 1024,
        "half \ud83d",
        "{not json",
    ],
    ids=["empty", "text", "spaced-json", "unicode", "escapes", "1-MiB", "half-a-surrogate", "broken-json"],
)
def test_a_body_reaches_the_function_as_it_was_sent(body: str) -> None:
    event = json.loads(record(message(body), QUEUE, 5.0).event)
    assert event["body"] == body


@pytest.mark.parametrize(
    ("attributes", "arrived_at", "count"),
    [
        ({"SentTimestamp": "1760000000123", "ApproximateReceiveCount": "2"}, 1760000000.123, 2),
        ({"SentTimestamp": 1760000000123, "ApproximateReceiveCount": 2}, 1760000000.123, 2),
        ({"SentTimestamp": "1760000000123456", "ApproximateReceiveCount": "0"}, 1760000000123.456, 1),
        ({"SentTimestamp": "soon", "ApproximateReceiveCount": "many"}, 5.0, 1),
        ({"SentTimestamp": "9" * 5000, "ApproximateReceiveCount": "9" * 5000}, 5.0, 1),
        ({"SentTimestamp": "-1", "ApproximateReceiveCount": "-1"}, -0.001, 1),
        ({"SentTimestamp": None, "ApproximateReceiveCount": None}, 5.0, 1),
        ({}, 5.0, 1),
        (None, 5.0, 1),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_attributes_that_make_no_sense_spoil_nothing(
    attributes: dict[str, Any] | None, arrived_at: float, count: int
) -> None:
    made = record(message(Attributes=attributes), QUEUE, 5.0)
    assert (made.arrived_at, made.delivery_count) == (arrived_at, count)
    assert json.loads(made.event)["attributes"] == (attributes or {})
    assert SqsTrigger.parse({"queue": "q"}).failure_details([made])


def test_what_an_emulator_leaves_out_is_made_up_or_left_out() -> None:
    bare = {"MessageId": "m-1", "ReceiptHandle": "r-1", "MessageAttributes": {"a": {"StringValue": "x"}}}
    event = json.loads(record(bare, QUEUE, 5.0).event)
    assert (event["body"], event["md5OfBody"]) == ("", md5(b"").hexdigest())
    assert event["messageAttributes"]["a"]["dataType"] == "String"
    assert "md5OfMessageAttributes" not in event


def test_a_record_is_known_by_its_message_id_and_settled_by_its_receipt() -> None:
    assert record(message(), QUEUE, 5.0) == Record(
        partition=ARN,
        position=Position("m-1"),
        item_id="m-1",
        event=record(message(), QUEUE, 5.0).event,
        arrived_at=1760000000.123,
        received_at=5.0,
        delivery_count=3,
        ordering_key=None,
        receipt="r-1",
    )


def test_only_a_fifo_queue_orders_by_group() -> None:
    grouped = message(Attributes={**SYSTEM, "MessageGroupId": "g", "SequenceNumber": "18849496460467696128"})
    assert record(grouped, FIFO, 5.0).ordering_key == "g"
    assert record(grouped, QUEUE, 5.0).ordering_key is None
    assert b'"MessageGroupId":"g","SequenceNumber":"18849496460467696128"' in record(grouped, FIFO, 5.0).event


def test_failure_details_tell_which_messages_and_when_they_were_sent() -> None:
    late = message(MessageId="m-2", Attributes={**SYSTEM, "SentTimestamp": "1760000001000"})
    records = [record(late, QUEUE, 5.0), record(message(), QUEUE, 5.0)]
    assert SqsTrigger.parse({"queue": "q"}).failure_details(records) == {
        "SQSBatchInfo": {
            "queueArn": ARN,
            "batchSize": 2,
            "messageIds": ["m-2", "m-1"],
            "sentTimestampOfFirstMessage": "2025-10-09T08:53:20.123Z",
            "sentTimestampOfLastMessage": "2025-10-09T08:53:21.000Z",
        }
    }


def test_an_envelope_is_an_event_of_aws() -> None:
    records = [record(message(), QUEUE, 5.0), record(message("2"), QUEUE, 5.0)]
    event = json.loads(SqsTrigger.parse({"queue": "q"}).envelope(records))
    assert [item["body"] for item in event.pop("Records")] == ['{"a": 1}', "2"]
    assert event == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "queue: wanted a queue's name, URL or ARN, found nothing"),
        ({"queue": "a b"}, "queue: wanted a queue's name, URL or ARN, found 'a b'"),
        ({"queue": "q", "batch_size": 0}, "batch_size: wanted a whole number from 1 to 10000, found 0"),
        ({"queue": "q", "batch_size": 11}, "batching_window: wanted at least 1 where batch_size is greater"),
        ({"queue": "q.fifo", "batch_size": 11}, "batch_size: wanted at most 10 on a FIFO queue, found 11"),
        ({"queue": f"{ARN}.fifo", "batching_window": 1}, "batching_window: wanted no window on a FIFO queue"),
        ({"queue": "q", "batchsize": 1}, "batchsize: wanted batch_size?, found an unknown option"),
    ],
)
def test_a_wrong_option_is_said_in_one_line(options: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidConfiguration, match=f"^{re.escape(says)}"):
        SqsTrigger.parse(options)


def test_options_become_limits_and_policy() -> None:
    trigger = SqsTrigger.parse(
        {
            "queue": "q",
            "batch_size": 10_000,
            "batching_window": 300,
            "report_batch_item_failures": True,
            "maximum_concurrency": 2,
            "maximum_retry_attempts": 0,
        }
    )
    assert (trigger.limits.size, trigger.limits.window_s) == (10_000, 300.0)
    assert trigger.policy == QueuePolicy(item_failures=True, max_retries=0, max_concurrency=2)


def test_an_unknown_kind_names_the_known_ones() -> None:
    assert isinstance(parse_trigger("sqs", {"queue": "q"}), SqsTrigger)
    with pytest.raises(InvalidConfiguration, match=r"wanted one of .*sqs.*, found 'sqss'"):
        parse_trigger("sqss", {})


def test_refusals_are_spelled_as_the_service_spells_them() -> None:
    model = botocore.session.get_session().get_service_model("sqs")
    modelled = {shape.name for shape in model.error_shapes}
    assert {"QueueDoesNotExist"} == MISSING & modelled
    kms = {name for name in modelled if name.startswith("Kms")} - {"KmsThrottled"}
    assert {"InvalidAddress", "InvalidSecurity", *kms} == REFUSED & modelled


async def opened(trigger: SqsTrigger, url: str, timeout_s: float = 1) -> float | None:
    reader = await trigger.open(host(url), dataclasses.replace(FUNCTION, timeout_s=timeout_s))
    await reader.aclose()
    return reader.lease_s


@pytest.mark.broker
@pytest.mark.parametrize("form", ["name", "url", "arn"])
@pytest.mark.parametrize("fifo", [False, True])
async def test_a_queue_is_found_by_name_url_or_arn(ministack: Ministack, form: str, fifo: bool) -> None:
    url = ministack.queue(fifo)
    name = url.rpartition("/")[2]
    queue = {"name": name, "url": url, "arn": f"arn:aws:sqs:us-east-1:000000000000:{name}"}[form]
    assert await opened(SqsTrigger.parse({"queue": queue}), ministack.endpoint_url) == 30.0


@pytest.mark.broker
@pytest.mark.parametrize("account", ["", ":123456789012"])
async def test_a_queue_that_is_not_there_is_refused(ministack: Ministack, account: str) -> None:
    queue = f"arn:aws:sqs:us-east-1{account}:gone" if account else "gone"
    with pytest.raises(Refused, match=r"^no queue 'gone'$"):
        await opened(SqsTrigger.parse({"queue": queue}), ministack.endpoint_url)


@pytest.mark.broker
async def test_a_visibility_timeout_below_the_functions_is_refused_with_both_numbers(
    ministack: Ministack,
) -> None:
    trigger = SqsTrigger.parse({"queue": ministack.queue(VisibilityTimeout="5")})
    assert await opened(trigger, ministack.endpoint_url, timeout_s=5) == 5.0
    with pytest.raises(Refused, match=r"^queue '.*': its visibility timeout, 5 s, is below .* 6\.5 s$"):
        await opened(trigger, ministack.endpoint_url, timeout_s=6.5)


@pytest.mark.broker
@pytest.mark.parametrize(("window_s", "lease_s"), [(0, 60), (55, 60), (56, 56 + 5 + 30), (300, 300 + 5 + 30)])
async def test_a_window_that_does_not_fit_the_visibility_timeout_lengthens_it(
    ministack: Ministack, window_s: int, lease_s: int
) -> None:
    queue = ministack.queue(VisibilityTimeout="60")
    trigger = SqsTrigger.parse({"queue": queue, "batching_window": window_s})
    assert await opened(trigger, ministack.endpoint_url, timeout_s=5) == lease_s


@pytest.mark.broker
async def test_a_queue_deleted_while_it_is_read_is_refused(ministack: Ministack) -> None:
    url = ministack.queue()
    reader = await SqsTrigger.parse({"queue": url}).open(host(ministack.endpoint_url), FUNCTION)
    ministack.client("sqs").delete_queue(QueueUrl=url)
    with pytest.raises(Refused, match=r"^no queue "):
        await reader.receive(10, 0.0)
    await reader.aclose()


@pytest.mark.broker
async def test_message_attributes_and_bodies_come_through_the_endpoint_as_sent(ministack: Ministack) -> None:
    url = ministack.queue()
    attributes: dict[str, dict[str, Any]] = {
        "b": {"BinaryValue": b"\x00\xff", "DataType": "Binary"},
        "a": {"StringValue": "ü", "DataType": "String.mine"},
    }
    body = "ü" * 1000 + "\n\t\"{'"
    client = ministack.client("sqs")
    client.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)
    reader = await SqsTrigger.parse({"queue": url}).open(host(ministack.endpoint_url), FUNCTION)
    records = await receive(reader, 1)
    await settle(reader, records)
    await reader.aclose()
    event = json.loads(records[0].event)
    assert event["body"] == body
    assert event["messageAttributes"]["b"]["binaryValue"] == "AP8="
    assert event["md5OfMessageAttributes"] == attributes_md5(attributes)
    assert event["md5OfBody"] == md5(body.encode()).hexdigest()


@pytest.mark.broker
async def test_records_that_a_cancelled_poll_had_already_brought_go_back(ministack: Ministack) -> None:
    url = ministack.queue(VisibilityTimeout="600")
    client = ministack.client("sqs")
    name = "ApproximateNumberOfMessages"
    reader = await SqsTrigger.parse({"queue": url}).open(host(ministack.endpoint_url), FUNCTION)
    client.send_message(QueueUrl=url, MessageBody="x")
    async with asyncio.TaskGroup() as group:
        poll = group.create_task(reader.receive(10, 20.0))
        await asyncio.sleep(0)  # the poll is under way, and this test does not let it return
        while client.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name] != "0":
            pass
        poll.cancel()
    (again,) = await receive(reader, 1)
    assert again.delivery_count == 2
    await settle(reader, [again])
    await reader.aclose()


@pytest.mark.broker
async def test_an_answer_that_is_no_text_makes_the_source_unavailable(ministack: Ministack) -> None:
    trigger = SqsTrigger.parse({"queue": ministack.queue()})
    async with Garbage() as garbage:
        with pytest.raises(SourceUnavailable):
            await trigger.open(host(garbage.url), FUNCTION)


class Garbage(Relay):
    """Answers every request with bytes that are no UTF-8."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe")
            await writer.drain()


async def test_settings_that_reach_no_aws_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(Refused, match="no-such-profile"):
        await SqsTrigger.parse({"queue": "q"}).open(host("http://127.0.0.1:1"), FUNCTION)


async def test_an_endpoint_that_is_no_url_is_a_wrong_configuration() -> None:
    with pytest.raises(InvalidConfiguration, match=r"^endpoint_url: wanted a URL"):
        await SqsTrigger.parse({"queue": "q"}).open(host("not a url"), FUNCTION)
