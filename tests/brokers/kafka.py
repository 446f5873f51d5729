"""The Kafka of the tests: Apache Kafka itself, one broker on loopback, from its Maven artifacts."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.brokers.postgres import free_port

POM = Path(__file__).with_name("kafka-pom.xml")
CACHE = Path(os.environ.get("MILLSTREAM_CACHE", Path.home() / ".cache" / "millstream-tests"))
READY_WITHIN_S = 60.0
ENDED_WITHIN_S = 20.0

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "300",
    "broker.session.timeout.ms": "1500",  # how long a broker that was killed waits for its own place
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "offsets.topic.num.partitions": "3",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "3",
    "transaction.state.log.replication.factor": "1",
    "share.coordinator.state.topic.replication.factor": "1",
}

HEAP = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


class Kafka:
    """A broker in a folder of its own; may be ended and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._classes = f"{libraries()}/*"
        self._log = folder / "out"
        self._settings = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        port, controller = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        listeners = f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}"
        settings = SETTINGS | {
            "listeners": listeners,
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(folder / "data"),
        }
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments = ["format", "-t", cluster, "-c", str(self._settings)]
        command = ["java", "-cp", self._classes, "kafka.tools.StorageTool", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["java", *HEAP, "-cp", self._classes, "kafka.Kafka", str(self._settings)]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if self.admin.list_topics(timeout=1.0).brokers:
                    return
            except KafkaException:
                continue  # waited for already
        raise TimeoutError(f"Kafka did not answer: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """End it with SIGKILL, as a host that loses its power would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it; its files stay."""
        self._end(signal.SIGTERM)

    def create_topic(self, partitions: int, name: str = "", **settings: str) -> str:
        """A new topic's name; settings as Kafka has them, `_` for `.`."""
        name = name or f"t-{uuid.uuid4().hex[:12]}"
        config = {key.replace("_", "."): value for key, value in settings.items()}
        made = self.admin.create_topics([NewTopic(name, partitions, 1, config=config)])
        made[name].result(10.0)
        return name

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's offsets, as an administrator sees them."""
        asked = ConsumerGroupTopicPartitions(group)
        found = self.admin.list_consumer_group_offsets([asked])[group].result(10.0)
        places = found.topic_partitions or []
        return {place.partition: place.offset for place in places if place.topic == topic}

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Trim a partition, as its retention does."""
        asked = [TopicPartition(topic, partition, before)]
        for done in self.admin.delete_records(asked).values():
            done.result(10.0)

    def transaction(self, topic: str, values: Sequence[bytes], *, commit: bool) -> None:
        """Produce to a topic's first partition in one transaction."""
        name = f"tests-{uuid.uuid4().hex[:12]}"
        servers = {"bootstrap.servers": self.bootstrap, "log_level": 0}
        producer = Producer({**servers, "transactional.id": name})
        producer.init_transactions(10.0)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=0)
        producer.flush(10.0)
        if commit:
            producer.commit_transaction(10.0)
        else:
            producer.abort_transaction(10.0)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def libraries() -> Path:
    """The folder of the broker's classes; fetched once.

    Raises:
        LookupError: Java or Maven is not there.
    """
    pom = POM.read_text()
    version = pom.partition("<version>4")[2].partition("<")[0]
    folder = CACHE / f"kafka-4{version}"
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise LookupError(f"{program} is not there")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            goal = [
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
                f"-DoutputDirectory={part}/libs",
            ]
            shutil.copy(POM, Path(part) / "pom.xml")
            subprocess.run(["mvn", "-q", "-B", *goal], cwd=part, check=True, stdout=subprocess.DEVNULL)
            (Path(part) / "libs").rename(folder)
    return folder


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that all tests share."""
    with _running(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Kafka]:
    """A broker of the test's own, which it may kill."""
    with _running(tmp_path / "kafka") as broker:
        yield broker


@contextmanager
def _running(folder: Path) -> Iterator[Kafka]:
    folder.mkdir(exist_ok=True)
    try:
        broker = Kafka(folder)
    except LookupError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Kafka: {missing}")
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
