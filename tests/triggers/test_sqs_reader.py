"""Reading a queue at the edge: thousands of messages held, lost answers, faults while a poll is cancelled."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.clock import Clock, SystemClock
from millstream.contract.errors import Refused, SourceUnavailable
from millstream.contract.records import Batch, Done, Record, Returned, resolve_all
from millstream.triggers.sqs import SqsTrigger
from millstream.triggers.sqs_messages import Queue
from millstream.triggers.sqs_reader import SqsReader
from tests.contract.queue_kit import FUNCTION, WITHIN_S, host, until
from tests.destinations.http_server import Answer, HttpServer, http_server
from tests.fakes import record

ARN = "arn:aws:sqs:us-east-1:000000000000:q"
CALL_S = 0.01
LEASE_S = 2
JSON = {"Content-Type": "application/x-amz-json-1.0"}


class JumpingClock(SystemClock):
    """The system's clock, which a test sets forward instead of waiting."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class Service:
    """A client of a queue that takes 10 ms a call, and notes what it was asked for too late."""

    def __init__(self, clock: Clock = SystemClock(), lease_s: int = LEASE_S) -> None:
        self.clock = clock
        self.lease_s = lease_s
        self.hidden_until: dict[str, float] = {}  # by receipt
        self.late: list[str] = []
        self.changes = 0
        self.failed: list[dict[str, Any]] = []

    def hold(self, records: Sequence[Record]) -> None:
        until_ = self.clock.monotonic() + self.lease_s
        self.hidden_until = dict.fromkeys([one.receipt for one in records], until_)

    def change_message_visibility_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803
        time.sleep(CALL_S)
        self.changes += 1
        now = self.clock.monotonic()
        for entry in Entries:
            if self.hidden_until.get(entry["ReceiptHandle"], now) < now:
                self.late.append(entry["ReceiptHandle"])
            self.hidden_until[entry["ReceiptHandle"]] = now + entry["VisibilityTimeout"]
        return {"Failed": self.failed}

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803
        time.sleep(CALL_S)
        return {}

    def close(self) -> None:
        pass


def reader_of(client: Any, clock: Clock = SystemClock(), lease_s: int = LEASE_S) -> SqsReader:
    return SqsReader(client, Queue("q", "u", ARN, "us-east-1", lease_s, windowed=True), clock)


async def test_a_deletion_does_not_wait_behind_the_heartbeat_of_thousands() -> None:
    service = Service()
    reader = reader_of(service)
    held = [record(number) for number in range(20_000)]
    async with asyncio.TaskGroup() as group:
        beat = group.create_task(reader.extend(held))
        await until(lambda: service.changes >= 20)
        began_at = time.monotonic()
        await reader.settle(resolve_all(Batch((record(-1),)), Done()))
        assert time.monotonic() - began_at < 1.0
        assert not beat.done()
    await reader.aclose()


async def test_no_visibility_of_thousands_runs_out_and_few_calls_are_made() -> None:
    clock, lease_s = JumpingClock(), 20
    service = Service(clock, lease_s)
    reader = reader_of(service, clock, lease_s)
    held = [record(number) for number in range(20_000)]
    service.hold(held)
    reader._visibility.received([one.item_id for one in held], clock.monotonic())
    for _ in range(8):  # four timeouts, as the core beats; each time there are ten seconds for 2,000 calls
        clock.ahead_s += lease_s / 2
        await reader.extend(held)
    assert service.late == []
    assert min(service.hidden_until.values()) > clock.monotonic()
    assert service.changes <= 2 * len(held) // 10  # where one timeout at a time would take four
    await reader.aclose()


async def test_what_was_hidden_for_longer_comes_again_after_one_timeout_when_it_is_returned() -> None:
    service = Service()
    reader = reader_of(service)
    held = [record(number) for number in range(1_000)]
    await reader.extend(held)
    assert min(service.hidden_until.values()) > time.monotonic() + LEASE_S
    await reader.settle(resolve_all(Batch(tuple(held)), Returned()))
    assert max(service.hidden_until.values()) <= time.monotonic() + LEASE_S
    await reader.aclose()


