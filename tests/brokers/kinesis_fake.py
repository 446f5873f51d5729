"""A Kinesis endpoint that misbehaves on demand: HTTP on loopback, one stream, records in memory."""

from __future__ import annotations

import base64
import json
import threading
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from millstream.contract.records import Record

NAME = "orders"
ARN = f"arn:aws:kinesis:us-east-1:000000000000:stream/{NAME}"
CONSUMER_ARN = f"{ARN}/consumer/c:1760000000"
SHARD = "shardId-000000000000"
FIRST_SEQUENCE = 49_600_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000
HELD_S = 20.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that the service answers with, or that ends a subscription."""

    code: str
    status: int = 400
    message: str = ""


def sequence(number: int) -> str:
    """The sequence number of a shard's record, counted from 0."""
    return str(FIRST_SEQUENCE + number)


def shard(shard_id: str = SHARD, **more: Any) -> dict[str, Any]:
    """One shard of ListShards; all hash keys."""
    return {
        "ShardId": shard_id,
        "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": str(2**128 - 1)},
        "SequenceNumberRange": {"StartingSequenceNumber": "0"},
        **more,
    }


def data(records: Sequence[Record]) -> list[str]:
    """The data that were put, taken from the records' events."""
    events = [json.loads(record.event) for record in records]
    return [base64.b64decode(event["kinesis"]["data"]).decode() for event in events]


