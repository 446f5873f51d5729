"""The tests' brokers as containers: an engine, images, records."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import docker
import pytest
from testcontainers.core.config import testcontainers_config

from tests.brokers.kafka import first, put, running
from tests.brokers.kafka_secure import SecureKafka
from tests.brokers.ministack import Ministack
from tests.smoke.engine import engine
from tests.smoke.images import import_aws, import_kafka

pytestmark = pytest.mark.broker

AWS, KAFKA = "millstream-tests/aws:1", "millstream-tests/kafka:1"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """An engine that has images which are made here, as none can be relied on to be pulled."""
    if not sys.platform.startswith("linux"):
        pytest.skip("wanted Linux, whose programs a container can run")
    with engine() as found:
        import_aws(found, AWS)
        import_kafka(found, KAFKA)
        yield found


@pytest.fixture
def containers(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Brokers come as containers meanwhile."""
    monkeypatch.setenv("DOCKER_HOST", address)
    monkeypatch.setenv("MILLSTREAM_TEST_BROKERS", "containers")
    monkeypatch.setenv("MILLSTREAM_AWS_IMAGE", AWS)
    monkeypatch.setenv("MILLSTREAM_KAFKA_IMAGE", KAFKA)
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)  # its image would be pulled
    return address


def test_an_aws_endpoint_in_a_container_is_stopped_and_started_at_its_port(
    containers: str, own_ministack: Ministack
) -> None:
    for _ in range(2):
        url = own_ministack.queue()
        sqs = own_ministack.client("sqs")
        sqs.send_message(QueueUrl=url, MessageBody="ground")
        (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        assert message["Body"] == "ground"
        own_ministack.stop()
        own_ministack.start()


def test_the_ports_of_containers_are_open_to_this_machine_alone(
    containers: str, own_ministack: Ministack
) -> None:
    client = docker.DockerClient(base_url=containers)
    try:
        ports = [one.attrs["NetworkSettings"]["Ports"] for one in client.containers.list()]
    finally:
        client.close()
    opened = [binding["HostIp"] for found in ports for bindings in found.values() for binding in bindings]
    assert opened == ["127.0.0.1"]


def test_a_kafka_in_a_container_keeps_its_records_users_and_ports_over_a_kill(
    containers: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running(SecureKafka(tmp_path_factory.mktemp("kafka"))) as broker:
        topic = broker.create_topic(1)
        put({"bootstrap.servers": broker.bootstrap}, topic, b"kept")
        broker.kill()
        broker.start()
        for listener in ("sasl", "sasl_ssl", "ssl", "mtls"):
            assert first(broker.client(listener), topic) == b"kept"
