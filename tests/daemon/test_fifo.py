"""FIFO queues through the whole daemon: order within a group, and no group held up by another."""

from __future__ import annotations

import pytest

from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, name_of, wait_until

pytestmark = pytest.mark.broker

APP = """
import json
from millstream import App, Sqs

app = App("fifo")


@app.function(timeout=5)
def handle(event, context):
    bad = []
    for record in event["Records"]:
        if record["body"] == "poison":
            bad.append({"itemIdentifier": record["messageId"]})
        elif bad and record["attributes"]["MessageGroupId"] == "a":
            bad.append({"itemIdentifier": record["messageId"]})
        else:
            print(" took " + record["body"])
    return {"batchItemFailures": bad}


app.map(Sqs(QUEUE, report_batch_item_failures=True), to=handle)
"""


def test_a_poisoned_group_waits_and_the_other_one_flows_in_order(
    daemon: RunningDaemon, ministack: Ministack
) -> None:
    url = ministack.queue(fifo=True, VisibilityTimeout="5", ContentBasedDeduplication="true")
    sqs = ministack.client("sqs")
    sqs.send_message(QueueUrl=url, MessageBody="poison", MessageGroupId="a")
    sqs.send_message(QueueUrl=url, MessageBody="a-after", MessageGroupId="a")
    for number in range(60):
        sqs.send_message(QueueUrl=url, MessageBody=f"b-{number:02}", MessageGroupId="b")
    daemon.start(APP.replace("QUEUE", repr(name_of(url))))
    wait_until("group b is through", lambda: len(daemon.handled()) == 60)
    assert list(daemon.handled()) == [f"b-{number:02}" for number in range(60)]
    assert set(daemon.handled().values()) == {1}
    assert daemon.stop() == 0


def test_a_mapping_that_is_declared_no_more_is_forgotten(daemon: RunningDaemon, ministack: Ministack) -> None:
    url = ministack.queue(fifo=True, VisibilityTimeout="5")
    daemon.start(APP.replace("QUEUE", repr(name_of(url))))
    daemon.started()
    assert daemon.stop() == 0
    daemon.start("from millstream import App\napp = App('fifo')\n")
    daemon.started()
    assert daemon.mappings() == []
    assert "mapping retired, it is declared no more" in daemon.text()
    assert daemon.stop() == 0
