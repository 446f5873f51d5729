"""A data directory without room: said once for each thing, and no message waits for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers.ministack import Ministack
from tests.daemon.conftest import name_of, send, wait_until

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(
        shutil.which("unshare") is None, reason="needs unshare of util-linux, to mount a small disk"
    ),
]

APP = """
from millstream import App, Sqs

app = App("full")


@app.function
def handle(event, context):
    for record in event["Records"]:
        print("x" * 20000)


app.map(Sqs(QUEUE), to=handle)
"""


def test_a_full_data_directory_stops_no_delivery(tmp_path: Path, ministack: Ministack) -> None:
    url = ministack.queue(VisibilityTimeout="5")
    send(ministack, url, 0, 400)
    (tmp_path / "app.py").write_text(APP.replace("QUEUE", repr(name_of(url))))
    mount = 'mkdir data && mount -t tmpfs -o size=2m tmpfs data && exec "$@"'
    run = [sys.executable, "-m", "millstream", "run", "app.py", "--data-dir", "data"]
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    log = tmp_path / "daemon.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*namespace, "sh", "-c", mount, "sh", *run, "--endpoint-url", ministack.endpoint_url],
            cwd=tmp_path,
            stdout=out,
            stderr=out,
        )
    sqs = ministack.client("sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

    def empty() -> bool:
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return all(found[name] == "0" for name in names)

    try:
        wait_until("the queue is empty", empty)
        wait_until("it says so", lambda: "counters not written" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert text.count("function log not written") == 1
    assert text.count("counters not written") == 1
    assert "Traceback" not in text
