"""Several daemons on one PostgreSQL store: they share the shards, and take over from one another."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.ministack import Ministack
from tests.brokers.postgres import Postgres
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.streams import Recorded, make_stream, out_of_order, put, repeated

pytestmark = pytest.mark.broker

SHARDS = 4
BATCH = 50
TAKEN_OVER_WITHIN_S = 15.0

APP = """
from millstream import App, Kinesis

app = App("shared")


@app.function(timeout=10)
def handle(event, context):
    return None


app.map(
    Kinesis("{stream}", starting_position="TRIM_HORIZON", batch_size={batch}),
    to=handle,
    on_success="{done}",
)
"""


class Fleet:
    """Daemons with a data directory each, one store, one stream, one file of what was delivered."""

    def __init__(self, folder: Path, ministack: Ministack, store: str) -> None:
        self.kinesis: Any = ministack.client("kinesis")
        self.stream = make_stream(self.kinesis, SHARDS)
        self.done = Recorded(folder / "done.jsonl", "requestPayload")
        self.daemons = {name: RunningDaemon(folder / name, ministack.endpoint_url) for name in "ab"}
        self.store = store

    def start(self, name: str) -> RunningDaemon:
        daemon = self.daemons[name]
        daemon.folder.mkdir(exist_ok=True)
        app = APP.format(stream=self.stream, batch=BATCH, done=f"file://{self.done.file}")
        daemon.start(app, "--store", self.store)
        daemon.started()
        return daemon

    def shares(self) -> dict[str, int | None]:
        """How many shards each daemon reads. None: it does not answer."""
        found = {}
        for name, daemon in self.daemons.items():
            mappings = daemon.mappings() if daemon.process is not None else None
            found[name] = None if mappings is None else mappings[0]["status"]["partitions"]
        return found

    def resolved(self) -> int:
        """Records that were delivered, of which both daemons are done with the whole batch."""
        return sum(daemon.status()["delivered"] for daemon in self.daemons.values())

    def resolved_by(self, name: str) -> int:
        """Records that one daemon is done with."""
        return int(self.daemons[name].status()["delivered"])

    def put(self, first: int, count: int) -> None:
        put(self.kinesis, self.stream, first, count)

    def until_delivered(self, count: int, within_s: float = 60.0) -> None:
        wait_until("all are delivered", lambda: len(set(self.done.numbers())) >= count, within_s)


@pytest.fixture
def fleet(tmp_path: Path, ministack: Ministack, postgres: Postgres) -> Iterator[Fleet]:
    made = Fleet(tmp_path, ministack, postgres.database())
    yield made
    for daemon in made.daemons.values():
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.send_signal(signal.SIGCONT)
            daemon.kill()


def test_two_daemons_share_the_shards_and_hand_over_without_a_repetition(fleet: Fleet) -> None:
    fleet.start("a")
    wait_until("a reads all", lambda: fleet.shares()["a"] == SHARDS)
    fleet.put(0, 2000)
    b = fleet.start("b")
    wait_until("both read two", lambda: fleet.shares() == {"a": 2, "b": 2})
    fleet.put(2000, 2000)
    fleet.until_delivered(4000)
    assert b.stop() == 0
    wait_until("a reads all again", lambda: fleet.shares()["a"] == SHARDS, TAKEN_OVER_WITHIN_S)
    fleet.put(4000, 1000)
    fleet.until_delivered(5000)
    assert repeated(fleet.done.numbers()) == 0
    assert out_of_order(fleet.done.numbers()) == {}


def test_the_shards_of_a_killed_daemon_are_taken_over_within_seconds(fleet: Fleet) -> None:
    fleet.start("a")
    b = fleet.start("b")
    wait_until("both read two", lambda: fleet.shares() == {"a": 2, "b": 2})
    fleet.put(0, 4000)
    wait_until("some are delivered", lambda: len(fleet.done.numbers()) > 500)
    b.kill()
    killed_at = time.monotonic()
    wait_until("a reads all", lambda: fleet.shares()["a"] == SHARDS, TAKEN_OVER_WITHIN_S)
    assert time.monotonic() - killed_at < TAKEN_OVER_WITHIN_S
    fleet.until_delivered(4000)
    assert repeated(fleet.done.numbers()) <= 2 * 2 * BATCH


def test_daemons_on_copies_of_one_data_directory_are_told_apart(fleet: Fleet) -> None:
    """A volume's snapshot makes such copies, and so does an image of a running daemon."""
    a = fleet.start("a")
    wait_until("a reads all", lambda: fleet.shares()["a"] == SHARDS)
    fleet.put(0, 1000)
    fleet.until_delivered(1000)
    fleet.daemons["b"].folder.mkdir()
    shutil.copytree(a.data, fleet.daemons["b"].data, ignore=shutil.ignore_patterns("*.sock", "sandboxes"))
    fleet.start("b")
    wait_until("both read two", lambda: fleet.shares() == {"a": 2, "b": 2}, TAKEN_OVER_WITHIN_S)
    fleet.put(1000, 3000)
    fleet.until_delivered(4000)
    assert fleet.shares() == {"a": 2, "b": 2}
    assert (
        repeated(fleet.done.numbers()) <= SHARDS * BATCH
    )  # of what was in flight as b took its predecessor's


