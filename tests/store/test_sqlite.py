"""What the SQLite store does where a process dies, another one reads, or the disk refuses."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millstream.contract.errors import StateUnavailable
from millstream.contract.records import Position
from millstream.contract.state import PartitionRow
from millstream.store.migrations import SCHEMA_VERSION, STEPS
from millstream.store.sqlite import SqliteStore
from tests.contract.store_values import OWNER, ROW, STATUS, checkpoint, lease, taken

ROOT = Path(__file__).parents[2]
WITHIN_S = 20.0


def command(program: str, path: Path) -> list[str]:
    return [sys.executable, "-m", "tests.store.writers", program, str(path)]


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that commits cursors and says each; killed at the end."""
    process = subprocess.Popen(command("commit_forever", path), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WITHIN_S)


def said(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


async def stored(path: Path) -> int:
    store = SqliteStore.read_only(path)
    try:
        return int(await store.cursor(lease()) or 0)
    finally:
        await store.aclose()


async def made(path: Path) -> None:
    store = SqliteStore(path)
    await store.put_mapping(ROW)
    await store.aclose()


async def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    last = 0
    for _ in range(3):
        with writer(path) as process:
            for _ in range(20):
                last = said(process)
            process.kill()
            assert process.stdout is not None
            rest = process.stdout.read()  # `communicate` would not see what its buffer holds
            process.wait(WITHIN_S)
        last = int(([str(last), *rest.split()])[-1])
        assert await stored(path) in {last, last + 1}  # committed, and killed before it said so


async def test_another_process_reads_while_the_daemon_writes(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with writer(path) as process:
        said(process)
        store = SqliteStore.read_only(path)
        for _ in range(20):
            number = said(process)
            assert int(await store.cursor(lease()) or 0) >= number
        await store.aclose()


async def test_a_reader_does_not_stop_the_daemon_from_writing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    await store.put_mapping(ROW)
    held = await taken(store)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM mappings").fetchall()
    await store.commit(held, checkpoint("1"))
    assert reader.execute("SELECT position FROM partitions").fetchall() == [(None,)]
    reader.close()
    await store.aclose()


async def test_a_read_only_store_refuses_to_write(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await made(path)
    reader = SqliteStore.read_only(path)
    with pytest.raises(StateUnavailable, match=f"{path}: .*readonly"):
        await reader.put_status(OWNER, [STATUS])
    assert list(await reader.mappings()) == [ROW]
    await reader.aclose()


def test_a_read_only_store_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailable):
        asyncio.run(stored(tmp_path / "state.db"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    store = SqliteStore.read_only(path) if read_only else SqliteStore(path)
    with pytest.raises(StateUnavailable, match=f"{path}: wanted schema .* found 99"):
        await store.mappings()
    await store.aclose()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == []
    other.close()


def first_schema(path: Path) -> None:
    """A database as millstream 0.1 left it."""
    with sqlite3.connect(path) as old:
        old.executescript(STEPS[0])
        old.execute("INSERT INTO mappings VALUES ('u1', 'shop', 'on_order', 'sqs', 'orders', 1, 1000.5)")
        old.execute("INSERT INTO statuses VALUES ('u1', 'Enabled', '', '', 0, 1, 2, 3, 4, 5, 6, 7, 8)")
        old.execute("INSERT INTO cursors VALUES ('u1', 'p', '41', 7), ('u1', 'q', '42', 1)")
        old.execute("PRAGMA user_version = 1")
    old.close()


async def test_mappings_and_cursors_of_the_first_schema_are_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first_schema(path)
    store = SqliteStore(path)
    assert list(await store.mappings()) == [ROW]
    assert list(await store.partitions("u1")) == [
        PartitionRow("p", None, 7, Position("41"), False),
        PartitionRow("q", None, 1, Position("42"), False),
    ]
    assert await store.started_at("u1", 5.0) == 5.0
    held = await taken(store)
    assert (held.epoch, await store.cursor(held)) == (8, "41")
    await store.aclose()


async def test_a_reader_of_an_older_schema_says_what_brings_it_up(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first_schema(path)
    store = SqliteStore.read_only(path)
    with pytest.raises(
        StateUnavailable, match=f"^{path}: wanted schema {SCHEMA_VERSION}, found 1; `millstream run`"
    ):
        await store.mappings()
    await store.aclose()


async def test_several_that_open_an_older_schema_at_once_all_work(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first_schema(path)
    stores = [SqliteStore(path) for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        opened = [group.create_task(store.mappings()) for store in stores]
    assert [list(task.result()) for task in opened] == [[ROW]] * 4
    for store in stores:
        await store.aclose()


async def test_a_lock_of_another_process_is_waited_for_while_the_log_is_switched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first_schema(path)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    store = SqliteStore(path)
    async with asyncio.TaskGroup() as group:
        opened = group.create_task(store.mappings())
        await asyncio.wait({opened}, timeout=0.2)
        assert not opened.done()
        other.close()
    assert list(opened.result()) == [ROW]
    await store.aclose()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_file_that_is_no_database_is_named(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database at all " * 100)
    store = SqliteStore.read_only(path) if read_only else SqliteStore(path)
    with pytest.raises(StateUnavailable, match=f"^{path}: .*file is not a database$"):
        await store.mappings()
    await store.aclose()


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "state.db"
    store = SqliteStore(path)
    with pytest.raises(StateUnavailable, match=f"^{path}: .*unable to open"):
        await store.mappings()
    path.parent.mkdir()
    assert await store.put_mapping(ROW) == ROW
    await store.aclose()


async def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%41ü" / "state.db"
    path.parent.mkdir()
    await made(path)
    assert await stored(path) == 0


def test_a_folder_that_cannot_be_written_is_named_and_can_be_read() -> None:
    folder = Path(tempfile.mkdtemp())  # not below pytest's own, which others may not enter
    path = folder / "state.db"
    try:
        asyncio.run(made(path))
        path.chmod(0o444)
        folder.chmod(0o555)
        run = subprocess.run(
            command("open_as_nobody", path), cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S
        )
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    refusal, read = run.stdout.splitlines() or ("", run.stderr)
    assert refusal.startswith(f"{path}: wanted ")
    assert "readonly" in refusal
    assert read == "True"


def test_a_full_disk_is_said_and_costs_nothing_that_was_written(tmp_path: Path) -> None:
    inside = f'mount -t tmpfs -o size=1m tmpfs "{tmp_path}" && exec "$@"'
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("wanted a user namespace to mount a small disk in, found none")
    path = tmp_path / "state.db"
    run = subprocess.run(
        [*alone, *command("fill_the_disk", path)], cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S
    )
    assert run.stdout.splitlines() == [
        f"{path}: wanted a usable state database, found: database or disk is full",
        "True",
        "True",
    ], run.stderr
