"""RabbitMQ streams through a whole daemon that is killed again and again; where LATEST begins."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from pathlib import Path

import pytest

from millstream.amqp.address import STREAM
from tests.brokers.rabbitmq import RabbitMqServer
from tests.daemon.conftest import wait_until
from tests.daemon.queues import Taken, app, numbers
from tests.daemon.test_rabbitmq import daemons

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def url(rabbitmq: RabbitMqServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's URL, which daemons find in their environment."""
    monkeypatch.setenv(STREAM.variable, rabbitmq.stream_url())


def test_over_kills_nothing_is_lost_and_order_is_kept(rabbitmq: RabbitMqServer, tmp_path: Path) -> None:
    """At each kill one batch is in flight, and one more whose checkpoint is being written."""
    count, batch, kills = 20_000, 200, 6
    stream, taken = rabbitmq.queue("stream"), Taken(tmp_path)
    rabbitmq.publish_many(stream, numbers(count))
    options = f'starting_position="TRIM_HORIZON", batch_size={batch}'
    chance = random.Random(3)
    lives = [0]  # how much had been taken as each life of the daemon began
    with daemons(tmp_path) as (daemon,):
        daemon.start(app(tmp_path, stream, options, source="RabbitMqStream", takes_s=0.02))
        for _ in range(kills):
            wait_until("it gets on", lambda: len(taken.numbers()) > lives[-1])
            time.sleep(chance.uniform(0.0, 0.3))  # a kill at any moment is what is tested
            daemon.kill()
            lives.append(len(taken.numbers()))
            daemon.start()
        wait_until("all are taken", lambda: len(set(taken.numbers())) == count)
        assert daemon.stop() == 0
    for begin, end in pairwise([*lives, len(taken.numbers())]):
        life = taken.numbers()[begin:end]
        assert life == list(range(life[0], life[0] + len(life)))
    assert taken.repeated() <= kills * 2 * batch


def test_latest_begins_as_the_mapping_is_enabled(rabbitmq: RabbitMqServer, tmp_path: Path) -> None:
    stream, taken = rabbitmq.queue("stream"), Taken(tmp_path)
    rabbitmq.publish(stream, b"1", b"2")
    with daemons(tmp_path) as (daemon,):
        daemon.start(app(tmp_path, stream, 'starting_position="LATEST"', source="RabbitMqStream"))
        wait_until("it is enabled", lambda: "state=Enabled" in daemon.text())
        rabbitmq.publish(stream, b"3", b"4")
        wait_until("what came since is taken", lambda: taken.numbers() == [3, 4])
        assert daemon.stop() == 0
