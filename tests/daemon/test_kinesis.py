"""Kinesis through whole daemons: polled and pushed, where it starts, and mappings side by side."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest

from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.streams import (
    Recorded,
    data,
    key_of,
    listed,
    make_consumer,
    make_stream,
    out_of_order,
    put,
    repeated,
)
from tests.triggers.aggregates import packed

pytestmark = pytest.mark.broker

SHARDS = 4
WINDOW_S = 2

APP = """
import base64, json, time
from millstream import App, Kinesis

app = App("test")


def read(record):
    return json.loads(base64.b64decode(record["kinesis"]["data"]))


@app.function(timeout=10)
def handle(event, context):
    return None


@app.function(timeout=10)
def poisoned(event, context):
    if any(read(record).get("until", 0) > time.time() for record in event["Records"]):
        raise SystemError("poison")


@app.function(timeout=10)
def count(event, context):
    total = event["state"].get("total", 0) + len(event["Records"])
    if event["isFinalInvokeForWindow"]:
        about = {"shard": event["shardId"], "start": event["window"]["start"], "total": total}
        print(" took " + json.dumps(about))
    return {"state": {"total": total}}


def declare(source, function, **options):
    app.map(Kinesis(source, **{"starting_position": "TRIM_HORIZON", **options}), **function)


