"""The daemon's own log, where others have written what is in a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime

import pytest

from millstream.daemon import log_lines
from millstream.daemon.log_lines import JsonFormatter, TextFormatter, log_to_stderr

FORGED = "Bad\n23:00:00.000 INFO    function succeeds again  mapping=sqs\x1b]0;title\x07\x9b\u202e"


def record(message: str = "function fails", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("millstream.x", logging.WARNING, "x.py", 1, message, (), None)
    made.__dict__.update(fields)
    return made


@pytest.mark.parametrize("where", ["field", "message"])
def test_a_text_of_others_forges_no_line_and_reaches_no_terminal(where: str) -> None:
    made = record(error=FORGED) if where == "field" else record(FORGED)
    line = TextFormatter().format(made)
    assert line.isprintable()
    assert "\\x0a23:00:00.000" in line


def test_a_long_value_is_cut() -> None:
    line = TextFormatter().format(record(error="E" * 5_000_000))
    assert len(line) < 400
    assert line.endswith("…")


def test_a_traceback_is_indented_and_bounded() -> None:
    try:
        raise ValueError(FORGED + "E" * 100_000)
    except ValueError:
        made = record()
        made.exc_info = sys.exc_info()
    first, *others = TextFormatter().format(made).split("\n")
    assert first.endswith("function fails")
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert sum(map(len, others)) < 2 * log_lines.TRACE_CHARACTERS


def test_a_stack_that_a_line_brings_is_shown_below_it() -> None:
    first, *others = TextFormatter().format(record(stack="one\ntwo\n", seconds=1)).split("\n")
    assert first.endswith("function fails  seconds=1")
    assert others == ["    one", "    two"]


def test_json_lines_hold_the_text_of_others_in_bounds_and_in_escapes() -> None:
    line = JsonFormatter().format(record(error=FORGED + "E" * 5_000_000, partitions=[1, 2]))
    assert line.isprintable()
    told = json.loads(line)
    assert told["error"].startswith(FORGED)
    assert len(told["error"]) <= log_lines.TRACE_CHARACTERS
    assert told["partitions"] == [1, 2]
    assert datetime.fromisoformat(told["time"])


def test_a_connection_whose_other_end_is_gone_is_not_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        log_to_stderr("text", "INFO")
        logging.getLogger("asyncio").warning("socket.send() raised exception.")
        logging.getLogger("asyncio").warning("something else")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("asyncio").filters.clear()
        logging.getLogger("millstream").setLevel(logging.NOTSET)
    told = capsys.readouterr().err
    assert "something else" in told
    assert "socket.send" not in told
