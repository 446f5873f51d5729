"""A function's log as AWS's Python runtime writes it: records, errors, and streams that hold nothing back.

Sources: AWS, "Using structured JSON logs with Python"; awslambdaric 4.2.2.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import time
import traceback
from typing import Any

from .encoding import encode

JSON_TIME = "%Y-%m-%dT%H:%M:%SZ"
TEXT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
TEXT_TIME = "%Y-%m-%dT%H:%M:%S"
NBSP = "\u00a0"
LINE_END = "\r"
"""Between the lines of one error, which is one record."""

NO_EXTRAS = frozenset({
    "args", "created", "exc_info", "exc_text", "filename", "funcName", "levelname", "levelno", "lineno",
    "module", "msecs", "msg", "name", "pathname", "process", "processName", "relativeCreated", "stack_info",
    "thread", "threadName", "aws_request_id", "tenant_id",
})  # fmt: skip
"""Fields of a log record; all others are those that the function gave as `extra`."""


class Unbuffered(io.TextIOWrapper):
    """A stream whose every piece is written at once: a function may end at any time."""

    def write(self, text: str, /) -> int:
        count = super().write(text)
        self.flush()
        return count


class RequestId(logging.Filter):
    """Puts the id of the current request on each log record."""

    aws_request_id = ""

    def filter(self, record: logging.LogRecord) -> bool:
        record.aws_request_id = self.aws_request_id
        record.tenant_id = None
        return True


class _ToStandardOutput(logging.Handler):
    """Writes to what `sys.stdout` is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object for each record."""

    def __init__(self) -> None:
        super().__init__(datefmt=JSON_TIME)

    def format(self, record: logging.LogRecord) -> str:
        record.levelno = min(max(record.levelno, logging.NOTSET), logging.CRITICAL) // 10 * 10
        record.levelname = logging.getLevelName(record.levelno)
        is_document = isinstance(record.msg, dict) and not record.args
        kind, error, trace = record.exc_info or (None, None, None)
        raised = kind is not None
        document: dict[str, Any] = {
            "timestamp": self.formatTime(record, self.datefmt),
            "level": record.levelname,
            "message": record.msg if is_document else record.getMessage(),
            "logger": record.name,
            "stackTrace": traceback.format_tb(trace) if raised else None,
            "errorType": kind.__name__ if kind is not None else None,
            "errorMessage": str(error) if raised else None,
            "requestId": getattr(record, "aws_request_id", None),
            "location": f"{record.pathname}:{record.funcName}:{record.lineno}" if raised else None,
        }
        for key, value in vars(record).items():
            if key not in NO_EXTRAS:
                document.setdefault(key, value)
        told = {key: value for key, value in document.items() if value is not None}
        return json.dumps(told, ensure_ascii=False, default=str) + "\n"


def open_streams() -> None:
    """Make standard output and standard error of this process's own descriptors."""
    sys.stdout = Unbuffered(open(1, "wb", closefd=False), "utf-8", "replace")
    sys.stderr = Unbuffered(open(2, "wb", closefd=False), "utf-8", "replace")


def set_up() -> RequestId:
    """Have the root logger write as the function's logging configuration says; where ids are set."""
    requests = RequestId()
    logging.Formatter.converter = time.gmtime
    handler = _ToStandardOutput()
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    level = "DEBUG" if level == "TRACE" else level
    if level in logging.getLevelNamesMapping():
        logging.getLogger().setLevel(level)
    handler.setFormatter(JsonFormatter() if _logs_json() else logging.Formatter(TEXT, TEXT_TIME))
    handler.addFilter(requests)
    logging.getLogger().addHandler(handler)
    return requests


def write_error(document: dict[str, Any]) -> None:
    """Log an error document: as an `[ERROR]` block, or as one JSON record."""
    text = _json_error(document) if _logs_json() else LINE_END.join(_error_lines(document))
    with contextlib.suppress(Exception):  # the function may have closed or replaced it
        sys.stdout.write(f"{text}\n")


def _json_error(document: dict[str, Any]) -> str:
    at = time.strftime(JSON_TIME, logging.Formatter.converter(time.time()))
    return encode({"timestamp": at, "level": "ERROR", **document}).decode()


def _error_lines(document: dict[str, Any]) -> list[str]:
    """Frames are indented with no-break spaces."""
    kind, message = document["errorType"], document["errorMessage"]
    first = "[ERROR]" + (f" {kind}" if kind else "")
    if message:
        first += f"{':' if kind else ''} {message}"
    lines = [first, "Traceback (most recent call last):"]
    for frame in document["stackTrace"]:
        for line in frame.splitlines() or [""]:
            text = line.lstrip(" ")
            lines.append(NBSP * (len(line) - len(text)) + text)
    return lines


def _logs_json() -> bool:
    return os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
