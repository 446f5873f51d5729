"""What the kit does not ask of destinations on AWS: keys, envelopes, faults of the service and the host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.clock import SystemClock
from millstream.contract.errors import DestinationUnavailable, InvalidConfiguration
from millstream.contract.ports import Host, InvocationRecord
from millstream.destinations.eventbridge import EventBridgeDestination
from millstream.destinations.s3 import object_key
from millstream.destinations.sns import SnsDestination
from millstream.destinations.sqs import SqsDestination
from tests.contract.destinations_kit import NoInvoker, record_of
from tests.destinations.http_server import Answer, HttpServer, http_server

BUS = "arn:aws:events:eu-west-1:000000000000:event-bus/b"
TOPIC = "arn:aws:sns:eu-west-1:000000000000:t"
JSON = {"Content-Type": "application/x-amz-json-1.1"}
FAILED = json.dumps(
    {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "InternalFailure", "ErrorMessage": "x"}]}
)
TAKEN = json.dumps({"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    for name, value in TEST_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with http_server() as running:
        running.usual = Answer(headers=JSON)
        yield running


def at(endpoint_url: str | None) -> Host:
    return Host(Path("/none"), SystemClock(), NoInvoker(), endpoint_url, "us-east-1")


async def test_an_entry_that_failed_gives_no_receipt(server: HttpServer) -> None:
    destination = EventBridgeDestination.parse({"target": BUS})
    await destination.open(at(server.url))
    server.usual = Answer(headers=JSON, body=FAILED.encode())
    with pytest.raises(DestinationUnavailable, match="InternalFailure"):
        await destination.deliver(record_of({}))
    await destination.aclose()


@pytest.mark.parametrize(("succeeded", "ending"), [(True, "Success"), (False, "Failure")])
async def test_an_event_has_the_envelope_of_aws(server: HttpServer, succeeded: bool, ending: str) -> None:
    destination = EventBridgeDestination.parse({"target": BUS})
    await destination.open(at(server.url))
    server.usual = Answer(headers=JSON, body=TAKEN.encode())
    record = record_of({"a": "é"}, succeeded=succeeded)
    await destination.deliver(record)
    await destination.aclose()
    assert json.loads(server.sent[-1].body)["Entries"] == [
        {
            "EventBusName": BUS,
            "Source": "lambda",
            "DetailType": f"Lambda Function Invocation Result - {ending}",
            "Resources": [BUS, record.function_arn],
            "Detail": record.body.decode(),
        }
    ]


async def test_a_target_is_asked_in_its_own_region(server: HttpServer) -> None:
    destination = EventBridgeDestination.parse({"target": BUS})
    await destination.open(at(server.url))
    await destination.aclose()
    assert "/eu-west-1/events/" in server.sent[0].headers["Authorization"]


async def test_an_answer_that_is_none_of_the_service_is_a_fault(server: HttpServer) -> None:
    server.usual = Answer(headers={"Content-Type": "text/html"}, body=b"\xff<html>")
    destination = SqsDestination.parse({"target": "arn:aws:sqs:us-east-1:000000000000:q"})
    with pytest.raises(DestinationUnavailable):
        await destination.open(at(server.url))


async def test_settings_of_the_host_that_are_wrong_are_said_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-this")
    destination = SnsDestination.parse({"target": TOPIC})
    with pytest.raises(InvalidConfiguration, match="nobody-has-this"):
        await destination.open(at("http://127.0.0.1:9"))


async def test_an_endpoint_that_is_no_url_is_said_at_open(server: HttpServer) -> None:
    destination = SnsDestination.parse({"target": TOPIC})
    with pytest.raises(InvalidConfiguration, match="endpoint_url"):
        await destination.open(at("no url"))


def keyed(partition: str, succeeded: bool = False) -> str:
    record: InvocationRecord = record_of({}, partition=partition, succeeded=succeeded)
    return object_key(record, "unique")


@pytest.mark.parametrize(
    ("partition", "folder"),
    [
        ("shardId-000000000000", "shardId-000000000000"),
        ("arn:aws:sqs:us-east-1:1:q", "arn-aws-sqs-us-east-1-1-q"),
        ("../../other", "-..-other"),
        ("..", "-"),
        ("", "-"),
    ],
)
def test_a_failure_has_its_mapping_partition_and_time_in_the_key(partition: str, folder: str) -> None:
    assert keyed(partition) == f"aws/lambda/mapping-1/{folder}/2025/11/25/2025-11-25T16.35.32-unique"


def test_a_success_has_its_function_and_time_in_the_key() -> None:
    assert keyed("p", succeeded=True) == "aws/lambda/async/f/2025/11/25/2025-11-25T16.35.32-unique"
