"""A local file as a destination: the kit, and what is left when a write fails."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from millstream.contract.errors import DestinationUnavailable, Refused
from millstream.contract.ports import InvocationRecord
from millstream.destinations import file
from millstream.destinations.file import FileDestination
from tests.contract.destinations_kit import AWKWARD, DestinationsKit, Target, host, record_of


class FileSide(Target):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "in" / "failed.jsonl"
        self.path.parent.mkdir()
        self.options = {"target": f"file://{self.path}"}
        self.missing = {"kind": "file", "target": f"file://{folder}/none/failed.jsonl"}

    def read(self, count: int) -> Sequence[bytes]:
        return self.path.read_bytes().splitlines()

    def die(self) -> None:
        shutil.rmtree(self.path.parent)


@pytest.fixture
def target(tmp_path: Path) -> FileSide:
    return FileSide(tmp_path)


class TestFile(DestinationsKit):
    bad_options: Sequence[tuple[str, object]] = (
        ("target", "file:"),
        ("target", "file:///"),
        ("target", "file://elsewhere/failed.jsonl"),
        ("target", "failed.jsonl"),
        ("target", "file:a\0b"),
        ("target", 7),
        ("mode", "w"),
    )

    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return FileSide(tmp_path)


async def deliver(target: FileSide, *records: InvocationRecord) -> None:
    destination = FileDestination.parse(target.options)
    await destination.open(host(target))
    try:
        for record in records:
            await destination.deliver(record)
    finally:
        await destination.aclose()


async def test_a_relative_path_starts_at_the_current_folder(
    tmp_path: Path, target: FileSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target.options = {"target": "file:here is 100%.jsonl"}
    await deliver(target, AWKWARD)
    assert (tmp_path / "here is 100%.jsonl").read_bytes() == AWKWARD.body + b"\n"


async def test_escapes_of_a_file_url_are_undone(tmp_path: Path, target: FileSide) -> None:
    target.options = {"target": f"file://{tmp_path}/a%20b.jsonl"}
    await deliver(target, AWKWARD)
    assert (tmp_path / "a b.jsonl").exists()


async def test_the_file_is_its_owners_alone(target: FileSide) -> None:
    await deliver(target, AWKWARD)
    assert target.path.stat().st_mode & 0o777 == 0o600


async def test_a_record_of_several_lines_becomes_one(target: FileSide) -> None:
    pretty = msgspec.json.format(AWKWARD.body, indent=2).replace(b"\n", b"\r\n")
    await deliver(target, _with(pretty))
    (line,) = target.read(1)
    assert msgspec.json.decode(line) == msgspec.json.decode(AWKWARD.body)


async def test_half_a_record_that_a_crash_left_is_cut_off(target: FileSide) -> None:
    target.path.write_bytes(b'{"whole":1}\n{"requestContext":{"requ' + b"x" * 200_000)
    await deliver(target, AWKWARD)
    assert target.read(2) == [b'{"whole":1}', AWKWARD.body]


async def test_a_whole_record_without_its_line_end_is_given_one(target: FileSide) -> None:
    target.path.write_bytes(b'{"whole":1}\n{"whole":2}')
    await deliver(target, AWKWARD)
    assert target.read(3) == [b'{"whole":1}', b'{"whole":2}', AWKWARD.body]


async def test_what_is_no_record_of_ours_is_left_alone(target: FileSide) -> None:
    target.path.write_bytes(b"notes, line 1\nline 2")
    await deliver(target, AWKWARD)
    assert target.read(3) == [b"notes, line 1", b"line 2", AWKWARD.body]


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process may grow beyond this size; longer writes are cut short, as on a full disk.

    Not for longer than a delivery takes: the runner's own output may be a file too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_record_that_does_not_fit_leaves_nothing_behind(target: FileSide) -> None:
    first, second = record_of({"pad": "x" * 1000}), record_of({"pad": "y" * 4096})
    with small_files(4096), pytest.raises(DestinationUnavailable):
        await deliver(target, first, second)
    assert target.path.read_bytes() == first.body + b"\n"


async def test_a_record_that_is_not_synced_leaves_nothing_behind(
    target: FileSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver(target, AWKWARD)

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    destination = FileDestination.parse(target.options)
    await destination.open(host(target))
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(DestinationUnavailable, match="Input/output error"):
        await destination.deliver(AWKWARD)
    await destination.aclose()
    assert target.read(1) == [AWKWARD.body]


async def test_two_destinations_may_share_a_file(target: FileSide) -> None:
    records = [record_of({"number": number, "pad": "x" * 50_000}) for number in range(40)]
    async with asyncio.TaskGroup() as group:
        group.create_task(deliver(target, *records[:20]))
        group.create_task(deliver(target, *records[20:]))
    assert sorted(target.read(40)) == sorted(record.body for record in records)


async def test_a_writer_that_holds_the_file_is_not_waited_for_for_ever(
    target: FileSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "LOCKED_S", 0.05)
    destination = FileDestination.parse(target.options)
    await destination.open(host(target))
    with target.path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DestinationUnavailable):
            await destination.deliver(AWKWARD)
    await destination.deliver(AWKWARD)
    await destination.aclose()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_only_a_regular_file_is_taken(target: FileSide, make: object) -> None:
    assert callable(make)
    make(target.path)
    with pytest.raises(Refused, match="cannot be appended to"):
        await deliver(target, AWKWARD)


async def test_a_file_that_another_writer_holds_at_open_is_asked_for_again(
    target: FileSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "LOCKED_S", 0.05)
    with target.path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DestinationUnavailable):
            await deliver(target, AWKWARD)


async def test_a_path_that_the_host_cannot_say_is_a_fault(target: FileSide) -> None:
    target.options = {"target": f"{target.options['target']}\ud83d"}
    with pytest.raises(DestinationUnavailable):
        await deliver(target, AWKWARD)


def _with(body: bytes) -> InvocationRecord:
    return InvocationRecord(body, AWKWARD.function_arn, False, "m", "p", "r", AWKWARD.written_at)
