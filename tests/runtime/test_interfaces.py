"""A function can list the interfaces of its network, as libraries for mail and tracing do when they load."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.runtime.conftest import MakeRuntime, runtime
from tests.security.drivers import driver

__all__ = ["driver", "runtime"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sandboxes need Linux"),
]

sandboxes = pytest.mark.parametrize("driver", ["bwrap", "docker"], indirect=True)

PYTHON = "import socket\ndef handle(e, c):\n    return [name for _, name in socket.if_nameindex()]\n"
NODE_AT = os.path.realpath(shutil.which("node") or "/")
NODE = """
import subprocess
def handle(e, c):
    script = "console.log(Object.keys(require('os').networkInterfaces()).join())"
    done = subprocess.run([e, "-e", script], capture_output=True, text=True)
    return done.stdout.split() or done.stderr
"""


@sandboxes
async def test_python_lists_them(runtime: MakeRuntime, driver: str) -> None:
    async with runtime(driver, PYTHON, timeout_s=10.0) as it:
        assert await it.answer() == ["lo"]


@pytest.mark.skipif(not NODE_AT.startswith("/usr/"), reason="needs node below /usr")
@sandboxes
async def test_node_lists_them(runtime: MakeRuntime, driver: str) -> None:
    async with runtime(driver, NODE, timeout_s=30.0, memory_size_mb=1024) as it:
        assert await it.answer(NODE_AT) == ["lo"]
