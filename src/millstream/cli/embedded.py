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


@contextmanager
def aws_endpoint(log: Path) -> Iterator[str]:
    """An AWS endpoint (ministack) on a free port of loopback; its URL.

    Sets test credentials and a region for this process and those that it starts.

    Raises:
        MillstreamError: it is not installed, or does not answer.
    """
    command = shutil.which("ministack", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if command is None:
        raise MillstreamError("ministack: wanted the demo extra (pip install 'millstream[demo]'), found none")
    port = _free_port()
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"):
        os.environ.pop(name, None)
    settings = {"BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [command], env={**os.environ, **settings}, stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        _wait_until_open(port, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(process, STOP_S)


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
