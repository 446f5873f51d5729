"""What the kit does not ask of destinations on AWS: keys, envelopes, faults of the service and the host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.clock import SystemClock
from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge, InvalidConfiguration, Refused
from millstream.contract.ports import Destination, Host, InvocationRecord
from millstream.destinations.eventbridge import LIMIT_BYTES as EVENTBRIDGE_BYTES
from millstream.destinations.eventbridge import SMALLER_BYTES, EventBridgeDestination
from millstream.destinations.s3 import S3Destination, object_key
from millstream.destinations.sns import LIMIT_BYTES as SNS_BYTES
from millstream.destinations.sns import SnsDestination
from millstream.destinations.sqs import SqsDestination
from tests.contract.destinations_kit import NoInvoker, record_of, record_of_size
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
    with pytest.raises(Refused, match="nobody-has-this"):
        await destination.open(at("http://127.0.0.1:9"))


async def test_an_endpoint_that_is_no_url_is_said_at_open(server: HttpServer) -> None:
    destination = SnsDestination.parse({"target": TOPIC})
    with pytest.raises(InvalidConfiguration, match="endpoint_url"):
        await destination.open(at("no url"))


PUBLISHED = b"<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>"
OVER_THE_LIMIT = "Total size of the entries in the request is over the limit."
XML = frozenset({"InvalidParameter", "AuthorizationError", "InvalidClientTokenId"})


def refusal(code: str, message: str = "", status: int = 400) -> Answer:
    """An error, in the form of each of the services."""
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    if code in XML:
        return Answer(
            status, {"Content-Type": "text/xml"}, f"<ErrorResponse>{error}</ErrorResponse>".encode()
        )
    return Answer(status, JSON, json.dumps({"__type": code, "message": message}).encode())


QUEUE = "arn:aws:sqs:eu-west-1:000000000000:q"
KINDS: list[tuple[type[Destination], str]] = [
    (SqsDestination, QUEUE),
    (SnsDestination, TOPIC),
    (EventBridgeDestination, BUS),
]


async def opened(kind: type[Destination], target: str, server: HttpServer) -> Destination:
    destination = kind.parse({"target": target})
    if kind is SqsDestination:
        server.answers.append(Answer(headers=JSON, body=json.dumps({"QueueUrl": server.url}).encode()))
        limit = {"Attributes": {"MaximumMessageSize": "262144"}}
        server.answers.append(Answer(headers=JSON, body=json.dumps(limit).encode()))
    if kind is SnsDestination:
        attributes = b"<GetTopicAttributesResponse><GetTopicAttributesResult/></GetTopicAttributesResponse>"
        server.answers.append(Answer(headers={"Content-Type": "text/xml"}, body=attributes))
    await destination.open(at(server.url))
    return destination


@pytest.mark.parametrize(
    ("kind", "target", "answer", "limit"),
    [
        (
            SqsDestination,
            QUEUE,
            refusal("InvalidParameterValue", "Reason: Message must be shorter than 20000 bytes."),
            20_000,
        ),
        (SqsDestination, QUEUE, refusal("BatchRequestTooLong", "of 20001 bytes"), 20_001),
        (
            SnsDestination,
            TOPIC,
            refusal("InvalidParameter", "Invalid parameter: Message too long"),
            SNS_BYTES,
        ),
        (
            EventBridgeDestination,
            BUS,
            refusal("ValidationException", OVER_THE_LIMIT),
            EVENTBRIDGE_BYTES,
        ),
    ],
)
async def test_a_refusal_for_the_size_is_told_as_one_and_a_limit_in_it_learned(
    server: HttpServer, kind: type[Destination], target: str, answer: Answer, limit: int
) -> None:
    destination = await opened(kind, target, server)
    server.usual = answer
    with pytest.raises(DocumentTooLarge, match=target):
        await destination.deliver(record_of_size(30_000))
    assert destination.limit_bytes == limit
    await destination.aclose()


async def test_a_bus_with_the_former_limit_is_known_by_its_refusal(server: HttpServer) -> None:
    destination = await opened(EventBridgeDestination, BUS, server)
    server.usual = refusal(
        "ValidationException", "Total size of the entries in the request is over the limit."
    )
    with pytest.raises(DocumentTooLarge):
        await destination.deliver(record_of_size(300_000))
    assert destination.limit_bytes == SMALLER_BYTES
    await destination.aclose()


async def test_a_queues_own_limit_is_read_at_open_and_kept_to(server: HttpServer) -> None:
    destination = await opened(SqsDestination, QUEUE, server)
    assert destination.limit_bytes == 262_144
    sent = len(server.sent)
    with pytest.raises(DocumentTooLarge, match="262145 bytes, and at most 262144"):
        await destination.deliver(record_of_size(262_145))
    assert len(server.sent) == sent
    await destination.aclose()


async def test_a_queue_that_may_be_sent_to_and_not_looked_at_is_a_target(server: HttpServer) -> None:
    destination = SqsDestination.parse({"target": QUEUE})
    server.answers.append(Answer(headers=JSON, body=json.dumps({"QueueUrl": server.url}).encode()))
    server.answers.append(refusal("AccessDeniedException", "no sqs:GetQueueAttributes", 403))
    await destination.open(at(server.url))
    assert destination.limit_bytes == 1024 * 1024
    await destination.aclose()


@pytest.mark.parametrize(("kind", "target"), KINDS)
async def test_characters_that_no_service_takes_are_sent_as_json_escapes(
    server: HttpServer, kind: type[Destination], target: str
) -> None:
    document = {"text": "\ufffe \uffff \x00 \x0b \x7f é 😀"}
    destination = await opened(kind, target, server)
    taken = {
        SqsDestination: Answer(headers=JSON, body=b"{}"),
        SnsDestination: Answer(headers={"Content-Type": "text/xml"}, body=PUBLISHED),
        EventBridgeDestination: Answer(headers=JSON, body=TAKEN.encode()),
    }
    server.usual = taken[kind]
    await destination.deliver(record_of(document))
    await destination.aclose()
    body = server.sent[-1].body.decode()
    if kind is SnsDestination:
        sent = parse_qs(body)["Message"][0]
    else:
        request = json.loads(body)
        sent = request["MessageBody"] if kind is SqsDestination else request["Entries"][0]["Detail"]
    assert json.loads(sent) == document
    assert not re.search("[\ufffe\uffff\x00-\x08\x0b\x0c\x0e-\x1f]", sent)


@pytest.mark.parametrize(
    ("kind", "target", "answer"),
    [
        (SqsDestination, QUEUE, refusal("QueueDoesNotExist")),
        (SqsDestination, QUEUE, refusal("AccessDeniedException", "no right", 403)),
        (SqsDestination, QUEUE, refusal("ExpiredTokenException", "secret", 403)),
        (SnsDestination, TOPIC, refusal("AuthorizationError", "no right", 403)),
        (SnsDestination, TOPIC, refusal("InvalidClientTokenId", "secret", 403)),
        (EventBridgeDestination, BUS, refusal("ResourceNotFoundException")),
        (S3Destination, "arn:aws:s3:::bucket", Answer(404)),
        (S3Destination, "arn:aws:s3:::bucket", Answer(403)),
    ],
)
async def test_what_somebody_can_mend_is_refused_at_open(
    server: HttpServer, kind: type[Destination], target: str, answer: Answer
) -> None:
    server.usual = answer
    with pytest.raises(Refused, match=target) as refused:
        await kind.parse({"target": target}).open(at(server.url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("kind_and_target", KINDS)
@pytest.mark.parametrize(
    "answer",
    [
        Answer(headers=JSON, body=b"[7]"),
        Answer(headers=JSON, body=b"[" * 5000),
        Answer(headers=JSON, body=b"\xff"),
        Answer(500, {"Content-Type": "text/html"}, b"<html>"),
        Answer(400, JSON, b"[]"),
        Answer(drop=True),
        Answer(headers={f"X-{n}": "x" for n in range(200)}),
    ],
    ids=["a-list", "nested", "no-text", "html", "no-error", "dropped", "headers"],
)
async def test_no_answer_of_whatever_kind_leaves_another_error(
    server: HttpServer, kind_and_target: tuple[type[Destination], str], answer: Answer
) -> None:
    destination = await opened(*kind_and_target, server)
    server.usual = answer
    with suppress(DestinationUnavailable):  # some clients take an answer without a word for one
        await destination.deliver(record_of({}))
    await destination.aclose()


async def test_credentials_that_were_refused_are_looked_up_anew(
    server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = x\n")
    destination = await opened(SqsDestination, QUEUE, server)
    file.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = x\n")
    server.answers.append(refusal("ExpiredTokenException", status=403))
    with pytest.raises(DestinationUnavailable, match="ExpiredTokenException"):
        await destination.deliver(record_of({}))
    await destination.deliver(record_of({}))
    await destination.aclose()
    keys = [sent.headers["Authorization"].split("Credential=")[1].split("/")[0] for sent in server.sent]
    assert keys == ["old", "old", "old", "new"]


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