async def test_a_message_that_the_service_could_not_hide_is_told_and_one_that_is_gone_is_not() -> None:
    service = Service()
    reader = reader_of(service)
    service.failed = [{"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}]
    await reader.extend([record(1)])
    service.failed = [{"Id": "0", "SenderFault": False, "Code": "InternalError"}]
    with pytest.raises(SourceUnavailable, match="1 messages not hidden"):
        await reader.extend([record(2)])
    await reader.aclose()


async def test_a_thread_that_cannot_start_fails_one_call_and_not_the_mapping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service()
    reader = reader_of(service)
    batch = Batch((record(1),))

    def never(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", never)
        with pytest.raises(SourceUnavailable, match="can't start new thread"):
            await reader.receive(1, 0.0)
        with pytest.raises(SourceUnavailable, match="can't start new thread"):
            await reader.extend(batch.records)
        with pytest.raises(SourceUnavailable, match="can't start new thread"):
            await reader.settle(resolve_all(batch, Done()))
        with pytest.raises(SourceUnavailable, match="can't start new thread"):
            await reader.backlog()
    await reader.extend(batch.records)
    await reader.settle(resolve_all(batch, Done()))
    await reader.aclose()


class Gone:
    """A client whose first poll brings a message, and whose endpoint is gone from then on."""

    def __init__(self) -> None:
        self.brought = threading.Event()

    def receive_message(self, **_: object) -> Any:
        self.brought.set()
        return {"Messages": [{"MessageId": "1", "ReceiptHandle": "r", "Body": "b"}]}

    def change_message_visibility_batch(self, **_: object) -> Any:
        raise EndpointConnectionError(endpoint_url="http://x")

    def close(self) -> None:
        pass


async def test_a_cancelled_poll_stays_cancelled_though_its_messages_cannot_be_given_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Gone()
    reader = reader_of(client)
    async with asyncio.TaskGroup() as group:
        poll = group.create_task(reader.receive(10, 0.0))
        await asyncio.sleep(0)
        client.brought.wait(WITHIN_S)
        threading.Event().wait(0.1)  # the loop is busy while the thread hands its answer over
        poll.cancel()
    assert poll.cancelled()
    told = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert told == ["messages not given back, they come after their visibility timeout"]
    await reader.aclose()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    for name, value in TEST_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with http_server() as running:
        yield running


def answer(body: Any) -> Answer:
    return Answer(200, JSON, json.dumps(body).encode())


async def opened(server: HttpServer, name: str) -> SqsReader:
    """A reader, whose next requests are the first that are kept."""
    server.answers.append(answer({"QueueUrl": f"{server.url}/000000000000/{name}"}))
    server.answers.append(answer({"Attributes": {"QueueArn": f"{ARN}{name[1:]}", "VisibilityTimeout": "30"}}))
    reader = await SqsTrigger.parse({"queue": name}).open(host(server.url), FUNCTION)
    server.sent.clear()
    return reader


async def test_each_open_finds_the_credentials_as_they_are_then(
    server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    refused = {"__type": "ExpiredTokenException"}
    with pytest.raises(Refused, match="Unable to locate credentials"):
        await opened(server, "q")
    server.answers.clear()
    keys = []
    for key, given in (("old", refused), ("new", {"QueueUrl": server.url})):
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = x\n")
        server.usual = Answer(403 if key == "old" else 200, JSON, json.dumps(given).encode())
        with pytest.raises((Refused, SourceUnavailable)):  # the new ones pass, to an answer without a queue
            await SqsTrigger.parse({"queue": "q"}).open(host(server.url), FUNCTION)
        keys.append(server.sent[-1].headers["Authorization"].split("Credential=")[1].split("/")[0])
    assert keys == ["old", "new"]


def attempt_ids(server: HttpServer) -> list[str | None]:
    return [json.loads(sent.body).get("ReceiveRequestAttemptId") for sent in server.sent]


async def test_a_lost_answer_of_a_fifo_queue_is_asked_for_again_by_its_id(server: HttpServer) -> None:
    reader = await opened(server, "q.fifo")
    message = {"MessageId": "1", "ReceiptHandle": "r", "Body": "b"}
    server.answers.extend([Answer(drop=True)] * 3 + [answer({"Messages": [message]}), answer({})])
    with pytest.raises(SourceUnavailable):
        await reader.receive(10, 0.0)
    (received,) = await reader.receive(10, 0.0)
    assert await reader.receive(10, 0.0) == ()
    await reader.aclose()
    ids = attempt_ids(server)
    assert received.item_id == "1"
    assert len(set(ids[:4])) == 1
    assert None not in ids
    assert ids[4] != ids[3]


async def test_a_standard_queue_is_asked_without_an_id(server: HttpServer) -> None:
    reader = await opened(server, "q")
    server.answers.append(answer({}))
    await reader.receive(10, 0.0)
    await reader.aclose()
    assert attempt_ids(server) == [None]


async def test_a_message_that_can_be_neither_named_nor_settled_is_left_to_its_queue(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    reader = await opened(server, "q")
    whole = {"MessageId": "1", "ReceiptHandle": "r", "Body": "b"}
    server.answers.append(answer({"Messages": [{"Body": "x"}, whole, {"MessageId": "2"}]}))
    assert [one.item_id for one in await reader.receive(10, 0.0)] == ["1"]
    await reader.aclose()
    told = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert told == ["message without id or receipt handle, left to its queue"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'{"Messages": 7}', b'{"Messages": [7]}', b"\xff"])
async def test_an_answer_that_makes_no_sense_is_a_source_that_does_not_answer(
    server: HttpServer, body: bytes
) -> None:
    reader = await opened(server, "q")
    server.usual = Answer(200, JSON, body)
    with pytest.raises(SourceUnavailable):
        await reader.receive(10, 0.0)
    await reader.aclose()
