"""`millstream demo`: an AWS endpoint on loopback, two mappings, a live table, a count of every message."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
import msgspec
from rich.console import Console
from rich.live import Live

from millstream.cli.embedded import aws_endpoint, daemon_process
from millstream.cli.tables import console, mappings_table
from millstream.contract.errors import MillstreamError
from millstream.daemon import data_dir
from millstream.daemon.control import NoDaemon, Request, ask
from millstream.daemon.serve import ExitCode

DEADLINE_S = 180.0
"""The demo gives up waiting for messages after this long."""

POISON_EVERY = 50
"""One order in so many cannot be processed."""

VISIBILITY_S = 2
"""Visibility timeout of the demo's queues: a poison message comes back this soon."""

APP = '''
import json
from millstream import App, Function, Sqs

app = App("demo")


@app.function(timeout=2)
def orders(event, context):
    """Books orders; reports those that it cannot book."""
    failed = []
    for record in event["Records"]:
        order = json.loads(record["body"])
        if order["quantity"] < 0:
            failed.append({"itemIdentifier": record["messageId"]})
        else:
            print(f"booked {order['id']}")
    return {"batchItemFailures": failed}


app.map(
    Sqs("orders", report_batch_item_failures=True, maximum_retry_attempts=1),
    to=orders,
    on_failure=FAILED_ARN,
)
app.map(
    Sqs("images", batch_size=100, batching_window=1),
    to=Function("thumbnails", handler="thumbnails.handle", code="thumbnails", timeout=2, memory_size=256),
)
'''

THUMBNAILS = '''
import json


def handle(event, context):
    """Makes thumbnails of a batch of images."""
    for record in event["Records"]:
        image = json.loads(record["body"])
        print(f"thumbnail of {image['id']}")
'''


@dataclass(slots=True)
class Tally:
    """What became of the messages. `delivered` ones reached a function that took them."""

    sent: int = 0
    delivered: int = 0
    duplicates: int = 0
    lost: int = 0
    failed_to_destination: int = 0
    seconds: float = 0.0


def run_demo(messages: int, as_json: bool, isolation: str) -> ExitCode:
    """Send messages, watch them, count them; an exit status.

    Raises:
        MillstreamError: the endpoint or the daemon does not start.
    """
    out = console(to_stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="millstream-demo-") as folder:
        directory = Path(folder)
        directory.chmod(0o755)
        with aws_endpoint(directory / "aws.log") as endpoint_url:
            out.print(f"AWS endpoint on {endpoint_url}, app in {directory / 'app.py'}")
            demo = _Demo(directory, endpoint_url, messages)
            demo.prepare()
            with daemon_process(directory / "app.py", endpoint_url, "--isolation", isolation) as daemon:
                tally = demo.watch(out, daemon)
    _summarise(tally, out)
    if as_json:
        print(json.dumps(asdict(tally)), flush=True)
    return ExitCode.FAILED if tally.lost else ExitCode.OK


