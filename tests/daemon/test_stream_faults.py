"""Streams through whole daemons while something is wrong: sources, records, answers, stops."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from tests.brokers.kinesis_fake import NAME, KinesisFake, Refusal
from tests.brokers.ministack import Ministack
from tests.brokers.relay import Relay
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.streams import (
    Recorded,
    listed,
    make_consumer,
    make_stream,
    out_of_order,
    put,
)
from tests.daemon.test_outage import until

pytestmark = pytest.mark.broker

IDLE_SHARDS = 8
IDLE_S = 5.0
IDLE_CPU_S = 0.5

APP = """
import base64, json, time
from millstream import App, Kinesis

app = App("test")
tries = []


def datas(event):
    return [base64.b64decode(record["kinesis"]["data"]) for record in event["Records"]]


@app.function(timeout=10)
def handle(event, context):
    return None


@app.function(timeout=10)
def slow(event, context):
    time.sleep({pause_s})
    for data in datas(event):
        print(" took " + data.decode(errors="replace"))


@app.function(timeout=10)
def confused(event, context):
    tries.append(len(event["Records"]))
    print(" took " + str(tries))
    return {"batchItemFailures": [{"itemIdentifier": "nobody"}] if len(tries) < 2 else []}


def declare(source, function, on_failure=None, filters=(), **options):
    given = {"starting_position": "TRIM_HORIZON", **options}
    app.map(
        Kinesis(source, **given),
        to=function,
        on_success="file://{folder}/done.jsonl",
        on_failure=on_failure,
        filters=filters,
    )


