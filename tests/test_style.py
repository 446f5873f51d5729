"""Rules of style that a tool holds: what they are for is a test, so that nobody lifts one by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CODE = """
import asyncio


async def f() -> None:
    await {name}(f())
"""


@pytest.mark.parametrize("name", ["asyncio.wait_for", "asyncio.create_task", "asyncio.to_thread"])
def test_what_swallows_cancellations_or_leaves_tasks_alone_is_refused(name: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "mappings/new.py", "-"]
    code = CODE.format(name=name)
    found = subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 1
    assert f"`{name}` is banned" in found.stdout
