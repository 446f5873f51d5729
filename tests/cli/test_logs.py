"""`millstream logs`, where the function has written what a terminal obeys."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

WRITTEN = (
    b"2026-01-01T00:00:00.000Z ab12 \x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\ttab "
    + "\x9b31m \u202etxt ".encode()
    + b"\xff\n"
)
SHOWN = (
    "2026-01-01T00:00:00.000Z ab12 "
    r"\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m"
    "\ttab "
    r"\x9b31m \u202etxt "
    "\ufffd"
)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "f.log").write_bytes(WRITTEN)
    return [sys.executable, "-m", "millstream", "logs", "f", "--data-dir", str(tmp_path)]


def on_a_terminal(command: list[str]) -> bytes:
    """Run a program on a terminal, and return what it prints."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, check=True, timeout=60.0)
        return os.read(ours, 65536).replace(b"\r\n", b"\n")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_terminal_obeys_no_function(command: list[str]) -> None:
    assert on_a_terminal(command).decode() == SHOWN + "\n"


def test_neither_does_what_a_pipe_leads_to(command: list[str]) -> None:
    assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == SHOWN + "\n"


def test_raw_is_as_it_was_written(command: list[str]) -> None:
    assert subprocess.run([*command, "--raw"], capture_output=True, check=True).stdout == WRITTEN
    assert on_a_terminal([*command, "--raw"]) == WRITTEN
