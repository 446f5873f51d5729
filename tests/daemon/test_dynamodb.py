"""DynamoDB Streams through whole daemons: true changes of items, and what only a fake arranges."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.dynamodb_fake import DynamoDbFake
from tests.brokers.dynamodb_streams import FakeStream
from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.streams import Recorded, make_table, out_of_order, repeated

pytestmark = pytest.mark.broker

TABLE = "orders"
ITEMS = 16

APP = """
from millstream import App, DynamoDB

app = App("test")


@app.function(timeout=10)
def handle(event, context):
    return None


app.map(DynamoDB({table!r}, {options}), to=handle, on_success="file://{done}")
"""


def app(daemon: RunningDaemon, table: str, **options: object) -> str:
    given = {"starting_position": "TRIM_HORIZON", **options}
    listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return APP.format(table=table, options=listed, done=done_file(daemon))


def done_file(daemon: RunningDaemon) -> Path:
    return daemon.folder / "done.jsonl"


def delivered(daemon: RunningDaemon) -> list[dict[str, Any]]:
    """Records that the function took."""
    file = done_file(daemon)
    lines = file.read_text().splitlines() if file.exists() else []
    return [record for line in lines for record in json.loads(line)["requestPayload"]["Records"]]


def test_changes_of_items_reach_the_function_as_aws_documents_them(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    dynamodb = ministack.client("dynamodb")
    table = make_table(dynamodb)
    key, image = {"pk": {"S": "ü"}}, {"pk": {"S": "ü"}, "n": {"N": "1"}, "b": {"B": b"\xff\x00"}}
    before = int(time.time())
    dynamodb.put_item(TableName=table, Item=image)
    dynamodb.put_item(TableName=table, Item={**image, "n": {"N": "2"}})
    dynamodb.delete_item(TableName=table, Key=key)
    daemon.start(app(daemon, table))
    wait_until("all are delivered", lambda: len(delivered(daemon)) == 3)
    assert daemon.stop() == 0
    arn = dynamodb.describe_table(TableName=table)["Table"]["LatestStreamArn"]
    first = {**image, "b": {"B": "/wA="}}
    second = {**first, "n": {"N": "2"}}
    changes = {"INSERT": (first, None), "MODIFY": (second, first), "REMOVE": (None, second)}
    for record, (name, (new, old)) in zip(delivered(daemon), changes.items(), strict=True):
        change = record["dynamodb"]
        assert before <= change["ApproximateCreationDateTime"] <= time.time()
        assert isinstance(change["ApproximateCreationDateTime"], int)
        assert record == {
            "eventID": record["eventID"],
            "eventName": name,
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": "us-east-1",
            "dynamodb": {
                "ApproximateCreationDateTime": change["ApproximateCreationDateTime"],
                "Keys": key,
                **({"NewImage": new} if new is not None else {}),
                **({"OldImage": old} if old is not None else {}),
                "SequenceNumber": change["SequenceNumber"],
                "SizeBytes": change["SizeBytes"],
                "StreamViewType": "NEW_AND_OLD_IMAGES",
            },
            "eventSourceARN": arn,
        }


class Run:
    """A daemon on the fake, and a stream whose records are numbered; item M has number N of N % ITEMS."""

    def __init__(self, daemon: RunningDaemon, fake: DynamoDbFake) -> None:
        self.daemon = daemon
        self.fake = fake
        self.stream: FakeStream = fake.stream(TABLE)
        self.done = Recorded(done_file(daemon), number_of=number)
        self._open = list(self.stream.shards)
        self._next = 0

    def put(self, count: int, created_at: float | None = None) -> None:
        for number in range(self._next, self._next + count):
            key, value = {"pk": {"N": str(number % ITEMS)}}, {"n": {"N": str(number)}}
            shard = self._open[number % ITEMS % len(self._open)]
            self.stream.put(key, {**key, **value}, shard=shard, created_at=created_at)
        self._next += count

    def split(self) -> None:
        """Split each open shard in two; each of its items goes on in one of these."""
        children = [self.stream.split(shard) for shard in self._open]
        self._open = [first for first, _ in children] + [second for _, second in children]

    def start(self, **options: object) -> None:
        self.daemon.start(app(self.daemon, TABLE, **options))

    def enabled(self) -> None:
        self.daemon.started()
        wait_until("it is enabled", lambda: self.daemon.status()["state"] == "Enabled")

    def until_delivered(self, count: int) -> None:
        wait_until(f"{count} are delivered", lambda: len(set(self.done.numbers())) >= count)

    def numbers(self) -> list[int]:
        """What was delivered, once the daemon has stopped."""
        assert self.daemon.stop() == 0
        return self.done.numbers()


def number(record: dict[str, Any]) -> int:
    return int(record["dynamodb"]["NewImage"]["n"]["N"])


@pytest.fixture
def run(tmp_path: Path, dynamodb_fake: DynamoDbFake) -> Iterator[Run]:
    daemon = RunningDaemon(tmp_path, dynamodb_fake.url)
    yield Run(daemon, dynamodb_fake)
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.kill()


def test_split_shards_are_read_in_order_of_each_item_and_once_over_a_restart(run: Run) -> None:
    run.put(320)
    run.split()
    run.put(320)
    run.start(batch_size=10)
    run.until_delivered(100)
    run.split()
    run.put(320)
    assert run.daemon.stop() == 0
    run.split()
    run.put(320)
    run.daemon.start()
    run.until_delivered(1280)
    numbers = run.numbers()
    assert sorted(numbers) == list(range(1280))
    assert out_of_order(numbers, ITEMS) == {}


def test_split_shards_are_read_in_order_of_each_item_within_each_life_over_kills(run: Run) -> None:
    lives = [0]
    run.put(160)
    for _ in range(4):
        run.split()
        run.put(160)
    run.start(batch_size=5)
    for goal in (100, 300):
        run.until_delivered(goal)
        run.daemon.kill()
        lives.append(len(run.done.numbers()))
        run.daemon.start()
    run.until_delivered(800)
    numbers = run.numbers()
    for begin, end in pairwise([*lives, len(numbers)]):
        assert out_of_order(numbers[begin:end], ITEMS) == {}
    # At a kill, no more than 16 shards are open, with one batch in flight and one being written.
    assert repeated(numbers) <= 2 * 16 * 2 * 5


def test_latest_begins_before_its_mapping_is_said_to_be_enabled(run: Run) -> None:
    answer = run.fake.hold("GetShardIterator")
    run.start(starting_position="LATEST")
    run.daemon.started()
    wait_until("its place is asked for", lambda: run.fake.count("GetShardIterator"))
    assert run.daemon.status()["state"] == "Creating"
    answer()
    run.enabled()
    run.put(32)
    run.until_delivered(32)
    assert sorted(run.numbers()) == list(range(32))


def test_latest_misses_nothing_between_its_mark_and_its_first_read(run: Run) -> None:
    run.put(32, created_at=time.time() - 10)
    answer = run.fake.hold("GetRecords")
    run.start(starting_position="LATEST")
    wait_until("it reads", lambda: run.fake.count("GetRecords"))
    run.put(32)
    run.split()
    run.put(32)
    answer()
    run.until_delivered(64)
    assert sorted(run.numbers()) == list(range(32, 96))


def test_latest_misses_nothing_over_a_kill_before_the_first_checkpoint(run: Run) -> None:
    """The iterators of its mark are lost then: it passes over what was created before the mark."""
    run.put(32, created_at=time.time() - 10)
    run.start(starting_position="LATEST")
    run.enabled()
    wait_until("it reads", lambda: run.fake.count("GetRecords"))
    run.daemon.kill()
    run.put(32)
    run.split()
    run.put(32)
    run.daemon.start()
    run.until_delivered(64)
    assert sorted(run.numbers()) == list(range(32, 96))


def expire(fake: DynamoDbFake) -> None:
    fake.expire_iterators()


def fail(fake: DynamoDbFake) -> None:
    """As often as botocore tries a request before it is a fault to us."""
    fake.throttle("GetRecords", 1)
    fake.fail("GetRecords", "InternalServerError", status=500)
    fake.drop("GetRecords")


@pytest.mark.parametrize("fault", [expire, fail])
def test_faults_of_the_service_lose_and_repeat_nothing(
    run: Run, fault: Callable[[DynamoDbFake], None]
) -> None:
    run.put(160)
    run.start()
    run.until_delivered(160)
    fault(run.fake)
    run.put(160)
    run.until_delivered(320)
    numbers = run.numbers()
    assert sorted(numbers) == list(range(320))
    assert out_of_order(numbers, ITEMS) == {}
    if fault is fail:
        lines = run.daemon.text().splitlines()
        assert len([line for line in lines if "source unavailable" in line]) == 1
        assert len([line for line in lines if "source available again" in line]) == 1


def test_a_table_without_a_stream_is_a_problem_of_its_mapping(run: Run) -> None:
    run.fake.table("bare")
    run.daemon.start(app(run.daemon, "bare"))
    run.daemon.started()
    wait_until("it has a problem", lambda: "PROBLEM" in run.daemon.status()["state_reason"])
    problem = "PROBLEM: table 'bare' has no stream: it is to be enabled"
    assert run.daemon.status()["state_reason"] == problem
    assert run.daemon.stop() == 0


def test_a_stream_deleted_in_mid_run_is_a_problem_after_what_was_read(run: Run) -> None:
    run.put(160)
    run.start()
    run.until_delivered(160)
    run.stream.delete()
    wait_until("it has a problem", lambda: "PROBLEM" in run.daemon.status()["state_reason"])
    assert run.stream.arn in run.daemon.status()["state_reason"]
    assert sorted(run.numbers()) == list(range(160))


def test_a_stream_that_is_disabled_is_read_to_its_end_and_told(run: Run) -> None:
    run.put(160)
    run.stream.disable()
    run.start()
    run.until_delivered(160)
    wait_until("it says so", lambda: "stream is disabled" in run.daemon.text())
    assert sorted(run.numbers()) == list(range(160))
