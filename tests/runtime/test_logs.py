"""The functions' logs: how much of the disk they take, how old they become, and lines as JSON."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.runtime import log_stream
from millstream.runtime.log_files import MB, LogLimits, old_files, remove_old, rotate
from millstream.runtime.log_stream import JsonLines
from millstream.runtime.logs import FunctionLogs

DAY_S = 86400.0


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("most", [64 * 1024, 256 * 1024])
async def test_the_log_of_a_function_keeps_to_its_size_and_to_its_newest_lines(
    tmp_path: Path, most: int
) -> None:
    logs = FunctionLogs(tmp_path, LogLimits(most))
    for number in range(5000):
        logs.of("f").write("ab", f"{number} " + "x" * 500)
        if number % 20 == 0:
            logs.flush()
    logs.close()
    assert most / 4 < size_bytes(tmp_path) < most * 1.5
    files = [
        *reversed([path for _, path in sorted(old_files(tmp_path / "f.log").items())]),
        tmp_path / "f.log",
    ]
    numbers = [
        int(line.split()[2]) for path in files if path.exists() for line in path.read_text().splitlines()
    ]
    assert numbers == list(range(numbers[0], 5000))


def test_a_larger_limit_keeps_more_old_files(tmp_path: Path) -> None:
    path = tmp_path / "f.log"
    limits = LogLimits(50 * MB)
    for number in range(8):
        with path.open("wb") as file:
            file.truncate(limits.file_bytes + 1)
        os.utime(path, (number, number))
        rotate(path, limits)
    assert [old.stat().st_mtime for _, old in sorted(old_files(path).items())] == [7.0, 6.0, 5.0, 4.0]


def test_files_of_other_names_are_nobodys_old_ones(tmp_path: Path) -> None:
    for name in ("f.log.1", "f.log.2", "ff.log.1", "f.log.x", "f.log.1.gz"):
        (tmp_path / name).touch()
    assert sorted(old_files(tmp_path / "f.log")) == [1, 2]


@given(st.floats(0.1, 100), st.integers(0, 10**9))
def test_a_file_is_full_by_its_size_or_after_a_part_of_the_age(days: float, size: int) -> None:
    limits = LogLimits(max_age_s=days * DAY_S)
    assert limits.is_full(size, 0.0) is (size > limits.file_bytes)
    assert limits.is_full(0, max(days * DAY_S / 5, 7200.0))
    assert not LogLimits().is_full(0, days * DAY_S * 1000)


def test_a_file_is_as_old_as_its_first_line_whoever_has_written_it(tmp_path: Path) -> None:
    path = tmp_path / "f.log"
    limits = LogLimits()
    path.write_text("2026-01-01T00:00:00.000Z ab one\n2026-01-02T00:00:00.000Z ab two\n")
    assert limits.began_at(path, time.time() + 10**9) == 1767225600.0
    for text in ("", "no time\n", "\xff" * 30):
        path.write_text(text)
        assert limits.began_at(path, 5.0) == 5.0


async def test_old_files_are_removed_those_of_functions_that_are_no_more_as_well(tmp_path: Path) -> None:
    for name, days in {"gone.log": 8, "gone.log.1": 9, "f.log.2": 8, "f.log.1": 6, "note.txt": 99}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - days * DAY_S,) * 2)
    logs = FunctionLogs(tmp_path, LogLimits(max_age_s=7 * DAY_S))
    logs.of("f").write("ab", "new")
    logs.close()
    assert set(os.listdir(tmp_path)) == {"f.log", "f.log.1", "note.txt"}


def test_nothing_is_too_old_without_a_limit(tmp_path: Path) -> None:
    (tmp_path / "f.log").touch()
    os.utime(tmp_path / "f.log", (0, 0))
    assert remove_old(tmp_path, LogLimits(), time.time()) == 0


async def test_lines_go_to_a_stream_as_json(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb", buffering=0) as out:
        logs = FunctionLogs(None, also=JsonLines(out.fileno()))
        logs.of("f").write("ab12", "größer \x1b[31m\u202e\ttab")
        logs.of("g").write("cd34", "two")
        logs.close()
    text = (tmp_path / "out").read_text()
    first, second = map(json.loads, text.splitlines())
    assert set(first) == {"time", "function", "stream", "message"}
    assert (first["function"], first["stream"]) == ("f", "ab12")
    assert first["message"] == "größer \x1b[31m\u202e\ttab"
    assert second["message"] == "two"
    assert all(line.isprintable() for line in text.splitlines())
    assert os.listdir(tmp_path) == ["out"]


async def test_a_stream_that_nobody_reads_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_stream, "QUEUE_LINES", 100)
    monkeypatch.setattr(log_stream, "CLOSE_S", 0.1)
    read, write = os.pipe()
    try:
        logs = FunctionLogs(None, also=JsonLines(write))
        began_at = time.monotonic()
        for _ in range(1000):
            logs.of("f").write("ab", "x" * 1000)
        logs.close()
        assert time.monotonic() - began_at < 5.0
        assert caplog.records[0].message == "function logs dropped, nobody reads them fast enough"
        assert caplog.records[-1].message == "function logs dropped, nobody reads them"
    finally:
        os.close(read)  # its thread ends with that
        os.close(write)