class _Demo:
    def __init__(self, directory: Path, endpoint_url: str, messages: int) -> None:
        self._directory = directory
        self._messages = messages
        self._sqs: Any = boto3.session.Session().client("sqs", endpoint_url=endpoint_url)
        self._failed: list[str] = []
        self._queues: dict[str, str] = {}
        self._expected: dict[str, set[str]] = {"orders": set(), "images": set(), "failed": set()}

    def prepare(self) -> None:
        """Queues, code, and the app file."""
        for name in ("orders", "images", "failed"):
            attributes = {"VisibilityTimeout": str(VISIBILITY_S)}
            url = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
            self._queues[name] = url
        attributes = self._sqs.get_queue_attributes(
            QueueUrl=self._queues["failed"], AttributeNames=["QueueArn"]
        )
        arn = attributes["Attributes"]["QueueArn"]
        (self._directory / "app.py").write_text(APP.replace("FAILED_ARN", repr(arn)), encoding="utf-8")
        (self._directory / "thumbnails").mkdir()
        (self._directory / "thumbnails" / "thumbnails.py").write_text(THUMBNAILS, encoding="utf-8")

    def watch(self, out: Console, daemon: subprocess.Popen[bytes]) -> Tally:
        """Send while a table shows what happens; count when all is done or the time is up."""
        socket = data_dir.control_socket(self._directory / ".millstream")
        started_at = time.monotonic()
        sent = self._batches()
        tally = Tally()
        seen: dict[str, list[str]] = {}
        with Live(console=out, refresh_per_second=5, transient=False) as live:
            while time.monotonic() - started_at < DEADLINE_S:
                if daemon.poll() is not None:
                    last = (self._directory / "daemon.log").read_text(encoding="utf-8").splitlines()[-1:]
                    raise MillstreamError(
                        f"daemon: wanted it to run, found: {''.join(last) or 'no word of it'}"
                    )
                tally.sent += next(sent, 0)
                if tally.sent == self._messages:
                    live.update(self._table(socket))
                    seen = self._delivered()
                    if self._done(seen):
                        break
                    time.sleep(0.2)
                elif tally.sent % 200 == 0:
                    live.update(self._table(socket))
            live.update(self._table(socket))
        out.print()
        tally.seconds = round(time.monotonic() - started_at, 2)
        self._count(tally, self._delivered())
        return tally

    def _batches(self) -> Iterator[int]:
        """Sends ten messages at each step."""
        for first in range(0, self._messages, 10):
            queue = "orders" if (first // 10) % 2 == 0 else "images"
            entries = []
            for number in range(first, min(first + 10, self._messages)):
                poison = queue == "orders" and number % POISON_EVERY == 7
                body = json.dumps({"id": f"{queue}-{number}", "quantity": -1 if poison else 1})
                entries.append({"Id": str(number), "MessageBody": body})
                self._expected["failed" if poison else queue].add(f"{queue}-{number}")
            self._sqs.send_message_batch(QueueUrl=self._queues[queue], Entries=entries)
            yield len(entries)

    def _table(self, socket: Path) -> Any:
        try:
            return mappings_table(ask(socket, Request("mappings"))["mappings"])
        except NoDaemon:
            return "starting the daemon"

    def _delivered(self) -> dict[str, list[str]]:
        """Ids by where they ended: what the functions printed, what the destination holds."""
        logs = data_dir.logs(self._directory / ".millstream")
        ended = {
            "orders": _printed(logs / "orders.log", "booked "),
            "images": _printed(logs / "thumbnails.log", "thumbnail of "),
        }
        self._collect_failed()
        return {**ended, "failed": self._failed}

    def _collect_failed(self) -> None:
        """Messages that are in the invocation records of the destination queue."""
        while True:
            url = self._queues["failed"]
            answer = self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
            messages = answer.get("Messages", [])
            if not messages:
                return
            for message in messages:
                event = msgspec.json.decode(msgspec.json.decode(message["Body"])["payload"])
                self._failed += [json.loads(record["body"])["id"] for record in event["Records"]]
                self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def _done(self, seen: dict[str, list[str]]) -> bool:
        return all(expected <= set(seen[name]) for name, expected in self._expected.items())

    def _count(self, tally: Tally, seen: dict[str, list[str]]) -> None:
        taken = seen["orders"] + seen["images"]
        expected = self._expected["orders"] | self._expected["images"]
        tally.delivered = len(expected & set(taken))
        tally.failed_to_destination = len(set(seen["failed"]))
        tally.duplicates = len(taken) - len(set(taken)) + len(seen["failed"]) - len(set(seen["failed"]))
        every = expected | self._expected["failed"]
        tally.lost = len(every - set(taken) - set(seen["failed"]))


def _printed(log: Path, before: str) -> list[str]:
    if not log.exists():
        return []
    with log.open(encoding="utf-8") as lines:
        return [line.split(before, 1)[1].strip() for line in lines if before in line]


def _summarise(tally: Tally, out: Console) -> None:
    out.print(
        f"{tally.sent} sent, {tally.delivered} delivered, {tally.failed_to_destination} poison messages at "
        f"the destination, {tally.duplicates} duplicates, {tally.lost} lost, in {tally.seconds} s"
    )
