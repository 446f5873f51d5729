"""A daemon as a user runs it: `millstream run` in a process of its own, on a real SQS endpoint."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream.daemon import data_dir
from millstream.daemon.control import NoDaemon, Request, ask
from tests.brokers.ministack import Ministack

WITHIN_S = 60.0


def wait_until(what: str, holds: Any, within_s: float = WITHIN_S) -> Any:
    """What `holds()` answers once it is true; its state is in other processes, which give no signal."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if answer := holds():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s:g} s: {what}")


class RunningDaemon:
    """One `millstream run`, restartable on the same data directory."""

    def __init__(self, folder: Path, endpoint_url: str) -> None:
        self.folder = folder
        self.endpoint_url = endpoint_url
        self.data = folder / ".millstream"
        self.log = folder / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, app: str | None = None, *options: str) -> None:
        if app is not None:
            (self.folder / "app.py").write_text(app, encoding="utf-8")
        command = [sys.executable, "-m", "millstream", "run", str(self.folder / "app.py")]
        command += ["--endpoint-url", self.endpoint_url, "--data-dir", str(self.data), *options]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)

    def started(self) -> None:
        wait_until("the daemon answers", lambda: self.mappings() is not None)

    def mappings(self) -> list[dict[str, Any]] | None:
        """What it says of its mappings. None: it does not answer."""
        try:
            found: list[dict[str, Any]] = ask(
                data_dir.control_socket(self.data), Request("mappings", backlog=False)
            )["mappings"]
        except NoDaemon:
            return None
        return found

    def status(self) -> dict[str, Any]:
        found = self.mappings()
        assert found is not None
        status: dict[str, Any] = found[0]["status"]
        return status

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WITHIN_S)

    def handled(self, function: str = "handle") -> Counter[str]:
        """How often each message's id was printed by the function."""
        log = data_dir.logs(self.data) / f"{function}.log"
        if not log.exists():
            return Counter()
        lines = log.read_text(encoding="utf-8").splitlines()
        return Counter(line.split(" took ", 1)[1] for line in lines if " took " in line)

    def recorded(self) -> Counter[str]:
        """How often each id is in the on-success file, which is synced before messages are deleted."""
        file = self.folder / "done.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        events = [json.loads(line)["requestPayload"] for line in lines if line.endswith("}")]
        return Counter(json.loads(record["body"])["id"] for event in events for record in event["Records"])

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")


@pytest.fixture
def daemon(tmp_path: Path, ministack: Ministack) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path, ministack.endpoint_url)
    yield running
    if running.process is not None and running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def send(ministack: Ministack, url: str, first: int, count: int) -> None:
    """Messages whose bodies are `{"id": "N"}`."""
    sqs = ministack.client("sqs")
    for start in range(first, first + count, 10):
        entries = [
            {"Id": str(n), "MessageBody": json.dumps({"id": str(n)})}
            for n in range(start, min(start + 10, first + count))
        ]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    with contextlib.suppress(AttributeError):
        sqs.close()


def name_of(url: str) -> str:
    return os.path.basename(url)
