"""An idle daemon with ten mappings: share of a core and memory, beside ten bare threads that long-poll."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3

from benchmarks.report import Result, case
from millstream.cli.embedded import aws_endpoint, daemon_process

QUEUES = 10
SETTLE_S = 50.0  # two long polls of 20 s, after which a queue counts as idle
SPAN_S = 40.0

APP = """
from millstream import App, Sqs

app = App("idle")


@app.function
def handle(event, context):
    return None


for number in range({queues}):
    app.map(Sqs(f"idle-{{number}}"), to=handle)
"""

BARE = """
import sys, threading, boto3
sqs = boto3.client("sqs", endpoint_url=sys.argv[1])
def loop(url):
    while True:
        sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=20)
for url in sys.argv[2:]:
    threading.Thread(target=loop, args=(url,)).start()
"""


def run() -> Result:
    """Both at once on one endpoint, so that both see the same machine."""
    with tempfile.TemporaryDirectory() as folder, aws_endpoint(Path(folder) / "aws.log") as endpoint_url:
        sqs: Any = boto3.session.Session().client("sqs", endpoint_url=endpoint_url)
        urls = [sqs.create_queue(QueueName=f"idle-{n}")["QueueUrl"] for n in range(QUEUES)]
        app = Path(folder) / "app.py"
        app.write_text(APP.format(queues=QUEUES), encoding="utf-8")
        bare = subprocess.Popen([sys.executable, "-c", BARE, endpoint_url, *urls])
        try:
            with daemon_process(app, endpoint_url) as daemon:
                time.sleep(SETTLE_S)
                before = cpu_s(daemon.pid), cpu_s(bare.pid)
                time.sleep(SPAN_S)
                after = cpu_s(daemon.pid), cpu_s(bare.pid)
                memory = {"memory_mb": memory_mb(daemon.pid), "baseline_memory_mb": memory_mb(bare.pid)}
        finally:
            bare.kill()
            bare.wait()
    shares = [(b - a) / SPAN_S * 100 for a, b in zip(before, after, strict=True)]
    floor = 0.01  # the kernel counts in ticks of 10 ms
    figures = case([max(shares[0], floor)], [max(shares[1], floor)], "% of a core", **memory)
    return {"benchmark": "idle", "cases": {"ten-mappings": figures}}


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, its children not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
