"""What the benchmarks of streams share: a daemon's delivered count, the latencies that a function prints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

from millstream.cli.embedded import daemon_process
from millstream.daemon import data_dir
from millstream.daemon.control import NoDaemon, Request, ask

DEADLINE_S = 180.0
LATENCY = "latency_ms="


def mapping_rate(
    directory: Path,
    endpoint_url: str,
    source: str,
    records: int,
    watch: Callable[[int], None] = lambda pid: None,
) -> float:
    """Records a second that a daemon delivers, from the first batch to the last.

    `watch` is given its pid before it is ended. A later start of the clock would favour the mapping:
    what it has read ahead by then would cost nothing.
    """
    directory.mkdir()
    app = directory / "app.py"
    app.write_text(source, encoding="utf-8")
    socket = data_dir.control_socket(directory / ".millstream")
    with daemon_process(app, endpoint_url) as daemon:
        first_at, first = _when(socket, 1)
        last_at, last = _when(socket, records)
        watch(daemon.pid)
    return (last - first) / (last_at - first_at)


def latencies(data: Path, function: str) -> list[float]:
    """What a function has printed as `latency_ms=…`, in order."""
    log = (data_dir.logs(data) / f"{function}.log").read_text(encoding="utf-8")
    return [float(line.split(LATENCY, 1)[1]) for line in log.splitlines() if LATENCY in line]


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent are below."""
    return quantiles(values, n=100)[percent - 1]


def _when(socket: Path, delivered: int) -> tuple[float, int]:
    """When at least so many were delivered, and how many they were."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        try:
            status: Any = ask(socket, Request("mappings", backlog=False))["mappings"][0]["status"]
        except NoDaemon:
            status = {"delivered": 0}
        if status["delivered"] >= delivered:
            return time.perf_counter(), status["delivered"]
        time.sleep(0.02)
    raise TimeoutError(f"{delivered} records were not delivered within {DEADLINE_S:g} s")
