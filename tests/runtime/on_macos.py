"""Runs functions with `--isolation process` on a macOS that is made up; prints what came of them as JSON.

Its arguments: a folder to work in, and the interpreter that it starts.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from tests.runtime.without_linux import take_away

FOLDER, PYTHON = Path(sys.argv[1]), sys.argv[2]
take_away()
os.geteuid = lambda: 501  # the first user of a Mac
sys.executable = PYTHON

from millstream.contract.clock import SystemClock  # noqa: E402
from millstream.contract.functions import FunctionFailed, FunctionSpec, Success  # noqa: E402
from millstream.contract.registry import load_plugin  # noqa: E402
from millstream.runtime.concurrency import ConcurrencyLedger  # noqa: E402
from millstream.runtime.logs import FunctionLogs  # noqa: E402
from millstream.runtime.pool import RuntimePool  # noqa: E402

CODE = """
import os, subprocess, sys, time

def handle(event, context):
    if event == "sleep":
        time.sleep(60)
    if event == "fail":
        raise ValueError("no")
    if event == "exit":
        os._exit(3)
    if event == "program":
        return subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout
    return [event, sys.platform, os.environ["TMPDIR"] != ""]
"""
EVENTS = ("plain", "program", "fail", "sleep", "plain", "exit", "plain")


async def main() -> None:
    code = FOLDER / "code"
    code.mkdir(exist_ok=True)
    (code / "f.py").write_text(CODE, encoding="utf-8")
    framed = FunctionSpec(
        "framed", "arn:aws:lambda:us-east-1:0:function:framed", "f.handle", code, timeout_s=3.0
    )
    fresh = replace(framed, name="fresh", environment={"PYTHONHASHSEED": "1"})
    loaded = replace(framed, name="loaded", snap_start=True)
    specs = {spec.name: spec for spec in (framed, fresh, loaded)}
    sandbox = load_plugin("sandboxes", "process")(FOLDER / "sandboxes")
    await sandbox.start()
    logs = FunctionLogs(FOLDER / "logs")
    pool = RuntimePool(
        specs, sandbox, ConcurrencyLedger(100, list(specs.values())), logs, SystemClock(), 0.05
    )
    found: dict[str, list[object]] = {}
    async with pool:
        for name in specs:
            for event in EVENTS:
                outcome = await pool.invoke(name, json.dumps(event).encode())
                assert isinstance(outcome, Success | FunctionFailed), outcome
                failed = isinstance(outcome, FunctionFailed)
                came = (
                    outcome.error_type if isinstance(outcome, FunctionFailed) else json.loads(outcome.payload)
                )
                found.setdefault(name, []).append(["failed", came] if failed else came)
    await sandbox.aclose()
    print(json.dumps({"found": found, "limits": sandbox.limits()}))


asyncio.run(main())
