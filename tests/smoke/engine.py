"""A Docker engine for a test: the one that answers, or one that is started for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import containers
from tests.brokers.containers import answers

READY_WITHIN_S = 30.0
ENDED_WITHIN_S = 30.0
BRIDGE = "docker0"


@contextmanager
def engine(*, bridge: bool = True) -> Iterator[str]:
    """A running engine, as DOCKER_HOST names it; one that is started has a network only with `bridge`.

    Skips where none answers and none can be started, which takes root and Debian's docker.io; fails where
    CI is set.
    """
    given = containers.engine()
    if answers(given):
        yield given
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        why = f"wanted a Docker engine, or root and dockerd to start one, found nothing at {given}"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with started(bridge=bridge) as address:
        yield address


@contextmanager
def started(*, bridge: bool) -> Iterator[str]:
    """An engine with a socket and a store of its own. It leaves the rules of the firewall as they are."""
    had_bridge = not bridge or bridge_folder().exists()
    folder = Path(tempfile.mkdtemp(prefix="millstream-docker-"))
    address = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", address, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["--pidfile", f"{folder}/pid", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
    if not bridge:  # without one, an engine removes that of others from the network that it is in
        command = ["unshare", "--net", *command, "--bridge=none"]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until = time.monotonic() + READY_WITHIN_S
        while not answers(address):
            if process.poll() is not None or time.monotonic() > until:
                raise TimeoutError(f"dockerd did not answer: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if not had_bridge and bridge_folder().exists() and shutil.which("ip") is not None:
            subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)  # what is still mounted there goes with the machine


def bridge_folder() -> Path:
    return Path("/sys/class/net") / BRIDGE
