"""Processes that the demo and the benchmarks start beside themselves: an AWS endpoint, a daemon."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.contract.errors import MillstreamError

READY_S = 20.0
"""How long the endpoint may take to answer; it takes well below a second."""

STOP_S = 40.0
"""How long the daemon may take to drain."""

TEST_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""What the endpoint takes, and no other one does."""


class AwsEndpoint:
    """An AWS endpoint (ministack) on a free port of loopback, the same one over restarts."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            MillstreamError: it is not installed, or does not answer.
        """
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        command = shutil.which("ministack", path=path)
        if command is None:
            wanted = "wanted the demo extra (pip install 'millstream[demo]')"
            raise MillstreamError(f"ministack: {wanted}, found none")
        settings = {"BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1", "GATEWAY_PORT": str(self._port)}
        environment = {**os.environ, **settings}
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [command], env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        try:
            _wait_until_open(self._port, self._process, self._log)
        except MillstreamError:
            self.stop()
            raise

    def stop(self) -> None:
        """End it; what its queues held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def aws_endpoint(log: Path) -> Iterator[str]:
    """A running AwsEndpoint's URL; sets its credentials for this process and those that it starts."""
    os.environ.update(TEST_CREDENTIALS)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"):
        os.environ.pop(name, None)
    endpoint = AwsEndpoint(log)
    endpoint.start()
    try:
        yield endpoint.url
    finally:
        endpoint.stop()


@contextmanager
def daemon_process(app: Path, endpoint_url: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`millstream run` on an app file, its data directory beside the file, its log in daemon.log."""
    command = [sys.executable, "-m", "millstream", "run", str(app), "--endpoint-url", endpoint_url]
    command += ["--data-dir", str(app.parent / ".millstream"), *options]
    log = app.parent / "daemon.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        _end(process, STOP_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    last = (log.read_text(errors="replace").splitlines() or ["nothing"])[-1]
    raise MillstreamError(f"ministack: wanted an answer within {READY_S:g} s, found: {last}")


def _end(process: subprocess.Popen[bytes], within_s: float) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
