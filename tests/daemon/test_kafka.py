"""Kafka through whole daemons: rebalances, kills, a broker that dies, a network that is cut."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.brokers.kafka import Kafka
from tests.daemon import topics
from tests.daemon.conftest import RunningDaemon, wait_until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]

SECONDS_UNCOMMITTED = 1.0
"""Offsets are committed once a second; a kill takes back what was taken since, and what was in flight."""

MakeDaemon = Callable[[str], RunningDaemon]


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Makes daemons in folders of their own; all are ended."""
    made: list[RunningDaemon] = []

    def make(name: str) -> RunningDaemon:
        folder = tmp_path / name
        folder.mkdir()
        made.append(RunningDaemon(folder, "http://127.0.0.1:1"))
        return made[-1]

    yield make
    for daemon in made:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


def out_of_order(numbers: Sequence[int], partitions: int) -> dict[int, list[int]]:
    """Partitions in which a number was taken first after a higher one."""
    firsts = list(dict.fromkeys(numbers))
    parts = {part: [number for number in firsts if number % partitions == part] for part in range(partitions)}
    return {part: found for part, found in parts.items() if found != sorted(found)}


@pytest.mark.parametrize("client", ["confluent", "kafka-python"])
def test_every_record_is_taken_once_and_in_order(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon, client: str
) -> None:
    topic, daemon = kafka.create_topic(3), make_daemon("d")
    topics.put(kafka.bootstrap, topic, range(3000), 3)
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic, f'client="{client}"'))
    taken = topics.Taken(tmp_path)
    wait_until("all are taken", lambda: len(taken.numbers()) >= 3000)
    group = (daemon.mappings() or [{}])[0]["row"]["uuid"]
    each = dict.fromkeys(range(3), 1000)
    wait_until("they are committed", lambda: kafka.committed(group, topic) == each)
    assert daemon.stop() == 0
    found = taken.numbers()
    assert sorted(found) == [*range(3000)]
    assert out_of_order(found, 3) == {}
    topics.put(kafka.bootstrap, topic, range(3000, 3030), 3)
    daemon.start()
    wait_until("the new ones are taken", lambda: len(taken.numbers()) >= 3030)
    assert daemon.stop() == 0
    assert sorted(taken.numbers()) == [*range(3030)]


def test_the_mapping_says_its_client_group_and_partitions(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    topic, daemon = kafka.create_topic(2), make_daemon("d")
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic))
    wait_until("it reads both", lambda: daemon.mappings() and daemon.status()["partitions"] == 2)
    found = daemon.mappings()
    assert found is not None
    group = found[0]["row"]["uuid"]
    assert found[0]["details"] == {"consumer_group_id": group, "client": "confluent"}
    topics.put(kafka.bootstrap, topic, range(10), 2)
    wait_until("it has committed", lambda: kafka.committed(group, topic) == {0: 5, 1: 5})


def test_over_twenty_kills_nothing_is_lost(kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon) -> None:
    """What comes twice is what was taken or in flight since the last commit before each kill.

    The function takes a while, so that twenty lives cannot take all, however long a machine makes them.
    """
    count, partitions, kills, batch = 32_000, 4, 20, 100
    topic, daemon = kafka.create_topic(partitions), make_daemon("d")
    topics.put(kafka.bootstrap, topic, range(count), partitions)
    options = f'batch_size={batch}, session_timeout=6, group_instance_id="one"'
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic, options, takes_s=0.1))
    taken, chance, killed_at = topics.Taken(tmp_path), random.Random(7), []
    for nth in range(kills):
        before = len(taken.distinct())
        wait_until(f"progress before kill {nth}", lambda before=before: len(taken.distinct()) > before)
        time.sleep(chance.uniform(0.0, 0.3))  # the kill comes at any moment; not a wait for anything
        daemon.kill()
        killed_at.append(time.time())
        assert len(taken.distinct()) < count
        daemon.start()
    wait_until("all are taken", lambda: len(taken.distinct()) == count)
    assert daemon.stop() == 0
    found = taken.numbers()
    assert set(found) == set(range(count))
    assert out_of_order(found, partitions) == {}
    taken_late = sum(
        len(part)
        for at, parts in taken.batches()
        for part in parts.values()
        if any(0 <= killed - at <= SECONDS_UNCOMMITTED + 0.5 for killed in killed_at)
    )
    assert len(found) - count <= taken_late + kills * partitions * batch


