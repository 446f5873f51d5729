"""What other users of the host can see of a function while it is started."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runtime.conftest import MakeRuntime

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

SECRET = "s3cret-of-the-function"


@contextmanager
def command_lines() -> Iterator[set[bytes]]:
    """Command lines of all processes of this host, seen while it is open."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for pid in filter(str.isdecimal, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    seen.add(Path("/proc", pid, "cmdline").read_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


async def test_its_variables_are_on_no_command_line(
    driver: str, runtime: MakeRuntime, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    script = tmp_path / "code" / "bootstrap"
    script.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    script.chmod(0o755)
    spec = {"command": ("/var/task/bootstrap",), "runtime": "provided.al2023"}
    with command_lines() as seen:
        async with runtime(driver, "", environment={"PASSWORD": SECRET}, **spec) as it:
            await it.error()
    assert any(b"launch.py" in line for line in seen)
    assert not any(SECRET.encode() in line for line in seen)
