"""Formats of the daemon's own log lines: text and JSON."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from datetime import UTC, datetime
from typing import Literal

from millstream.contract.plain_text import plain, plain_json, shortened, shown

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


MESSAGE_CHARACTERS = 2048
"""Longest message: ours are sentences, but libraries put into theirs whatever they were sent."""

TRACE_CHARACTERS = 16 * 1024


class TextFormatter(logging.Formatter):
    """`06:12:01.123 INFO  mapping changed  mapping=sqs orders → handle  state=Enabled`.

    What others have written begins no line and reaches no terminal: control characters are escaped, values
    are cut. Lines of a traceback are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = _fields(record)
        traces = [str(fields.pop("stack"))] if "stack" in fields else []
        if record.exc_info:
            traces.append(self.formatException(record.exc_info))
        told = "".join(f"  {name}={shown(str(value))}" for name, value in fields.items())
        line = f"{at} {record.levelname:<7} {shown(record.getMessage(), MESSAGE_CHARACTERS)}{told}"
        return "\n".join([line, *map(_indented, traces)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields of the line, within bounds."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": shortened(record.getMessage(), MESSAGE_CHARACTERS),
            **{name: _bounded(value) for name, value in _fields(record).items()},
        }
        if record.exc_info:
            line["exception"] = shortened(self.formatException(record.exc_info), TRACE_CHARACTERS)
        return plain_json(json.dumps(line, default=str, ensure_ascii=False))


def _indented(trace: str) -> str:
    return textwrap.indent(shortened(plain(trace.rstrip(), "\n"), TRACE_CHARACTERS), "    ")


def _bounded(value: object) -> object:
    return shortened(value, TRACE_CHARACTERS) if isinstance(value, str) else value


class _NothingKnown(logging.Filter):
    """Leaves out what asyncio says of each write to a connection that its other end has closed."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "socket.send() raised exception."


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def log_to_stderr(form: Literal["text", "json"], level: str) -> None:
    """Send the project's log lines, and warnings of the libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.getLogger("asyncio").addFilter(_NothingKnown())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("millstream").setLevel(level)