def test_batches_of_several_partitions_keep_the_order_of_each_over_a_kill(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    count, partitions, batch = 6_000, 3, 90
    topic, daemon, taken = kafka.create_topic(partitions), make_daemon("d"), topics.Taken(tmp_path)
    topics.put(kafka.bootstrap, topic, range(count), partitions)
    options = f'one_partition_per_batch=False, batch_size={batch}, session_timeout=6, group_instance_id="one"'
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic, options, takes_s=0.05))
    wait_until("it reads", lambda: len(taken.distinct()) >= count // 3)
    daemon.kill()
    killed_at = time.time()
    daemon.start()
    wait_until("all are taken", lambda: len(taken.distinct()) == count)
    assert daemon.stop() == 0
    assert any(len(parts) > 1 for _, parts in taken.batches())
    assert out_of_order(taken.numbers(), partitions) == {}
    before = [parts for at, parts in taken.batches() if at <= killed_at]
    for life in (before, [parts for _, parts in taken.batches()[len(before) :]]):
        for name in {name for parts in life for name in parts}:
            numbers = [number for parts in life for number in parts.get(name, [])]
            assert numbers == [*range(numbers[0], numbers[-1] + 1, partitions)]
    taken_late = sum(
        len(part)
        for at, parts in taken.batches()
        for part in parts.values()
        if 0 <= killed_at - at <= SECONDS_UNCOMMITTED + 0.5
    )
    assert len(taken.numbers()) - count <= taken_late + batch


def test_daemons_that_join_and_die_share_a_topic_without_loss(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    count, partitions = 30_000, 6
    topic = kafka.create_topic(partitions)
    topics.put(kafka.bootstrap, topic, range(count), partitions)
    daemons = [make_daemon(name) for name in "abc"]
    files = [topics.Taken(daemon.folder) for daemon in daemons]
    group = 'batch_size=100, session_timeout=2, consumer_group_id="shared-by-three"'

    def start(daemon: RunningDaemon) -> None:
        # Each writes a file of its own; all are members of one group.
        daemon.start(topics.app(daemon.folder, kafka.bootstrap, topic, group, takes_s=0.05))

    def seen() -> list[int]:
        return [number for file in files for number in file.numbers()]

    def shares() -> list[int]:
        known = [daemon.mappings() or [] for daemon in daemons]
        return [(found[0]["status"]["partitions"] or 0) if found else 0 for found in known]

    start(daemons[0])
    wait_until("the first reads", lambda: len(seen()) > 1000)
    start(daemons[1])
    wait_until("two share", lambda: sorted(shares()) == [0, 3, 3])
    start(daemons[2])
    wait_until("three share", lambda: shares() == [2, 2, 2])
    daemons[0].kill()
    wait_until("two share what the dead one had", lambda: sorted(shares()) == [0, 3, 3])
    assert daemons[1].stop() == 0
    wait_until("one has all", lambda: sorted(shares()) == [0, 0, 6])
    wait_until("all are taken", lambda: set(seen()) == set(range(count)), 120.0)
    assert daemons[2].stop() == 0
    for file in files:
        assert out_of_order(file.numbers(), partitions) == {}


def test_a_broker_that_dies_and_comes_back_costs_nothing(
    own_kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    count = 6000
    topic, daemon = own_kafka.create_topic(2), make_daemon("d")
    topics.put(own_kafka.bootstrap, topic, range(count), 2)
    options = "batch_size=50, session_timeout=6"
    daemon.start(topics.app(tmp_path, own_kafka.bootstrap, topic, options, takes_s=0.05))
    taken = topics.Taken(tmp_path)
    wait_until("it reads", lambda: len(taken.numbers()) > 500)
    own_kafka.kill()
    wait_until("it says so", lambda: "source unavailable" in daemon.text())
    own_kafka.start()
    wait_until("all are taken", lambda: taken.distinct() == set(range(count)), 120.0)
    assert daemon.text().count("source unavailable") == 1
    assert out_of_order(taken.numbers(), 2) == {}
    assert daemon.stop() == 0


def test_a_poisoned_partition_slows_no_other_and_is_given_up_at_last(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    topic, daemon = kafka.create_topic(2), make_daemon("d")
    topics.put(kafka.bootstrap, topic, range(2000), 2)
    values = 'base64.b64decode(r["value"]) for part in event["records"].values() for r in part'
    poison = f'import base64; assert b"1000" not in [{values}]'
    failed = tmp_path / "failed.jsonl"
    more = f'on_failure="{failed.as_uri()}",'
    options = "maximum_retry_attempts=2, bisect_batch_on_function_error=True"
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic, options, body=poison, more=more))
    taken = topics.Taken(tmp_path)
    wait_until("all others are taken", lambda: len(taken.numbers()) >= 1999)
    wait_until("it is given up", failed.exists)
    document = json.loads(failed.read_text())
    assert document["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert document["requestContext"]["approximateInvokeCount"] == 3
    info = document["KafkaBatchInfo"]["recordsInfo"][f"{topic}-0"]
    assert (info["firstRecordOffset"], info["lastRecordOffset"]) == ("500", "500")
    assert sorted(taken.numbers()) == [n for n in range(2000) if n != 1000]
    assert daemon.stop() == 0


def test_a_broker_that_hangs_and_wakes_again_costs_nothing(
    own_kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    count = 3000
    topic, daemon = own_kafka.create_topic(2), make_daemon("d")
    topics.put(own_kafka.bootstrap, topic, range(count), 2)
    daemon.start(topics.app(tmp_path, own_kafka.bootstrap, topic, "batch_size=50", takes_s=0.02))
    taken = topics.Taken(tmp_path)
    wait_until("it reads", lambda: len(taken.numbers()) > 500)
    with own_kafka.hung():
        wait_until("what was fetched is taken", lambda: quiet(taken.file))
    topics.put(own_kafka.bootstrap, topic, range(count, count + 100), 2)
    wait_until("all are taken", lambda: taken.distinct() == set(range(count + 100)), 120.0)
    assert out_of_order(taken.numbers(), 2) == {}
    assert daemon.stop() == 0


def quiet(file: Path, for_s: float = 3.0) -> bool:
    """True if a file has not grown for so long."""
    return time.time() - file.stat().st_mtime > for_s


def test_a_message_that_no_event_holds_is_given_up_and_the_next_taken(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    topic, daemon = kafka.create_topic(1, max_message_bytes="20000000"), make_daemon("d")
    topics.put(kafka.bootstrap, topic, [1], 1)
    topics.put_large(kafka.bootstrap, topic, 6_000_000)
    topics.put(kafka.bootstrap, topic, [2], 1)
    failed = tmp_path / "failed.jsonl"
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic, more=f'on_failure="{failed.as_uri()}",'))
    taken = topics.Taken(tmp_path)
    wait_until("the others are taken", lambda: taken.numbers() == [1, 2])
    document = json.loads(failed.read_text())
    assert document["requestContext"]["condition"] == "MaximumPayloadSizeExceeded"
    assert document["responseContext"] is None
    assert document["KafkaBatchInfo"]["recordsInfo"][f"{topic}-0"]["firstRecordOffset"] == "1"
    assert daemon.stop() == 0


def test_the_records_that_a_function_names_come_again_and_only_those_behind_them(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    topic, daemon = kafka.create_topic(1), make_daemon("d")
    topics.put(kafka.bootstrap, topic, range(10), 1)
    body = "\n    ".join(
        [
            "import os",
            'first = not os.path.exists("/tmp/again")',
            'open("/tmp/again", "w").close()',
            f'named = {{"partition": "{topic}-0", "offset": 6}}',
            'return {"batchItemFailures": [{"itemIdentifier": named}] if first else []}',
        ]
    )
    options = "report_batch_item_failures=True"
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic, options, body=body))
    taken = topics.Taken(tmp_path)
    wait_until("all are taken", lambda: len(taken.numbers()) == 10)
    wanted = [[*range(6)], [*range(6, 10)]]
    assert [batch[f"{topic}-0"] for _, batch in taken.batches()] == wanted
    assert daemon.stop() == 0