"""


class Run:
    """A daemon on a new stream, and the file of what it delivered."""

    def __init__(self, daemon: RunningDaemon, ministack: Ministack, shards: int = SHARDS) -> None:
        self.daemon = daemon
        self.kinesis: Any = ministack.client("kinesis")
        self.stream = make_stream(self.kinesis, shards)
        self.file = daemon.folder / "done.jsonl"
        self.done = Recorded(self.file, "requestPayload")

    def declared(self, function: str = "handle", source: str = "", more: str = "", **options: object) -> str:
        """A mapping; `more` are further arguments of `app.map`."""
        given = "".join(f", {name}={value!r}" for name, value in options.items())
        target = f"dict(to={function}, on_success='file://{self.file}'{more})"
        return f"declare({source or self.stream!r}, {target}{given})\n"

    def start(self, mappings: str) -> None:
        self.daemon.start(APP + mappings)
        self.daemon.started()
        wait_until("all are enabled", lambda: self.states() == {"Enabled"})

    def states(self) -> set[str]:
        return {found["status"]["state"] for found in self.daemon.mappings() or []}

    def restart(self) -> None:
        assert self.daemon.stop() == 0
        self.daemon.start()

    def put(self, first: int, count: int) -> None:
        put(self.kinesis, self.stream, first, count)

    def put_data(self, content: bytes) -> None:
        self.kinesis.put_record(StreamName=self.stream, Data=content, PartitionKey="k")

    def until_delivered(self, count: int) -> None:
        wait_until(f"{count} are delivered", lambda: len(self.done.numbers()) >= count)


@pytest.fixture
def run(daemon: RunningDaemon, ministack: Ministack) -> Run:
    return Run(daemon, ministack)


@pytest.mark.parametrize("pushed", [False, True], ids=["polled", "enhanced fan-out"])
def test_all_are_delivered_once_and_in_order_over_a_restart(run: Run, pushed: bool) -> None:
    source = make_consumer(run.kinesis, run.stream) if pushed else run.stream
    run.put(0, 2000)
    run.start(run.declared(source=source, parallelization_factor=4))
    run.until_delivered(2000)
    run.restart()
    run.put(2000, 100)
    run.until_delivered(2100)
    assert run.daemon.stop() == 0
    assert sorted(run.done.numbers()) == list(range(2100))
    assert out_of_order(run.done.numbers()) == {}
    assert run.daemon.text().count("state=Enabled") == 2


def test_packed_records_are_delivered_one_by_one_over_a_restart(run: Run) -> None:
    def put_packed(first: int) -> None:
        run.put_data(packed(*[(key_of(n), None, data(n)) for n in range(first, first + 4)]))

    for first in range(0, 40, 4):
        put_packed(first)
    run.start(run.declared(deaggregate=True, batch_size=3))
    run.until_delivered(40)
    run.restart()
    put_packed(40)
    run.until_delivered(44)
    assert run.daemon.stop() == 0
    assert run.done.numbers() == list(range(44))


def test_latest_begins_with_what_comes_after_the_mapping_was_enabled(run: Run) -> None:
    run.put(0, 100)
    put_at = time.time()
    wait_until(
        "the second is over, which times of requests do not divide", lambda: time.time() > put_at + 1.1
    )
    run.start(run.declared(starting_position="LATEST"))
    run.put(100, 100)
    run.until_delivered(100)
    assert run.daemon.stop() == 0
    assert sorted(run.done.numbers()) == list(range(100, 200))


def test_latest_misses_nothing_over_a_kill_before_the_first_record(run: Run) -> None:
    run.start(run.declared(starting_position="LATEST"))
    run.daemon.kill()
    run.put(0, 100)
    run.daemon.start()
    run.until_delivered(100)
    assert run.daemon.stop() == 0
    assert sorted(run.done.numbers()) == list(range(100))


def test_at_timestamp_begins_with_what_arrived_since(run: Run) -> None:
    run.put(0, 100)
    put_at = time.time()
    wait_until("the clock shows another time", lambda: time.time() > put_at + 0.05)
    since = time.time()
    run.put(100, 100)
    run.start(run.declared(starting_position="AT_TIMESTAMP", starting_position_timestamp=since))
    run.until_delivered(100)
    assert run.daemon.stop() == 0
    assert sorted(run.done.numbers()) == list(range(100, 200))


def test_records_that_the_filters_drop_are_counted_and_passed_over(run: Run) -> None:
    pattern = {"data": {"key": ["k1", "k2"]}}
    run.put(0, 970)
    run.start(run.declared(more=f", filters=[{pattern!r}]"))
    run.until_delivered(20)
    wait_until("all are read", lambda: run.daemon.status()["received"] == 970)
    run.restart()
    run.put(970, 97)
    run.until_delivered(22)
    assert run.daemon.stop() == 0
    assert {key_of(n) for n in run.done.numbers()} == {"k1", "k2"}
    assert repeated(run.done.numbers()) == 0
    (shown,) = listed(run.daemon.data)
    counts = [shown["status"][name] for name in ("received", "filtered", "delivered", "state")]
    assert counts == [1067, 1045, 22, "Stopped"]


def test_a_poisoned_mapping_is_shown_and_does_not_hold_another_one_on_its_stream(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    run = Run(daemon, ministack, shards=1)
    run.start(run.declared() + run.declared("poisoned").replace("done.jsonl", "other.jsonl"))
    run.put_data(json.dumps({"id": 0, "until": time.time() + 12.0}).encode())
    run.put(1, 299)
    run.until_delivered(300)
    wait_until("the other one fails", lambda: any(one["status"]["errors"] for one in daemon.mappings() or []))
    shown = {one["row"]["function"]: one for one in listed(run.daemon.data)}
    assert shown["handle"]["status"]["last_result"] == "OK"
    assert shown["handle"]["metrics"] == {
        "PolledEventCount": 300,
        "FilteredOutEventCount": 0,
        "InvokedEventCount": 300,
        "FailedInvokeEventCount": 0,
        "DestinationDeliveryFailures": 0,
        "DroppedEventCount": 0,
        "OnFailureDestinationDeliveredEventCount": 0,
        "IteratorAge": shown["handle"]["metrics"]["IteratorAge"],
    }
    assert 0 <= shown["handle"]["metrics"]["IteratorAge"] < 30_000
    assert shown["poisoned"]["status"]["last_result"] == "PROBLEM: Function call failed"
    assert shown["poisoned"]["metrics"]["FailedInvokeEventCount"] > 0
    other = Recorded(daemon.folder / "other.jsonl", "requestPayload")
    wait_until("the poison wears off", lambda: len(other.numbers()) == 300)
    healed = {one["row"]["function"]: one["status"]["last_result"] for one in listed(daemon.data)}
    assert healed == {"handle": "OK", "poisoned": "OK"}
    assert run.daemon.stop() == 0


def test_each_final_state_of_a_tumbling_window_counts_all_of_it_over_a_stop_and_a_kill(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    run = Run(daemon, ministack, shards=2)
    run.start(run.declared("count", tumbling_window=WINDOW_S, batch_size=10))
    number = 0
    for end in (daemon.stop, daemon.kill):
        ends_at = window_start(time.time()) + 2 * WINDOW_S
        # A kill may lose the log lines of the last moment: it has to come when no final call is due.
        while time.time() < ends_at or not between_final_calls(run):
            run.put(number, 5)
            number += 5
            time.sleep(0.05)
        end()
        daemon.start()
    expected = windows_of(run.kinesis, run.stream)
    wait_until("all windows have ended", lambda: finals(daemon).keys() == expected.keys())
    assert daemon.stop() == 0
    assert finals(daemon) == expected


def window_start(at: float) -> int:
    return int(at // WINDOW_S) * WINDOW_S


def between_final_calls(run: Run) -> bool:
    """True if all windows that are over had their final calls, and the next end is not near."""
    now = time.time()
    over = {key for key in windows_of(run.kinesis, run.stream) if key[1] < named(window_start(now))}
    return over <= finals(run.daemon).keys() and window_start(now) <= time.time() - WINDOW_S / 4 < (
        window_start(now) + WINDOW_S / 2
    )


def named(start: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start))


def windows_of(kinesis: Any, stream: str) -> dict[tuple[str, str], set[int]]:
    """How many records each window of each shard has."""
    counts: Counter[tuple[str, str]] = Counter()
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        about = {"StreamName": stream, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
        iterator = kinesis.get_shard_iterator(**about)["ShardIterator"]
        for record in kinesis.get_records(ShardIterator=iterator)["Records"]:
            start = window_start(record["ApproximateArrivalTimestamp"].timestamp())
            counts[shard["ShardId"], named(start)] += 1
    return {key: {count} for key, count in counts.items()}


def finals(daemon: RunningDaemon) -> dict[tuple[str, str], set[int]]:
    """The totals that final calls had, by shard and window; a kill may repeat one."""
    found: dict[tuple[str, str], set[int]] = {}
    for line in daemon.handled("count"):
        final = json.loads(line)
        found.setdefault((final["shard"], final["start"]), set()).add(final["total"])
    return found