def test_a_mapping_that_a_file_declares_no_more_comes_back_as_it_was(fleet: Fleet) -> None:
    """A deployment is rolled out, and rolled back."""
    a = fleet.start("a")
    fleet.put(0, 500)
    fleet.until_delivered(500)
    wait_until("its cursors are written", lambda: fleet.resolved_by("a") == 500)
    before = (a.mappings() or [{}])[0]["row"]["uuid"]
    assert a.stop() == 0
    a.start("from millstream import App\n\napp = App('shared')\n", "--store", fleet.store)
    a.started()
    wait_until("it says so", lambda: "mapping retired, it is declared no more" in a.text())
    assert a.mappings() == []
    assert a.stop() == 0
    fleet.put(500, 500)
    fleet.start("a")
    fleet.until_delivered(1000)
    assert (a.mappings() or [{}])[0]["row"]["uuid"] == before
    assert repeated(fleet.done.numbers()) == 0


def test_a_daemon_whose_file_does_not_declare_a_mapping_leaves_it_to_the_one_that_runs_it(
    fleet: Fleet,
) -> None:
    a = fleet.start("a")
    fleet.put(0, 500)
    fleet.until_delivered(500)
    b = fleet.daemons["b"]
    b.folder.mkdir()
    b.start("from millstream import App\n\napp = App('shared')\n", "--store", fleet.store)
    b.started()
    wait_until("it says so", lambda: "mapping kept, another daemon declares it" in b.text())
    fleet.put(500, 500)
    fleet.until_delivered(1000)
    assert repeated(fleet.done.numbers()) == 0
    assert a.stop() == 0


def test_a_mapping_that_its_file_disables_is_kept_from_a_daemon_whose_file_does_not_declare_it(
    fleet: Fleet,
) -> None:
    a, b = fleet.daemons.values()
    a.folder.mkdir()
    app = APP.format(stream=fleet.stream, batch=BATCH, done=f"file://{fleet.done.file}")
    a.start(app.replace("    to=handle,", "    to=handle,\n    enabled=False,"), "--store", fleet.store)
    a.started()
    assert a.status()["state"] == "Disabled"
    b.folder.mkdir()
    b.start("from millstream import App\n\napp = App('shared')\n", "--store", fleet.store)
    b.started()
    wait_until("it has looked", lambda: "mapping kept" in b.text() or "mapping retired" in b.text())
    assert "mapping kept, another daemon declares it" in b.text()
    assert a.stop() == 0


def test_a_daemon_that_was_frozen_writes_nothing_over_its_successor(fleet: Fleet) -> None:
    """It is stopped for longer than its leases last, and finds out when it goes on."""
    fleet.start("a")
    b = fleet.start("b")
    wait_until("both read two", lambda: fleet.shares() == {"a": 2, "b": 2})
    fleet.put(0, 500)
    fleet.until_delivered(500)
    # Frozen while it writes, it would keep the file's lock from the other one.
    wait_until("nothing is under way", lambda: fleet.resolved() == 500)
    assert b.process is not None
    b.process.send_signal(signal.SIGSTOP)
    fleet.put(500, 1500)
    wait_until(
        "a has taken over",
        lambda: (fleet.daemons["a"].mappings() or [{}])[0]["status"]["partitions"] == SHARDS,
        TAKEN_OVER_WITHIN_S,
    )
    fleet.until_delivered(2000)
    b.process.send_signal(signal.SIGCONT)
    wait_until("they share again", lambda: fleet.shares() == {"a": 2, "b": 2}, TAKEN_OVER_WITHIN_S)
    fleet.put(2000, 1000)
    fleet.until_delivered(3000)
    assert repeated(fleet.done.numbers()) <= 2 * 2 * BATCH


def test_a_store_that_is_away_for_a_while_costs_nothing(
    tmp_path: Path, ministack: Ministack, own_postgres: Postgres
) -> None:
    fleet = Fleet(tmp_path, ministack, own_postgres.database())
    a = fleet.start("a")
    try:
        fleet.put(0, 1000)
        fleet.until_delivered(1000)
        own_postgres.kill()
        fleet.put(1000, 1000)
        fleet.until_delivered(2000)
        own_postgres.start()
        fleet.put(2000, 1000)
        fleet.until_delivered(3000)
        assert a.stop() == 0
    finally:
        if a.process is not None and a.process.poll() is None:
            a.kill()
    assert repeated(fleet.done.numbers()) == 0
    text = a.text()
    assert "cursor not written, retrying" in text
    assert "hush" not in text


def test_a_store_that_cannot_be_reached_at_start_is_one_clear_line(
    tmp_path: Path, ministack: Ministack
) -> None:
    daemon = RunningDaemon(tmp_path, ministack.endpoint_url)
    app = APP.format(stream="none", batch=1, done="file:///dev/null")
    daemon.start(app, "--store", "postgresql://u:secret-5a@127.0.0.1:1/d")
    assert daemon.process is not None
    assert daemon.process.wait(30.0) == 3
    (line,) = [line for line in daemon.text().splitlines() if "error:" in line]
    assert "127.0.0.1:1/d" in line
    assert "secret-5a" not in daemon.text()


def test_an_unknown_kind_of_store_is_one_clear_line(tmp_path: Path, ministack: Ministack) -> None:
    daemon = RunningDaemon(tmp_path, ministack.endpoint_url)
    daemon.start(
        APP.format(stream="none", batch=1, done="file:///dev/null"), "--store", "mysql://u:secret@h/d"
    )
    assert daemon.process is not None
    assert daemon.process.wait(30.0) == 2
    assert "--store: wanted one of postgresql://…" in daemon.text()
    assert "secret" not in daemon.text()
