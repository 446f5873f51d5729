"""Apache Kafka, one broker that is its own controller: a process on loopback, or a container."""

from __future__ import annotations

import base64
import signal
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.kafka_broker import libraries
from tests.brokers.containers import Container
from tests.brokers.provider import Unavailable

ENDED_WITHIN_S = 20.0

FILES = "@files@"
"""In a setting: the folder of the broker's files, where the broker sees it."""

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    # A broker that was killed comes back only after its session has ended; nine seconds by default.
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "300",
    "num.partitions": "1",
    "log.retention.ms": "-1",  # tests name times long ago, which a look at retention would end
    "offsets.topic.num.partitions": "3",
    "offsets.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "3",
    "share.coordinator.state.topic.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "3",
    "transaction.state.log.replication.factor": "1",
}

SHARED = "/mnt/shared/config"
"""Where Apache's image looks for settings. Source: Apache Kafka, "Kafka Docker Image Usage Guide"."""

JAVA = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
LOGGING = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]


@dataclass(frozen=True)
class Listener:
    """Where clients come in. The port is the same inside and outside of a container."""

    name: str
    port: int
    protocol: str
    settings: Mapping[str, str] = field(default_factory=dict)
    relayed_by: int | None = None  # the port that clients are told in place of its own

    @property
    def address(self) -> str:
        """As clients write it."""
        return f"127.0.0.1:{self.relayed_by or self.port}"


class LocalKafka:
    """A broker in a folder of its own, from its Maven artifacts.

    Raises:
        Unavailable: Java or Maven is not there, or Maven could not fetch the broker.
    """

    def __init__(
        self, folder: Path, controller_port: int, listeners: list[Listener], more: Mapping[str, str]
    ) -> None:
        try:
            self._classes = f"{libraries()}/*"
        except OSError as error:
            raise Unavailable(str(error)) from error
        self._log = folder / "log"
        self._settings = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        self._settings.write_text(
            properties("127.0.0.1", controller_port, listeners, {"log.dirs": f"{FILES}/data", **more}, folder)
        )
        command = ["java", "-cp", self._classes, "kafka.tools.StorageTool", "format"]
        command += [f"--cluster-id={cluster_id()}", "-c", str(self._settings)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"Kafka's storage: {done.stderr.strip()[-500:]}")

    def start(self) -> None:
        command = ["java", *JAVA, *LOGGING, "-cp", self._classes, "kafka.Kafka", str(self._settings)]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it with SIGKILL, as a host that loses its power would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(ENDED_WITHIN_S)

    def stop(self) -> None:
        """End it; its files stay."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(ENDED_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def pause(self) -> None:
        """It does nothing from now on, and its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """End it for good."""
        self.kill()

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


class KafkaContainer(Container):
    """A broker in a container of Apache's image, which takes a folder of settings.

    Raises:
        Unavailable: no Docker engine answers, or it can have no such image.
    """

    def __init__(
        self, folder: Path, controller_port: int, listeners: list[Listener], more: Mapping[str, str]
    ) -> None:
        settings = {"log.dirs": "/tmp/kafka-data", **more}
        given = properties("0.0.0.0", controller_port, listeners, settings, Path(SHARED))
        (folder / "server.properties").write_text(given)
        ports = {one.port: one.port for one in listeners}
        environment = {"CLUSTER_ID": cluster_id(), "KAFKA_HEAP_OPTS": "-Xms256m -Xmx512m"}
        super().__init__("kafka", ports, environment, files=(folder, SHARED))


def properties(
    host: str, controller_port: int, listeners: list[Listener], more: Mapping[str, str], files: Path
) -> str:
    """A server.properties, which listens at `host` and says that it is at 127.0.0.1."""
    protocols = [*((one.name, one.protocol) for one in listeners), ("CONTROLLER", "PLAINTEXT")]
    controller = f"127.0.0.1:{controller_port}"
    found = {
        **SETTINGS,
        "listeners": ",".join(
            [*(f"{one.name}://{host}:{one.port}" for one in listeners), f"CONTROLLER://{controller}"]
        ),
        "advertised.listeners": ",".join(f"{one.name}://{one.address}" for one in listeners),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols),
        "controller.quorum.voters": f"1@{controller}",
        **more,
    }
    for one in listeners:
        prefix = f"listener.name.{one.name.lower()}"
        found |= {f"{prefix}.{name}": value for name, value in one.settings.items()}
    return "".join(f"{name}={value}\n" for name, value in found.items()).replace(FILES, str(files))


def cluster_id() -> str:
    """A new one, in Kafka's form of a UUID."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
