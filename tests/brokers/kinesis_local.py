"""kinesis-local: a Kinesis endpoint that reshards as the service does. A real process, of one npm package."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from tests.brokers.ports import free_port

VERSION = "0.6.2"
INSTALLED_WITHIN_S = 120
READY_WITHIN_S = 30

SETTINGS = {
    "LOG_LEVEL": "ERROR",
    # How long the endpoint pretends to work at a change; half a second by default.
    "CREATE_STREAM_DURATION": "5ms",
    "DELETE_STREAM_DURATION": "5ms",
    "SPLIT_SHARD_DURATION": "5ms",
    "MERGE_SHARDS_DURATION": "5ms",
}


LOOPBACK = """
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...given) {
  const port = Number(typeof given[0] === "object" ? given[0].port : given[0]);
  const listening = given.filter((one) => typeof one === "function");
  return listen.call(this, { port, host: "127.0.0.1" }, ...listening);
};
"""
"""The endpoint listens on all interfaces, and has no setting for that; this one is loaded before it."""


class KinesisLocal:
    """A running endpoint, on loopback."""

    def __init__(self, package: Path, log: Path) -> None:
        self._port, tls_port = free_port(), free_port()
        self.endpoint_url = f"http://127.0.0.1:{self._port}"
        ports = {"KINESIS_MOCK_PLAIN_PORT": str(self._port), "KINESIS_MOCK_TLS_PORT": str(tls_port)}
        certificate = {"KINESIS_MOCK_CERT_PATH": str(package / "server.json")}
        loopback = log.parent / "loopback.js"
        loopback.write_text(LOOPBACK)
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ["node", "--require", str(loopback), str(package / "main.js")],
                env={**os.environ, **SETTINGS, **ports, **certificate},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            TimeoutError: it does not.
        """
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"kinesis-local did not answer within {READY_WITHIN_S} s")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def client(self) -> Any:
        """A boto3 client of this endpoint."""
        make: Any = boto3.session.Session().client  # by name, which the stubs cannot follow
        return make("kinesis", endpoint_url=self.endpoint_url)


@pytest.fixture(scope="session")
def kinesis_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KinesisLocal]:
    """One endpoint for the session."""
    os.environ.update(TEST_CREDENTIALS)
    running: KinesisLocal | None = None
    try:
        running = KinesisLocal(_installed(), tmp_path_factory.mktemp("kinesis-local") / "log")
        running.wait()
    except (OSError, subprocess.SubprocessError) as error:
        if running is not None:
            running.stop()
        if os.environ.get("CI"):
            pytest.fail(f"kinesis-local: {error}")
        pytest.skip(f"kinesis-local: {error}")
    yield running
    running.stop()


def _installed() -> Path:
    """The package's folder, in a cache that outlives the session; fetched by npm once.

    Raises:
        OSError, subprocess.SubprocessError: node or npm is missing, or npm could not fetch it.
    """
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            raise FileNotFoundError(f"{command} is not installed")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = base / "millstream-tests" / f"kinesis-local-{VERSION}"
    package = cache / "node_modules" / "kinesis-local"
    if not (package / "main.js").exists():
        cache.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--prefix", str(cache), "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(
            [*install, f"kinesis-local@{VERSION}"],
            check=True,
            capture_output=True,
            timeout=INSTALLED_WITHIN_S,
        )
    return package
