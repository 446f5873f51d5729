"""Rules of style that a tool holds: what they are for is a test, so that nobody lifts one by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BANNED = {
    "asyncio.wait_for": "import asyncio\n\n\nasync def f() -> None:\n    await asyncio.wait_for(asyncio.sleep(0), 1)\n",
    "asyncio.create_task": "import asyncio\n\n\nasync def f() -> None:\n    await asyncio.create_task(f())\n",
    "asyncio.to_thread": "import asyncio\n\n\nasync def f() -> None:\n    await asyncio.to_thread(print)\n",
}


@pytest.mark.parametrize("name", BANNED)
def test_what_swallows_cancellations_or_leaves_tasks_alone_is_refused(name: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "mappings/new.py", "-"]
    found = subprocess.run(command, input=BANNED[name], capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 1
    assert f"`{name}` is banned" in found.stdout
