"""RabbitMQ, one node: a process on loopback, of the system's own package, or a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.brokers.containers import Container
from tests.brokers.ports import free_port
from tests.brokers.provider import Unavailable

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
SHARED = "/millstream"
"""Where a container sees the server's files."""

ENDED_WITHIN_S = 20.0


@dataclass(frozen=True)
class Ports:
    """Where clients come in. They are the same inside and outside of a container."""

    amqp: int = field(default_factory=free_port)
    tls: int = field(default_factory=free_port)
    stream: int = field(default_factory=free_port)


class LocalRabbitMq:
    """A server in a folder of its own.

    Raises:
        Unavailable: the package is not installed.
    """

    def __init__(self, folder: Path, ports: Ports, definitions: Mapping[str, Any]) -> None:
        if not PROGRAM.exists():
            raise Unavailable(f"wanted {PROGRAM} (Debian's package rabbitmq-server), found none")
        self._folder = folder
        self._ports = ports
        self._epmd_port, self._distribution_port = free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "stdout"
        configure(folder, ports, definitions, host="127.0.0.1", seen_at=str(folder))

    def start(self) -> None:
        if self._epmd is None:
            # Else the server starts one, which outlives it.
            self._epmd = self._run("epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1")
        self._process = self._run(str(PROGRAM))

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
        """End it for good, and what it needed."""
        self.stop()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(ENDED_WITHIN_S)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"millstream-{self._ports.amqp}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._ports.amqp),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, so that its pid is the server's
        }

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as out:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._environment(),
                start_new_session=True,
            )


class RabbitMqContainer(Container):
    """A server in a container of the official image.

    Raises:
        Unavailable: no Docker engine answers, or it can have no such image.
    """

    def __init__(self, folder: Path, ports: Ports, definitions: Mapping[str, Any]) -> None:
        configure(folder, ports, definitions, host="0.0.0.0", seen_at=SHARED)
        environment = {
            "RABBITMQ_CONFIG_FILE": f"{SHARED}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{SHARED}/enabled_plugins",
        }
        opened = {port: port for port in (ports.amqp, ports.tls, ports.stream)}
        super().__init__("rabbitmq", opened, environment, files=(folder, SHARED))


MAX_MESSAGE_BYTES = 16_000_000
"""Largest message that the server takes: a little less than RabbitMQ 4's default."""


def certificate(folder: Path) -> Path:
    """The file of the server's certificate, which vouches for itself."""
    return folder / "certificate.pem"


def configure(folder: Path, ports: Ports, definitions: Mapping[str, Any], *, host: str, seen_at: str) -> None:
    """Write the server's files to a folder, which the server sees at a place of its own."""
    (folder / "definitions.json").write_text(json.dumps(definitions))
    (folder / "enabled_plugins").write_text("[rabbitmq_stream].\n")
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(certificate(folder))]
    subprocess.run([*make, *files], check=True, capture_output=True)
    settings = {
        "listeners.tcp.default": f"{host}:{ports.amqp}",
        "listeners.ssl.default": f"{host}:{ports.tls}",
        "ssl_options.certfile": f"{seen_at}/certificate.pem",
        "ssl_options.keyfile": f"{seen_at}/key.pem",
        "stream.listeners.tcp.1": f"{host}:{ports.stream}",
        "stream.advertised_host": "127.0.0.1",
        "stream.advertised_port": ports.stream,
        "load_definitions": f"{seen_at}/definitions.json",
        "disk_free_limit.absolute": "50MB",
        "max_message_size": MAX_MESSAGE_BYTES,
    }
    lines = "".join(f"{setting} = {value}\n" for setting, value in settings.items())
    (folder / "rabbitmq.conf").write_text(lines)
