"""What the `network` option of a function comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.daemon.function_network import reach
from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, wait_until

ENDPOINT = "http://127.0.0.1:4566"


def test_endpoints_are_as_declared() -> None:
    assert reach(["db.example:5432", "localhost:80"], None, {}) == (("db.example:5432", "localhost:80"), {})


def test_aws_is_the_daemons_endpoint_with_other_credentials() -> None:
    mine = {"AWS_ACCESS_KEY_ID": "daemon", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    found = {"AWS_ENDPOINT_URL": ENDPOINT, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    assert reach(["aws"], ENDPOINT, mine) == (("127.0.0.1:4566",), found)
    assert reach(["aws"], None, {**mine, "AWS_ENDPOINT_URL": ENDPOINT})[1] == found


def test_the_functions_credentials_are_what_the_daemon_is_told_that_they_are() -> None:
    told = {"MILLSTREAM_FUNCTION_ACCESS_KEY_ID": "id", "MILLSTREAM_FUNCTION_SECRET_ACCESS_KEY": "key"}
    _, variables = reach(["aws"], ENDPOINT, told)
    assert (variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]) == ("id", "key")


@pytest.mark.parametrize(
    ("url", "place"),
    [("https://aws.example", "aws.example:443"), ("http://h", "h:80"), ("http://h:1/x", "h:1")],
)
def test_an_endpoint_without_a_port_has_its_schemes(url: str, place: str) -> None:
    assert reach(["aws"], url, {})[0] == (place,)


@pytest.mark.parametrize(
    ("network", "url", "wanted"),
    [
        (["aws"], None, "--endpoint-url or AWS_ENDPOINT_URL"),
        (["aws"], "unix:/x", "--endpoint-url or AWS_ENDPOINT_URL"),
        (["localhost:9001"], None, "another port"),
        (["[::1]:80"], None, "a name or an IPv4 address"),
        (["aws"], "http://127.0.0.1:9001", "another port"),
    ],
)
def test_what_cannot_be_forwarded_is_refused(network: list[str], url: str | None, wanted: str) -> None:
    with pytest.raises(InvalidConfiguration, match=wanted):
        reach(network, url, {})


APP = """
import os
import boto3
from millstream import App, Sqs

app = App("test")


@app.function(timeout=20, memory_size=512, network=["aws"])
def handle(event, context):
    sqs = boto3.client("sqs")
    for record in event["Records"]:
        sqs.send_message(QueueUrl=OUT, MessageBody=record["body"] + " " + os.environ["AWS_ACCESS_KEY_ID"])


app.map(Sqs(IN), to=handle)
"""


@pytest.mark.broker
def test_a_function_uses_the_endpoint_with_boto3(
    daemon: RunningDaemon, ministack: Ministack, tmp_path: Path
) -> None:
    source, out = ministack.queue(VisibilityTimeout="30"), ministack.queue()
    sqs = ministack.client("sqs")
    sqs.send_message(QueueUrl=source, MessageBody=json.dumps("hello"))
    daemon.start(APP.replace("IN", repr(source.rpartition("/")[2])).replace("OUT", repr(out)))

    def received() -> list[str]:
        found = sqs.receive_message(QueueUrl=out, WaitTimeSeconds=1).get("Messages", [])
        return [message["Body"] for message in found]

    assert wait_until("it has sent", received) == ['"hello" test']
    assert daemon.stop() == 0
