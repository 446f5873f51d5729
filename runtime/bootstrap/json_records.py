"""Log records of a function as JSON. Standard library only."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

JSON_TIME = "%Y-%m-%dT%H:%M:%SZ"

STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"aws_request_id", "tenant_id"}
"""Of a log record; all others are what the function gave as `extra`."""


class JsonFormatter(logging.Formatter):
    """One JSON object for each record. Source: AWS, "Using structured JSON logs with Python"."""

    def __init__(self) -> None:
        super().__init__(datefmt=JSON_TIME)

    def format(self, record: logging.LogRecord) -> str:
        level = min(max(record.levelno, logging.NOTSET), logging.CRITICAL) // 10 * 10
        is_document = isinstance(record.msg, dict) and not record.args
        document: dict[str, Any] = {
            "timestamp": self.formatTime(record, self.datefmt),
            "level": logging.getLevelName(level),
            "message": record.msg if is_document else record.getMessage(),
            "logger": record.name,
        }
        kind, error, trace = record.exc_info or (None, None, None)
        if kind is not None:
            document["stackTrace"] = traceback.format_tb(trace)
            document["errorType"] = kind.__name__
            document["errorMessage"] = str(error)
        document["requestId"] = getattr(record, "aws_request_id", "")
        if kind is not None:
            document["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
        for key, value in vars(record).items():
            if key not in STANDARD_FIELDS and value is not None:
                document.setdefault(key, value)
        return json.dumps(document, ensure_ascii=False, default=str)
