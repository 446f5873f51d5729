"""Cold starts of functions that import much: request → first response, with and without snap_start.

The baseline of each is a plain interpreter that imports the same and says so. Interleaved, after a warm-up.
"""

from __future__ import annotations

import asyncio
import compileall
import site
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.coldstart import start_one
from benchmarks.report import Result, case
from millstream.contract.functions import FunctionSpec, Success
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.sandboxes.bwrap import BwrapSandbox

IMPORTED = ("boto3", "numpy", "pandas")
REPEATS, WARM_UP = 12, 2
HANDLER = "import {0}\n\n\ndef handle(event, context):\n    return {0}.__name__\n"
PREPARE_S = 30.0
REQUEST = "00000000-0000-0000-0000-000000000000"


def run() -> Result:
    """Milliseconds of one start."""
    return asyncio.run(_run())


async def _run() -> Result:
    cases: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        sandbox, logs = BwrapSandbox(Path(folder) / "sandboxes"), FunctionLogs(Path(folder) / "logs")
        await sandbox.start()
        for name in IMPORTED:
            function = _function(Path(folder), name)
            plain: list[float] = []
            forked: list[float] = []
            restored: list[float] = []
            for repeat in range(WARM_UP + REPEATS):
                figures = (
                    await _plain(name),
                    await start_one(sandbox, function, logs),
                    await _restore(sandbox, replace(function, name=f"{name}-snap", snap_start=True), logs),
                )
                if repeat >= WARM_UP:
                    for figure, into in zip(figures, (plain, forked, restored), strict=True):
                        into.append(figure)
            cases[name] = case(forked, plain, "ms")
            cases[f"{name}-snap-start"] = case(restored, plain, "ms")
        await sandbox.aclose()
        logs.flush()
    return {"benchmark": "cold-imports", "cases": cases}


def _function(folder: Path, imported: str) -> FunctionSpec:
    """Packages that are not bundled come from this interpreter's own, as from a layer."""
    code = folder / imported
    code.mkdir()
    (code / "f.py").write_text(HANDLER.format(imported), encoding="utf-8")
    compileall.compile_dir(code, quiet=2)  # as a package that is deployed
    arn = f"arn:aws:lambda:us-east-1:0:function:{imported}"
    function = FunctionSpec(imported, arn, "f.handle", code, memory_size_mb=1024, timeout_s=30.0)
    if imported == "boto3":
        return function
    packages = Path(site.getsitepackages()[0])
    return replace(function, opt=packages, environment={"PYTHONPATH": "/opt"})


async def _plain(imported: str) -> float:
    """Milliseconds until a plain interpreter has imported it."""
    started_at = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"import {imported}; print({imported}.__name__)",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline()
    elapsed_ms = (time.perf_counter() - started_at) * 1000
    assert await process.wait() == 0
    return elapsed_ms


async def _restore(sandbox: BwrapSandbox, function: FunctionSpec, logs: FunctionLogs) -> float:
    """Milliseconds from a request to its response, where the function was loaded ahead."""
    environment = await sandbox.create(function, logs.of(function.name))
    async with asyncio.timeout(PREPARE_S):
        failed = await environment.prepare()
    assert failed is None, failed
    environment.freeze()
    started_at = time.perf_counter()
    outcome = await environment.invoke(b'{"a": 1}', REQUEST)
    elapsed_ms = (time.perf_counter() - started_at) * 1000
    assert isinstance(outcome, Success), outcome
    await environment.aclose()
    return elapsed_ms
