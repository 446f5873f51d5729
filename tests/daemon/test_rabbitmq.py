"""RabbitMQ through whole daemons: kills, outages, slow functions, poison, and what no option may show."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from millstream.amqp.address import AMQP
from tests.brokers.rabbitmq import PASSWORD, RabbitMqServer
from tests.brokers.relay import Relay
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.queues import Taken, app, numbers, numbers_of
from tests.daemon.streams import listed
from tests.daemon.test_outage import until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]

NO_AWS = "http://127.0.0.1:9"
"""An endpoint that nobody needs here."""


@contextmanager
def daemons(*folders: Path) -> Iterator[list[RunningDaemon]]:
    """Daemons that are not started yet; those that run at the end are killed."""
    made = []
    for folder in folders:
        folder.mkdir(exist_ok=True)
        made.append(RunningDaemon(folder, NO_AWS))
    try:
        yield made
    finally:
        for daemon in made:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with daemons(tmp_path) as (made,):
        yield made


@pytest.fixture
def url(rabbitmq: RabbitMqServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The broker's URL, which daemons find in their environment."""
    monkeypatch.setenv(AMQP.variable, rabbitmq.url())
    return rabbitmq.url()


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_messages_go_through_once_in_order_and_nobody_sees_the_password(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon, kind: str
) -> None:
    queue, taken = rabbitmq.queue(kind), Taken(daemon.folder)
    rabbitmq.publish_many(queue, numbers(2000))
    daemon.start(app(daemon.folder, queue))
    wait_until("all are taken", lambda: len(taken.numbers()) == 2000)
    wait_until("all are settled", lambda: daemon.status()["delivered"] == 2000)
    shown = json.dumps([daemon.mappings(), listed(daemon.data)])
    assert daemon.stop() == 0
    assert taken.numbers() == list(range(2000))
    assert rabbitmq.ready(queue) == 0
    stored = b"".join(file.read_bytes() for file in daemon.data.rglob("*") if file.is_file())
    assert PASSWORD not in shown + daemon.text()
    assert PASSWORD.encode() not in stored


@pytest.mark.usefixtures("url")
def test_nothing_is_lost_over_twenty_kills_of_the_daemon(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon
) -> None:
    """Duplicates are at most what was in flight at each kill: two batches."""
    count, batch, kills = 50_000, 500, 20
    queue, taken = rabbitmq.queue(), Taken(daemon.folder)
    rabbitmq.publish_many(queue, numbers(count))
    chance = random.Random(11)
    daemon.start(app(daemon.folder, queue, f"batch_size={batch}, concurrency=2", takes_s=0.15))
    for _ in range(kills):
        before = len(taken.numbers())
        wait_until("it gets on", lambda before=before: len(taken.numbers()) > before)
        time.sleep(chance.uniform(0.0, 0.3))  # a kill at any moment is what is tested
        daemon.kill()
        assert len(set(taken.numbers())) < count
        daemon.start()
    wait_until("all are taken", lambda: len(set(taken.numbers())) == count, within_s=90.0)
    assert daemon.stop() == 0
    assert rabbitmq.ready(queue) == 0
    assert taken.repeated() <= kills * 2 * batch


def test_nothing_is_lost_when_the_broker_is_killed_in_the_middle(
    own_rabbitmq: RabbitMqServer, daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AMQP.variable, own_rabbitmq.url())
    count, batch = 10_000, 100
    queue, taken = own_rabbitmq.queue(), Taken(daemon.folder)
    own_rabbitmq.publish_many(queue, numbers(count))
    daemon.start(app(daemon.folder, queue, f"batch_size={batch}", takes_s=0.05))
    wait_until("it works", lambda: len(taken.numbers()) >= 1000)
    own_rabbitmq.kill()
    wait_until("it says so", lambda: "source unavailable" in daemon.text())
    own_rabbitmq.start()
    wait_until("all are taken", lambda: len(set(taken.numbers())) == count, within_s=90.0)
    wait_until("it says so, too", lambda: "source available again" in daemon.text())
    assert daemon.stop() == 0
    assert own_rabbitmq.ready(queue) == 0
    # Beside the batch in flight: what was settled, and not yet written down by the broker.
    assert taken.repeated() <= 3 * batch


