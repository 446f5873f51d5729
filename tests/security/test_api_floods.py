"""Attempts of one function to hold up the daemon's loop, which all functions share."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from millstream.contract.functions import Success
from millstream.runtime import ends
from tests.security.floods import pair

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux"),
]

LINGER_S = 5

LINGERING = f"""
import os, socket, struct, time
def handle(event, context):
    if not event:
        return "loaded"
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    full = socket.create_connection(server.getsockname())
    full.setblocking(False)
    try:
        while True:
            full.send(bytes(65536))
    except BlockingIOError:
        pass
    full.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, {LINGER_S}))
    refused = []
    for descriptor in range(3, 16):
        try:
            frames = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(descriptor))
            socket.send_fds(frames, [b"S"], [full.fileno()])
        except OSError as error:
            refused.append(error.strerror)
            continue
        os.close(full.detach())  # the copy that is under way is the last one
        time.sleep(30)
    full.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return refused
"""


@pytest.mark.parametrize("kernel", ["new", "old"])
async def test_a_socket_that_lingers_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    if kernel == "old":
        monkeypatch.setattr(ends, "SO_PASSRIGHTS", 1 << 20)  # which no kernel knows
    async with pair("bwrap", tmp_path, LINGERING, timeout_s=15.0) as it, asyncio.TaskGroup() as group:
        busy = group.create_task(_busy())
        beside = await it.attack(1)
        busy.cancel()
    assert isinstance(beside.outcome, Success), beside.outcome
    assert beside.stood_still_s < LINGER_S / 2, beside


async def _busy() -> None:
    """Keep the loop from reading for a moment at a time, so that the attacker has closed its copy first."""
    while True:
        time.sleep(0.1)  # noqa: ASYNC251 - that is what it is for
        await asyncio.sleep(0.001)
