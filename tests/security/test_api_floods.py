"""Attempts of one function to hold up the daemon's loop, which all functions share."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from pathlib import Path

import pytest

from millstream.runtime import ends
from tests.security.drivers import driver
from tests.security.victim import pair

__all__ = ["driver"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attempts are on Linux"),
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


FLOOD_S = 2.0

FLOODING = f"""
import os, socket, threading, time
CONNECTIONS = 8
reached, ends_at = [], []
HOST, PORT = os.environ.get("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001").split(":")
def connected():
    made = socket.create_connection((HOST, int(PORT)), 5)
    made.settimeout(max(ends_at[-1] - time.time(), 0.05))  # what is not read then need not be
    reached.append(True)
    return made
def endless(first, more):
    def flood(until):
        while time.time() < until:
            with connected() as sock:
                sock.sendall(first)
                while time.time() < until:
                    sock.sendall(more)
    return flood
def answered(data):
    def flood(until):
        with connected() as sock:
            threading.Thread(target=drain, args=(sock,), daemon=True).start()
            while time.time() < until:
                sock.sendall(data)
    return flood
def drain(sock):
    try:
        while sock.recv(1 << 20):
            pass
    except OSError:
        pass
def connects(until):
    while time.time() < until:
        connected().close()
def pieces(until):
    with connected() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while time.time() < until:
            sock.sendall(b"GET /x HTTP/1.1\\r\\n")
            for letter in b"x" * 1000:
                sock.sendall(b"x:")
                sock.sendall(b"y\\r\\n")
            sock.sendall(b"\\r\\n")
POST = b"POST /2018-06-01/runtime/init/error HTTP/1.1\\r\\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\\r\\n\\r\\n"
FLOODS = {{
    "trailer": endless(CHUNKED + b"0\\r\\nX-A: ", bytes(b"a" * (1 << 20))),
    "chunks": endless(CHUNKED, b"1\\r\\na\\r\\n" * 100000),
    "bodies": endless(b"", POST + b"Content-Length: 60000000\\r\\n\\r\\n" + bytes(60000000)),
    "requests": answered(b"GET /x HTTP/1.1\\r\\n\\r\\n" * 12000),
    "connections": connects,
    "pieces": pieces,
}}
def handle(event, context):
    until = time.time() + {FLOOD_S}
    ends_at.append(until)
    def go():
        while time.time() < until:
            try:
                FLOODS[event](until)
            except OSError:
                pass
    threads = [threading.Thread(target=go) for _ in range(CONNECTIONS)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return "flooded" if reached else "not reached"
"""


@pytest.mark.parametrize("flood", ["trailer", "chunks", "bodies", "requests", "connections", "pieces"])
async def test_floods_of_its_apis_are_hardly_noticed_by_others(
    driver: str, tmp_path: Path, flood: str
) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with pair(driver, tmp_path, FLOODING, memory_size_mb=512) as it:
        beside = await it.during(flood)
    assert beside.answer == "flooded"
    assert beside.unharmed, beside
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 64 * 1024


@pytest.mark.parametrize("kernel", ["new", "old"])
async def test_a_socket_that_lingers_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    if kernel == "old":
        monkeypatch.setattr(ends, "SO_PASSRIGHTS", 1 << 20)  # which no kernel knows
    async with pair("bwrap", tmp_path, LINGERING) as it, asyncio.TaskGroup() as group:
        assert await it.attack(None) == "loaded"
        busy = group.create_task(_busy())
        beside = await it.during()
        busy.cancel()
    assert beside.stood_still_s < LINGER_S / 2, beside


async def _busy() -> None:
    """Keep the loop from reading for a moment at a time, so that the attacker has closed its copy first."""
    while True:
        time.sleep(0.1)  # noqa: ASYNC251 - that is what it is for
        await asyncio.sleep(0.001)
