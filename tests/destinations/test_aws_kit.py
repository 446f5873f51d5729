"""The destinations on AWS services under the kit, at a real endpoint."""

from __future__ import annotations

import json
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import boto3
import pytest

from tests.brokers.ministack import Ministack
from tests.contract.destinations_kit import DestinationsKit, Target

pytestmark = pytest.mark.broker

BadOptions: TypeAlias = Sequence[tuple[str, object]]
ARN = "arn:aws:{}:us-east-1:000000000000:{}"


class AwsSide(Target):
    """A target on the endpoint, and a queue that shows what arrives at it."""

    def __init__(self, endpoint: Ministack) -> None:
        self.endpoint_url = endpoint.endpoint_url
        self._clients: list[Any] = []
        self._sqs = self.client("sqs")
        self._queue: str = self._sqs.create_queue(QueueName=self.name())["QueueUrl"]
        self.queue_arn = ARN.format("sqs", self._queue.rpartition("/")[2])
        self._endpoint = endpoint

    def name(self) -> str:
        return f"t-{uuid.uuid4().hex[:12]}"

    def client(self, service: str) -> Any:
        made: Any = boto3.session.Session().client  # by name, which the stubs cannot follow
        self._clients.append(made(service, endpoint_url=self.endpoint_url, region_name="us-east-1"))
        return self._clients[-1]

    def bodies(self, count: int) -> list[str]:
        """What the queue holds; each poll waits for a second at most."""
        found: list[str] = []
        for _ in range(20):
            got = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            found += [message["Body"] for message in got.get("Messages", [])]
            if len(found) >= count:
                break
        return found

    @abstractmethod
    def read(self, count: int) -> Sequence[bytes]: ...

    def die(self) -> None:
        self._endpoint.stop()

    def close(self) -> None:
        for client in self._clients:
            client.close()


class SqsSide(AwsSide):
    def __init__(self, endpoint: Ministack, by_url: bool = False) -> None:
        super().__init__(endpoint)
        self.options = {"target": self._queue if by_url else self.queue_arn}
        missing = f"{self.options['target']}-missing"
        self.missing = {"kind": "sqs", "target": missing}

    def shrink(self) -> int | None:
        self._sqs.set_queue_attributes(QueueUrl=self._queue, Attributes={"MaximumMessageSize": "2000"})
        return 2000

    def read(self, count: int) -> Sequence[bytes]:
        return [body.encode() for body in self.bodies(count)]


class SnsSide(AwsSide):
    def __init__(self, endpoint: Ministack) -> None:
        super().__init__(endpoint)
        sns = self.client("sns")
        topic = sns.create_topic(Name=self.name())["TopicArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=self.queue_arn)
        self.options = {"target": topic}
        self.missing = {"kind": "sns", "target": f"{topic}-missing"}

    def read(self, count: int) -> Sequence[bytes]:
        notifications = [json.loads(body) for body in self.bodies(count)]
        assert all("Subject" not in notification for notification in notifications)
        return [notification["Message"].encode() for notification in notifications]


class S3Side(AwsSide):
    def __init__(self, endpoint: Ministack) -> None:
        super().__init__(endpoint)
        self._s3 = self.client("s3")
        self._bucket = self.name()
        self._s3.create_bucket(Bucket=self._bucket)
        self.options = {"target": f"arn:aws:s3:::{self._bucket}"}
        self.missing = {"kind": "s3", "target": f"arn:aws:s3:::{self._bucket}-missing"}

    def read(self, count: int) -> Sequence[bytes]:
        listed = self._s3.list_objects_v2(Bucket=self._bucket).get("Contents", [])
        assert all(each["Key"].startswith("aws/lambda/mapping-1/") for each in listed)
        return [self._s3.get_object(Bucket=self._bucket, Key=each["Key"])["Body"].read() for each in listed]


class EventBridgeSide(AwsSide):
    def __init__(self, endpoint: Ministack) -> None:
        super().__init__(endpoint)
        events = self.client("events")
        bus = self.name()
        arn = events.create_event_bus(Name=bus)["EventBusArn"]
        pattern = {"source": ["lambda"], "detail-type": ["Lambda Function Invocation Result - Failure"]}
        events.put_rule(Name="all", EventBusName=bus, EventPattern=json.dumps(pattern))
        events.put_targets(Rule="all", EventBusName=bus, Targets=[{"Id": "1", "Arn": self.queue_arn}])
        self.options = {"target": arn}
        self.missing = {"kind": "eventbridge", "target": f"{arn}-missing"}

    def read(self, count: int) -> Sequence[bytes]:
        events = [json.loads(body) for body in self.bodies(count)]
        for event in events:
            assert event["resources"][0] == self.options["target"]
            assert event["resources"][1].endswith(":function:f:$LATEST")
        # The bus writes the detail anew; its keys keep their order.
        return [
            json.dumps(event["detail"], ensure_ascii=False, separators=(",", ":")).encode()
            for event in events
        ]


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, ministack: Ministack) -> Ministack:
    """The session's endpoint, or one that the test may stop."""
    if "dead" in request.node.name:
        own: Ministack = request.getfixturevalue("own_ministack")
        return own
    return ministack


class TestSqsByArn(DestinationsKit):
    bad_options: BadOptions = (
        ("target", "arn:aws:sqs:orders"),
        ("target", "arn:aws:sns:us-east-1:000000000000:topic"),
        ("target", ARN.format("sqs", "orders.fifo")),
        ("target", ARN.format("sqs", "not a name")),
        ("target", 7),
        ("subject", "x"),
    )

    @pytest.fixture
    def target(self, endpoint: Ministack) -> Iterator[Target]:
        side = SqsSide(endpoint)
        yield side
        side.close()


class TestSqsByUrl(TestSqsByArn):
    bad_options: BadOptions = (
        ("target", "http://127.0.0.1:1/000000000000/orders.fifo"),
        ("target", "http://127.0.0.1/x"),
    )

    @pytest.fixture
    def target(self, endpoint: Ministack) -> Iterator[Target]:
        side = SqsSide(endpoint, by_url=True)
        yield side
        side.close()


class TestSns(DestinationsKit):
    bad_options: BadOptions = (
        ("target", "arn:aws:sns:topic"),
        ("target", ARN.format("sqs", "q")),
        ("target", ARN.format("sns", "topic.fifo")),
        ("target", None),
        ("subject", "x"),
    )

    @pytest.fixture
    def target(self, endpoint: Ministack) -> Iterator[Target]:
        side = SnsSide(endpoint)
        yield side
        side.close()


class TestS3(DestinationsKit):
    bad_options: BadOptions = (
        ("target", "arn:aws:s3:::UPPER"),
        ("target", "arn:aws:s3:::bucket/key"),
        ("target", "s3://bucket"),
        ("target", []),
        ("prefix", "x"),
    )

    @pytest.fixture
    def target(self, endpoint: Ministack) -> Iterator[Target]:
        side = S3Side(endpoint)
        yield side
        side.close()


class TestEventBridge(DestinationsKit):
    bad_options: BadOptions = (
        ("target", "arn:aws:events:us-east-1:000000000000:rule/x"),
        ("target", "arn:aws:events:::event-bus/"),
        ("target", 1.5),
        ("source", "x"),
    )

    @pytest.fixture
    def target(self, endpoint: Ministack) -> Iterator[Target]:
        side = EventBridgeSide(endpoint)
        yield side
        side.close()