def outages(daemon: RunningDaemon) -> int:
    """How often the daemon has said that its source does not answer."""
    return daemon.text().count("source unavailable")


async def test_nothing_is_lost_when_the_network_is_cut_or_stalls(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, batch = 2_500, 50
    queue, taken = rabbitmq.queue(), Taken(daemon.folder)
    rabbitmq.publish_many(queue, numbers(count))
    async with Relay(rabbitmq.url()) as relay:
        monkeypatch.setenv(AMQP.variable, rabbitmq.url(port=urlsplit(relay.url).port))
        daemon.start(app(daemon.folder, queue, f"batch_size={batch}, heartbeat=1", takes_s=0.1))
        await until("it works", lambda: len(set(taken.numbers())) >= 600)
        await relay.cut()
        await until("it says so", lambda: outages(daemon) == 1)
        await relay.restore()
        await until("it works again", lambda: len(set(taken.numbers())) >= 1200)
        relay.stall()
        await until("the stall is noticed", lambda: outages(daemon) > 1)
        await relay.cut()
        await relay.restore()
        await until("all are taken", lambda: len(set(taken.numbers())) == count)
        assert await asyncio.get_running_loop().run_in_executor(None, daemon.stop) == 0
    assert rabbitmq.ready(queue) == 0
    assert taken.repeated() <= 2 * 2 * batch


@pytest.mark.usefixtures("url")
def test_a_function_may_run_longer_than_two_heartbeats(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon
) -> None:
    queue, taken = rabbitmq.queue(), Taken(daemon.folder)
    rabbitmq.publish_many(queue, numbers(20))
    daemon.start(app(daemon.folder, queue, "batch_size=10, heartbeat=1", takes_s=3.5))
    wait_until(
        "all are settled", lambda: (daemon.mappings() or [{}])[0].get("status", {}).get("delivered") == 20
    )
    assert daemon.stop() == 0
    assert taken.numbers() == list(range(20))
    assert "source unavailable" not in daemon.text()


@pytest.mark.usefixtures("url")
def test_poison_goes_to_the_destination_after_its_retries_and_the_rest_is_taken(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon
) -> None:
    queue, failed = rabbitmq.queue(), rabbitmq.queue()
    rabbitmq.publish_many(queue, numbers(20))
    reported = "batch_size=10, report_batch_item_failures=True, maximum_retry_attempts=2"
    named = '{"itemIdentifier": m["deliveryTag"]} for m in messages if base64.b64decode(m["data"]) == b"7"'
    body = f'print(" took ", numbers); return {{"batchItemFailures": [{named}]}}'
    more = f'on_failure="amqp://?routing_key={failed}"'
    daemon.start(app(daemon.folder, queue, reported, body=body, more=more))
    (document,) = map(json.loads, rabbitmq.bodies(failed, 1))
    wait_until("the rest is settled", lambda: daemon.status()["delivered"] == 19)
    assert daemon.stop() == 0
    assert document["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert document["requestContext"]["approximateInvokeCount"] == 3
    assert document["RabbitMQBatchInfo"]["queue"] == queue
    assert numbers_of(json.loads(document["payload"])) == [7]
    assert rabbitmq.ready(queue) == 0


@pytest.mark.usefixtures("url")
def test_without_a_destination_a_queue_dead_letters_what_fails(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon
) -> None:
    dead = rabbitmq.queue("classic")
    queue = rabbitmq.queue("classic", dead_letter_exchange="", dead_letter_routing_key=dead)
    rabbitmq.publish_many(queue, numbers(10))
    daemon.start(app(daemon.folder, queue, "batch_size=1, requeue=False", body="assert 3 not in numbers"))
    assert rabbitmq.bodies(dead, 1) == [b"3"]
    wait_until("the rest is taken", lambda: len(Taken(daemon.folder).numbers()) == 9)
    assert daemon.stop() == 0


@pytest.mark.usefixtures("url")
def test_what_a_filter_does_not_want_is_settled_unseen(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon
) -> None:
    queue, taken = rabbitmq.queue(), Taken(daemon.folder)
    rabbitmq.publish(queue, *numbers(50), content_type="keep")
    rabbitmq.publish(queue, *numbers(50), content_type="drop")
    wanted = 'filters=[{"basicProperties": {"contentType": ["keep"]}}]'
    daemon.start(app(daemon.folder, queue, more=wanted))
    wait_until("the wanted ones are taken", lambda: len(taken.numbers()) == 50)
    wait_until("all are off the queue", lambda: daemon.status()["filtered"] == 50)
    assert daemon.stop() == 0
    assert rabbitmq.ready(queue) == 0


@pytest.mark.usefixtures("url")
def test_a_message_that_no_event_can_hold_is_dead_lettered(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon
) -> None:
    dead = rabbitmq.queue("classic")
    queue = rabbitmq.queue("classic", dead_letter_exchange="", dead_letter_routing_key=dead)
    taken, large = Taken(daemon.folder), b"0" * 5_000_000  # base64 makes 6.7 MB of it
    rabbitmq.publish(queue, b"1", large, b"2")
    daemon.start(app(daemon.folder, queue))
    wait_until("the others are taken", lambda: sorted(taken.numbers()) == [1, 2])
    assert rabbitmq.bodies(dead, 1) == [large]
    assert daemon.stop() == 0
    assert rabbitmq.ready(queue) == 0


@pytest.mark.usefixtures("url")
def test_a_single_active_consumer_hands_over_when_its_daemon_dies(
    rabbitmq: RabbitMqServer, tmp_path: Path
) -> None:
    queue = rabbitmq.queue(single_active_consumer=True)
    rabbitmq.publish_many(queue, numbers(400))
    with daemons(tmp_path / "first", tmp_path / "second") as (first, second):
        first.start(app(first.folder, queue, "batch_size=50", takes_s=0.25))
        before, after = Taken(first.folder), Taken(second.folder)
        wait_until("the first works", lambda: len(before.numbers()) >= 200)
        second.start(app(second.folder, queue, "batch_size=50"))
        wait_until("the second waits", lambda: "state=Enabled" in second.text())
        rabbitmq.publish(queue, *numbers(2000)[400:])
        wait_until("the first goes on", lambda: len(before.numbers()) >= 600)
        assert after.numbers() == []
        first.kill()
        wait_until("all are taken", lambda: len({*before.numbers(), *after.numbers()}) == 2000)
        assert second.stop() == 0
    assert before.numbers() == list(range(len(before.numbers())))
    assert after.numbers() == list(range(after.numbers()[0], 2000))
    assert len(before.numbers()) - after.numbers()[0] <= 50


@pytest.mark.usefixtures("url")
def test_a_queue_that_is_deleted_is_a_problem_until_it_is_there_again(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon
) -> None:
    queue, taken = rabbitmq.queue(), Taken(daemon.folder)
    daemon.start(app(daemon.folder, queue))
    wait_until("it runs", lambda: "state=Enabled" in daemon.text())
    rabbitmq.delete(queue)
    problem = f"PROBLEM: {queue}: NOT_FOUND - no queue '{queue}' in vhost '/'"
    wait_until("it is a problem", lambda: daemon.status()["state_reason"] == problem)
    rabbitmq.queue(name=queue)
    rabbitmq.publish_many(queue, numbers(3))
    wait_until("it is read again", lambda: sorted(taken.numbers()) == [0, 1, 2])
    assert daemon.stop() == 0


@pytest.mark.usefixtures("url")
def test_a_function_that_fails_for_a_while_costs_no_delivery(
    rabbitmq: RabbitMqServer, daemon: RunningDaemon
) -> None:
    """Else a queue with a delivery limit of two would drop the message."""
    queue, taken = rabbitmq.queue(delivery_limit=2), Taken(daemon.folder)
    rabbitmq.publish_many(queue, numbers(1))
    body = 'handle.tries = getattr(handle, "tries", 0) + 1; assert handle.tries > 6'
    daemon.start(app(daemon.folder, queue, "retry_delay=0.1, retry_backoff_max=0.2", body=body))
    wait_until("it is taken", lambda: taken.numbers() == [0])
    assert daemon.stop() == 0
    assert rabbitmq.ready(queue) == 0