@dataclass
class KinesisFake:
    """The endpoint. What tests set is read at each request."""

    records: list[dict[str, Any]] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=lambda: [shard()])
    status: str | None = "ACTIVE"  # None: there is no such stream
    created_at: float = 1_750_000_000.123
    consumer_status: str | None = "ACTIVE"
    closed: bool = False  # the shard ends after its records
    behind_ms: int = 0
    list_page: int = 100
    date: float | None = None  # of responses; None: now
    date_text: str | None = None  # the same as it is written
    body: bytes | None = None  # of GetRecords, in place of the true one
    clock: Callable[[], float] = time.monotonic
    refusals: defaultdict[str, deque[Refusal]] = field(default_factory=lambda: defaultdict(deque))
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked_at: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    regions: list[str] = field(default_factory=list)  # that requests were signed for
    holding: threading.Event | None = None  # GetRecords answers once this is set
    # One a subscription: what it brings, in order. It brings nothing while an event is not set.
    scripts: deque[list[dict[str, Any] | Refusal | threading.Event]] = field(default_factory=deque)
    sent_at: list[float] = field(default_factory=list)  # of each event of a subscription

    def put(self, data: bytes, key: str = "k", at: float = 1_760_000_000.123) -> None:
        self.records.append(self.record(len(self.records), data, key, at))

    @staticmethod
    def record(number: int, data: bytes, key: str = "k", at: float = 1_760_000_000.123) -> dict[str, Any]:
        """One record as the service gives it."""
        return {
            "SequenceNumber": sequence(number),
            "ApproximateArrivalTimestamp": at,
            "Data": base64.b64encode(data).decode(),
            "PartitionKey": key,
            "EncryptionType": "NONE",
        }

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """The requests of one operation."""
        return [request for name, request in self.requests if name == operation]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        handler = type("_HandlerOfOne", (_Handler,), {"kinesis": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any] | Refusal:
        """What an operation comes to."""
        self.requests.append((operation, request))
        self.asked_at[operation].append(self.clock())
        if self.refusals[operation]:
            return self.refusals[operation].popleft()
        if operation == "DescribeStreamConsumer":
            return self._consumer()
        if self.status is None:
            return Refusal("ResourceNotFoundException", message=f"Stream {NAME} not found")
        if operation == "DescribeStreamSummary":
            found = {"StreamName": NAME, "StreamARN": ARN, "StreamStatus": self.status}
            return {"StreamDescriptionSummary": {**found, "StreamCreationTimestamp": self.created_at}}
        if operation == "ListShards":
            return self._list(request)
        if operation == "GetShardIterator":
            return self._iterator(request)
        if operation == "GetRecords":
            return self._page(request)
        return self._subscribe(request)

    def _consumer(self) -> dict[str, Any] | Refusal:
        if self.consumer_status is None:
            return Refusal("ResourceNotFoundException", message="Consumer not found")
        found = {"ConsumerARN": CONSUMER_ARN, "ConsumerStatus": self.consumer_status, "StreamARN": ARN}
        return {"ConsumerDescription": found}

    def _list(self, request: dict[str, Any]) -> dict[str, Any] | Refusal:
        if "NextToken" in request and "StreamName" in request:
            return Refusal("InvalidArgumentException", message="NextToken and StreamName")
        first = int(request.get("NextToken", "0"))
        page = {"Shards": self.shards[first : first + self.list_page]}
        more = first + self.list_page < len(self.shards)
        return {**page, "NextToken": str(first + self.list_page)} if more else page

    def _iterator(self, request: dict[str, Any]) -> dict[str, Any] | Refusal:
        if request["ShardId"] not in {known["ShardId"] for known in self.shards}:
            return Refusal("ResourceNotFoundException", message="Shard not found")
        number = request.get("StartingSequenceNumber")
        return {"ShardIterator": self._named(self._index(request["ShardIteratorType"], number, request))}

    def _named(self, index: int) -> str:
        """The iterator of a place; one of an earlier stream is not found."""
        return f"{self.created_at}/{index}"

    def _index(self, kind: str, number: str | None, request: dict[str, Any]) -> int:
        if kind == "AT_TIMESTAMP":
            since = int(request["Timestamp"])  # whole seconds, as botocore sends them
            early = [one for one in self.records if one["ApproximateArrivalTimestamp"] < since]
            return len(early)
        if number is None:
            return 0
        before = [one for one in self.records if int(one.get("SequenceNumber", 0)) < int(number)]
        return len(before) + (kind == "AFTER_SEQUENCE_NUMBER" and int(number) >= FIRST_SEQUENCE)

    def _page(self, request: dict[str, Any]) -> dict[str, Any] | Refusal:
        if self.holding is not None:
            self.holding.wait(HELD_S)
        of_stream, _, place = request["ShardIterator"].partition("/")
        if of_stream != str(self.created_at):
            return Refusal("ResourceNotFoundException")
        at = int(place)
        page = self.records[at : at + request["Limit"]]
        over = self.closed and at + len(page) >= len(self.records)
        return {
            "Records": page,
            "NextShardIterator": None if over else self._named(at + len(page)),
            "MillisBehindLatest": self.behind_ms,
        }

    def _subscribe(self, request: dict[str, Any]) -> dict[str, Any] | Refusal:
        if self.consumer_status is None or request["ShardId"] not in {one["ShardId"] for one in self.shards}:
            return Refusal("ResourceNotFoundException")
        if self.scripts:
            return {"events": self.scripts.popleft()}
        start = request["StartingPosition"]
        at = self._index(start["Type"], start.get("SequenceNumber"), start)
        event: dict[str, Any] = {"Records": self.records[at:], "MillisBehindLatest": self.behind_ms}
        if self.closed:
            event["ChildShards"] = [{"ShardId": "shardId-000000000001"}]
        else:
            event["ContinuationSequenceNumber"] = sequence(len(self.records) - 1)
        return {"events": [event]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer takes 40 ms
    kinesis: KinesisFake

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        self.kinesis.regions.append(self.headers["Authorization"].split("/")[2])
        answer = self.kinesis.answer(operation, json.loads(body))
        if isinstance(answer, Refusal):
            error = {"__type": answer.code, "message": answer.message}
            self._reply(answer.status, json.dumps(error).encode())
        elif operation == "SubscribeToShard":
            self._push(answer["events"])
        elif operation == "GetRecords" and self.kinesis.body is not None:
            self._reply(200, self.kinesis.body)
        else:
            self._reply(200, json.dumps(answer).encode())

    def date_time_string(self, timestamp: float | None = None) -> str:
        if self.kinesis.date_text is not None:
            return self.kinesis.date_text
        return formatdate(self.kinesis.date if self.kinesis.date is not None else time.time(), usegmt=True)

    def log_message(self, *_: object) -> None:
        pass

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _push(self, events: list[dict[str, Any] | Refusal | threading.Event]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._chunk(_message({":message-type": "event", ":event-type": "initial-response"}, {}))
            for event in events:
                if isinstance(event, threading.Event):
                    event.wait(HELD_S)
                    continue
                if isinstance(event, Refusal):
                    headers = {":message-type": "exception", ":exception-type": event.code}
                    self._chunk(_message(headers, {"message": event.message}))
                    break
                headers = {":message-type": "event", ":event-type": "SubscribeToShardEvent"}
                self._chunk(_message(headers, event))
                self.kinesis.sent_at.append(time.monotonic())
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the client has gone

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _message(headers: dict[str, str], payload: dict[str, Any]) -> bytes:
    """One message of AWS's event stream encoding, with string headers."""
    raw = b""
    for name, value in {**headers, ":content-type": "application/json"}.items():
        size = len(value).to_bytes(2, "big")
        raw += bytes([len(name)]) + name.encode() + b"\x07" + size + value.encode()
    body = json.dumps(payload).encode()
    prelude = (16 + len(raw) + len(body)).to_bytes(4, "big") + len(raw).to_bytes(4, "big")
    head = prelude + zlib.crc32(prelude).to_bytes(4, "big") + raw + body
    return head + zlib.crc32(head).to_bytes(4, "big")
