"""RabbitMQ queues for the tests of whole daemons, and what became of their messages."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path

APP = """
import base64, json, time
from millstream import App, RabbitMq, RabbitMqStream

app = App("test")


@app.function(timeout=10)
def handle(event, context):
    (messages,) = event["rmqMessagesByQueue"].values()
    numbers = [int(base64.b64decode(message["data"])) for message in messages]
    time.sleep({takes_s})
    {body}


app.map({source}("{queue}", {options}), to=handle, on_success="{done}", {more})
"""


def app(
    folder: Path,
    queue: str,
    options: str = "",
    *,
    source: str = "RabbitMq",
    takes_s: float = 0.0,
    body: str = "pass",
    more: str = "",
) -> str:
    """An app that maps a queue to a function; what it took is in `done.jsonl`. No login stands in it."""
    return APP.format(
        source=source,
        queue=queue,
        options=options,
        takes_s=takes_s,
        done=(folder / "done.jsonl").as_uri(),
        body=body,
        more=more,
    )


def numbers(count: int) -> list[bytes]:
    """Bodies of messages: their numbers from 0 on."""
    return [b"%d" % number for number in range(count)]


class Taken:
    """The numbers that a function took, from its growing `done.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "done.jsonl"
        self._read = 0  # bytes
        self._numbers: list[int] = []

    def numbers(self) -> list[int]:
        """All of them, in the order of the file; what was read before is not read again."""
        if not self._file.exists():
            return []
        with self._file.open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                if not line.endswith(b"}\n"):
                    break  # being written
                self._read += len(line)
                self._numbers += numbers_of(json.loads(line)["requestPayload"])
        return self._numbers

    def repeated(self) -> int:
        """How many deliveries there were beyond the first of each message."""
        return sum(count - 1 for count in Counter(self.numbers()).values())


def numbers_of(event: dict[str, dict[str, list[dict[str, str]]]]) -> list[int]:
    """The numbers of an event's messages."""
    (messages,) = event["rmqMessagesByQueue"].values()
    return [int(base64.b64decode(message["data"])) for message in messages]