"""


def app(daemon: RunningDaemon, mappings: str, pause_s: float = 0.0) -> str:
    return APP.replace("{folder}", str(daemon.folder)).replace("{pause_s}", str(pause_s)) + mappings


def done(daemon: RunningDaemon) -> Recorded:
    return Recorded(daemon.folder / "done.jsonl")


def delivered(daemon: RunningDaemon) -> list[bytes]:
    """Data of the records that functions took."""
    file = daemon.folder / "done.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    events = [json.loads(line)["requestPayload"] for line in lines]
    return [base64.b64decode(r["kinesis"]["data"]) for event in events for r in event["Records"]]


def put_data(kinesis: Any, stream: str, *contents: bytes) -> None:
    for content in contents:
        kinesis.put_record(StreamName=stream, Data=content, PartitionKey="k")


@pytest.fixture
def fake() -> Iterator[KinesisFake]:
    os.environ.update(TEST_CREDENTIALS)
    with KinesisFake() as running:
        yield running


@pytest.fixture
def daemon_of_fake(tmp_path: Path, fake: KinesisFake) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path, fake.url)
    yield running
    end(running)


def end(daemon: RunningDaemon) -> None:
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.kill()


def test_a_missing_stream_is_a_problem_of_its_mapping_alone(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, 1)
    put(kinesis, stream, 0, 10)
    daemon.start(app(daemon, f"declare('nowhere', handle)\ndeclare({stream!r}, handle)\n"))
    wait_until("the other one works", lambda: len(done(daemon).numbers()) == 10)
    shown = {one["row"]["source"]: one["status"] for one in listed(daemon.data)}
    assert shown["nowhere"]["state"] == "Creating"
    assert shown["nowhere"]["state_reason"] == "PROBLEM: no stream 'nowhere'"
    assert shown[stream]["state"] == "Enabled"
    assert daemon.stop() == 0


@pytest.mark.parametrize("pushed", [False, True], ids=["polled", "enhanced fan-out"])
def test_a_stream_deleted_in_mid_run_is_a_problem_after_what_was_read(
    daemon: RunningDaemon, ministack: Ministack, pushed: bool
) -> None:
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, 1)
    source = make_consumer(kinesis, stream) if pushed else stream
    put(kinesis, stream, 0, 100)
    daemon.start(app(daemon, f"declare({source!r}, slow, batch_size=10)\n", 0.1))
    wait_until("it works", lambda: done(daemon).numbers())
    kinesis.delete_stream(StreamName=stream, EnforceConsumerDeletion=True)
    wait_until("it has a problem", lambda: "PROBLEM" in daemon.status()["state_reason"])
    assert stream in daemon.status()["state_reason"]
    assert done(daemon).numbers() == list(range(100))
    assert daemon.stop() == 0


@pytest.mark.parametrize("pushed", [False, True], ids=["polled", "enhanced fan-out"])
async def test_an_outage_in_the_middle_loses_and_repeats_nothing_and_is_said_once(
    tmp_path: Path, ministack: Ministack, pushed: bool
) -> None:
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, 2)
    source = make_consumer(kinesis, stream) if pushed else stream
    async with Relay(ministack.endpoint_url) as relay:
        daemon = RunningDaemon(tmp_path, relay.url)
        took = done(daemon)
        try:
            daemon.start(app(daemon, f"declare({source!r}, slow, batch_size=10)\n", 0.02))
            put(kinesis, stream, 0, 500)
            await until("it works", lambda: len(took.numbers()) > 50)
            await relay.cut()
            put(kinesis, stream, 500, 500)
            await until("it says so", lambda: "source unavailable" in daemon.text())
            await relay.restore()
            await until("all are delivered", lambda: len(set(took.numbers())) == 1000)
            assert daemon.stop() == 0
        finally:
            end(daemon)
    assert sorted(took.numbers()) == list(range(1000))
    assert out_of_order(took.numbers()) == {}
    assert daemon.text().count("source unavailable") == 1
    assert daemon.text().count("source available again") == 1


def test_throttled_reads_lose_and_repeat_nothing(fake: KinesisFake, daemon_of_fake: RunningDaemon) -> None:
    daemon = daemon_of_fake
    throttled = Refusal("ProvisionedThroughputExceededException")
    fake.refusals["GetRecords"].extend([throttled] * 3)
    fake.refusals["GetShardIterator"].append(Refusal("LimitExceededException"))
    put_fake(fake, 10)
    daemon.start(app(daemon, f"declare({NAME!r}, handle)\n"))
    wait_until("all are delivered", lambda: len(delivered(daemon)) == 10)
    assert not fake.refusals["GetRecords"]
    assert daemon.stop() == 0
    assert delivered(daemon) == [str(number).encode() for number in range(10)]


def put_fake(fake: KinesisFake, count: int) -> None:
    for number in range(count):
        fake.put(str(number).encode())


def test_without_its_state_a_mapping_begins_at_its_starting_position(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, 2)
    put(kinesis, stream, 0, 100)
    daemon.start(app(daemon, f"declare({stream!r}, handle)\n"))
    wait_until("all are delivered", lambda: len(done(daemon).numbers()) == 100)
    assert daemon.stop() == 0
    shutil.rmtree(daemon.data)
    daemon.start()
    wait_until("all are delivered again", lambda: len(done(daemon).numbers()) == 200)
    assert daemon.stop() == 0
    assert sorted(done(daemon).numbers()) == sorted([*range(100), *range(100)])


def test_a_record_too_large_for_an_event_is_given_up_and_the_next_one_delivered(
    fake: KinesisFake, daemon_of_fake: RunningDaemon
) -> None:
    """No record of Kinesis was as large when AWS made the limit of events; since 2025 there may be."""
    daemon = daemon_of_fake
    large = bytes(5 * 1024 * 1024)
    fake.put(b"before")
    fake.put(large)
    fake.put(b"after")
    failed = daemon.folder / "failed.jsonl"
    daemon.start(app(daemon, f"declare({NAME!r}, handle, on_failure='file://{failed}')\n"))
    wait_until("the next one is delivered", lambda: b"after" in delivered(daemon))
    assert daemon.stop() == 0
    assert delivered(daemon) == [b"before", b"after"]
    (line,) = failed.read_text().splitlines()
    document = json.loads(line)
    assert document["requestContext"]["condition"] == "MaximumPayloadSizeExceeded"
    assert document["responseContext"] is None
    assert document["KinesisBatchInfo"]["startSequenceNumber"] == fake.records[1]["SequenceNumber"]
    assert document["KinesisBatchInfo"]["batchSize"] == 1


def test_data_that_is_no_text_or_no_json_does_not_match_a_filter_on_it(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, 1)
    matching = b'{"key": "k1", "n": 1}'
    put_data(kinesis, stream, b"\xff\xfe\x00", b"key: k1", b'{"key": ', b"[1]", b"null", matching)
    daemon.start(app(daemon, f"declare({stream!r}, handle, filters=[{{'data': {{'key': ['k1']}}}}])\n"))
    wait_until("one is delivered", lambda: delivered(daemon))
    wait_until("the others are counted", lambda: daemon.status()["filtered"] == 5)
    assert daemon.stop() == 0
    assert delivered(daemon) == [matching]
    assert "Traceback" not in daemon.text()


def test_an_answer_that_names_a_record_that_is_not_there_fails_the_whole_batch(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, 1)
    put(kinesis, stream, 0, 5)
    daemon.start(app(daemon, f"declare({stream!r}, confused, report_batch_item_failures=True)\n"))
    wait_until("it is delivered", lambda: done(daemon).numbers())
    assert daemon.stop() == 0
    assert done(daemon).numbers() == list(range(5))
    assert list(daemon.handled("confused")) == ["[5]", "[5, 5]"]


def test_a_soft_stop_commits_what_was_invoked(daemon: RunningDaemon, ministack: Ministack) -> None:
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, 2)
    put(kinesis, stream, 0, 40)
    daemon.start(app(daemon, f"declare({stream!r}, slow, batch_size=5)\n", 0.5))
    wait_until("batches are invoked", lambda: invoked(daemon))
    assert daemon.stop() == 0
    assert "drained=True" in daemon.text()
    assert 5 <= len(done(daemon).numbers()) < 40
    daemon.start(app(daemon, f"declare({stream!r}, slow, batch_size=5)\n"))
    wait_until("all are delivered", lambda: len(done(daemon).numbers()) >= 40)
    assert daemon.stop() == 0
    assert sorted(done(daemon).numbers()) == list(range(40))


def invoked(daemon: RunningDaemon) -> bool:
    return any(one["status"]["received"] == 40 for one in daemon.mappings() or [])


def test_a_daemon_on_idle_shards_has_next_to_nothing_to_do(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    kinesis = ministack.client("kinesis")
    stream = make_stream(kinesis, IDLE_SHARDS)
    daemon.start(app(daemon, f"declare({stream!r}, handle)\n"))
    daemon.started()
    wait_until("it reads all", lambda: daemon.status()["partitions"] == IDLE_SHARDS)
    before_s = cpu_s(daemon)
    time.sleep(IDLE_S)  # how much it does in that time is what is tested
    assert cpu_s(daemon) - before_s < IDLE_CPU_S
    assert daemon.stop() == 0


def cpu_s(daemon: RunningDaemon) -> float:
    """CPU time of the daemon's process so far."""
    assert daemon.process is not None
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime, stime; see proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")
