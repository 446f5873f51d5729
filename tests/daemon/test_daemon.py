"""The daemon from outside: delivery over kills and outages, stops, refusals."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, name_of, send, wait_until

pytestmark = pytest.mark.broker

APP = """
import json, time
from millstream import App, Sqs

app = App("test")


@app.function(timeout=TIMEOUT)
def handle(event, context):
    time.sleep(PAUSE)
    for record in event["Records"]:
        print(" took " + json.loads(record["body"])["id"])


app.map(Sqs(QUEUE, batch_size=10, maximum_concurrency=5), to=handle)
"""


def app(url: str, pause_s: float = 0.0) -> str:
    return app_of(name_of(url), pause_s)


def app_of(queue: str, pause_s: float = 0.0) -> str:
    text = APP.replace("QUEUE", repr(queue)).replace("PAUSE", str(pause_s))
    return text.replace("TIMEOUT", str(5 + int(pause_s)))


def test_messages_go_through_and_the_daemon_stops_cleanly(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    url = ministack.queue(VisibilityTimeout="10")
    send(ministack, url, 0, 100)
    daemon.start(app(url))
    wait_until("all are handled", lambda: len(daemon.handled()) == 100)
    wait_until("all are settled", lambda: daemon.status()["delivered"] == 100)
    assert daemon.stop() == 0
    assert set(daemon.handled().values()) == {1}
    assert not (daemon.data / "control.sock").exists()


def test_nothing_is_lost_when_the_daemon_is_killed_again_and_again(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    """Duplicates are at most what was in flight at each kill: five batches of ten."""
    url = ministack.queue(VisibilityTimeout="5")
    send(ministack, url, 0, 1000)
    recorded = f"file://{daemon.folder}/done.jsonl"
    daemon.start(app(url, 0.02).replace("to=handle", f"to=handle, on_success={recorded!r}"))
    kills = 5
    chance = random.Random(7)
    for kill in range(kills):
        goal = (kill + 1) * 120 + chance.randrange(40)
        wait_until("it works", lambda goal=goal: sum(daemon.recorded().values()) >= goal)
        daemon.kill()
        daemon.start()
    wait_until("all are handled", lambda: len(daemon.recorded()) == 1000, 90.0)
    duplicates = sum(daemon.recorded().values()) - 1000
    assert duplicates <= kills * 5 * 10
    uuids = {mapping["row"]["uuid"] for mapping in daemon.mappings() or []}
    assert len(uuids) == 1
    assert daemon.stop() == 0


def test_a_soft_stop_finishes_what_is_in_flight(daemon: RunningDaemon, ministack: Ministack) -> None:
    url = ministack.queue(VisibilityTimeout="10")
    send(ministack, url, 0, 10)
    daemon.start(app(url, 2.0))
    wait_until(
        "a batch is in flight", lambda: (daemon.mappings() or [{}])[0].get("status", {}).get("received")
    )
    assert daemon.stop() == 0
    assert set(daemon.handled().values()) == {1}
    assert "drained=True" in daemon.text()


def test_a_second_signal_stops_at_once(daemon: RunningDaemon, ministack: Ministack) -> None:
    url = ministack.queue(VisibilityTimeout="60")
    send(ministack, url, 0, 10)
    daemon.start(app(url, 45.0))
    wait_until(
        "a batch is in flight", lambda: (daemon.mappings() or [{}])[0].get("status", {}).get("received")
    )
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    wait_until("it drains", lambda: "daemon stops" in daemon.text())
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(30.0) == 5


def test_a_second_daemon_on_the_same_data_directory_is_refused(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    url = ministack.queue(VisibilityTimeout="10")
    daemon.start(app(url))
    daemon.started()
    second = subprocess.run(
        [
            sys.executable,
            "-m",
            "millstream",
            "run",
            str(daemon.folder / "app.py"),
            "--data-dir",
            str(daemon.data),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 3
    assert daemon.process is not None
    assert second.stderr.splitlines()[-1] == (
        f"error: {daemon.data}: another daemon (process {daemon.process.pid}) runs on it"
    )


def test_an_endpoint_that_is_down_at_start_is_waited_for(tmp_path: Path, own_ministack: Ministack) -> None:
    own_ministack.stop()
    daemon = RunningDaemon(tmp_path, own_ministack.endpoint_url)
    try:
        daemon.start(app_of("late"))
        daemon.started()
        wait_until("it says so", lambda: "source unavailable" in daemon.text())
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)  # or it might ask before the queue is there
        own_ministack.start()
        sqs = own_ministack.client("sqs")
        url = sqs.create_queue(QueueName="late", Attributes={"VisibilityTimeout": "10"})["QueueUrl"]
        daemon.process.send_signal(signal.SIGCONT)
        send(own_ministack, url, 0, 20)
        wait_until("it comes back", lambda: len(daemon.handled()) == 20)
        assert daemon.stop() == 0
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


def test_a_missing_queue_is_a_problem_of_its_mapping_alone_until_it_is_there(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    url = ministack.queue(VisibilityTimeout="10")
    send(ministack, url, 0, 10)
    missing = f"late-{uuid.uuid4().hex}"
    daemon.start(app(url) + f"\napp.map(Sqs({missing!r}), to=handle)\n")
    wait_until("the other one works", lambda: len(daemon.handled()) == 10)
    states = {m["row"]["source"]: m["status"] for m in daemon.mappings() or []}
    assert states[missing]["state"] == "Creating"
    assert states[missing]["state_reason"] == f"PROBLEM: no queue {missing!r}"
    assert states[name_of(url)]["state"] == "Enabled"
    created = ministack.client("sqs").create_queue(QueueName=missing, Attributes={"VisibilityTimeout": "10"})
    send(ministack, created["QueueUrl"], 10, 5)
    wait_until("it works as well", lambda: len(daemon.handled()) == 15)
    assert daemon.stop() == 0


def test_a_visibility_timeout_below_the_functions_timeout_is_a_problem_that_names_both(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    url = ministack.queue(VisibilityTimeout="2")
    daemon.start(app(url))
    wait_until(
        "it has a problem",
        lambda: (
            "PROBLEM"
            in (daemon.mappings() or [{"status": {"state_reason": ""}}])[0]["status"]["state_reason"]
        ),
    )
    reason = daemon.status()["state_reason"]
    assert "5" in reason
    assert "2" in reason


def test_poison_messages_reach_the_destination_and_the_others_are_handled(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    url = ministack.queue(VisibilityTimeout="5")
    failed = ministack.queue()
    sqs = ministack.client("sqs")
    arn = sqs.get_queue_attributes(QueueUrl=failed, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    source = app(url).replace("batch_size=10,", "report_batch_item_failures=True, maximum_retry_attempts=0,")
    source = source.replace("to=handle", f"to=handle, on_failure={arn!r}")
    source = source.replace("    for record", "    bad = []\n    for record")
    source = source.replace(
        '        print(" took "',
        '        if json.loads(record["body"])["id"] == "3":\n'
        '            bad.append({"itemIdentifier": record["messageId"]})\n'
        '            continue\n        print(" took "',
    )
    source = source.replace("\n\n\napp.map", '\n    return {"batchItemFailures": bad}\n\n\napp.map')
    send(ministack, url, 0, 10)
    daemon.start(source)
    wait_until("nine are handled", lambda: len(daemon.handled()) == 9)
    record = wait_until("the record is there", lambda: sqs.receive_message(QueueUrl=failed).get("Messages"))
    document = json.loads(record[0]["Body"])
    assert document["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert document["responseContext"]["functionError"] is None
    event = json.loads(document["payload"])
    assert [json.loads(r["body"])["id"] for r in event["Records"]] == ["3"]
    assert daemon.stop() == 0


def test_a_read_only_data_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from millstream import App\napp = App('x')\n")
    done = subprocess.run(
        [sys.executable, "-m", "millstream", "run", str(tmp_path / "app.py"), "--data-dir", "/proc/nowhere"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: /proc/nowhere: wanted a directory that can be written, found: ")
