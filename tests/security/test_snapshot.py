"""What a function may try on the snapshot that it is restored from, and as that on its supervisor."""

from __future__ import annotations

import socket
import sys

import pytest

from millstream.contract.functions import FunctionFailed, Success
from millstream.runtime import environment, restoring
from millstream.runtime.ends import refuse_descriptors
from tests.runtime.conftest import MakeRuntime, runtime
from tests.security.attempts import TRY

__all__ = ["runtime"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux"),
]

LOADED = (
    TRY
    + """
import os, socket
mine = os.getpid()
"""
)


DENIED = {"error": "PermissionError"}


async def test_a_runtime_cannot_look_into_its_snapshot(runtime: MakeRuntime) -> None:
    code = LOADED + (
        "def handle(e, c):\n    assert mine != os.getpid()\n"
        "    return [attempt(lambda: open(f'/proc/{mine}/{name}', 'rb').read(1)) for name in e]\n"
    )
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        assert await it.answer(["mem", "environ", "maps", "auxv", "cwd/f.py", "fd/1"]) == [DENIED] * 6


async def test_a_runtime_has_no_socket_of_its_snapshot_and_may_look_into_itself(runtime: MakeRuntime) -> None:
    code = LOADED + (
        "def handle(e, c):\n"
        "    open('/proc/self/environ', 'rb').read(1)\n"
        "    links = [os.readlink(entry.path) for entry in os.scandir('/proc/self/fd')][:-1]\n"
        "    return [link for link in links if link.startswith('socket')]\n"
    )
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        assert len(await it.answer()) == 1


HOSTILE = (
    LOADED
    + """
def sockets():
    for fd in range(3, 64):
        try:
            found = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if found.type == socket.SOCK_SEQPACKET:
            yield found
def handle(e, c):
    if e == "exit":
        os._exit(1)
    return "ok"
"""
)


def refuses_descriptors() -> bool:
    """True if this kernel lets a socket refuse them (Linux 6.16)."""
    with socket.socket(socket.AF_UNIX) as sock:
        return refuse_descriptors(sock)


@pytest.mark.skipif(not refuses_descriptors(), reason="the kernel hands on whatever is sent")
async def test_a_snapshot_hands_no_descriptor_to_its_supervisor(runtime: MakeRuntime) -> None:
    code = HOSTILE.replace('return "ok"', "return sent") + (
        "sent = [attempt(lambda: socket.send_fds(s, [b'+'], [0])) for s in sockets()]\n"
    )
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        tried = await it.answer()
        assert tried
        assert all(each == DENIED for each in tried)  # copies that it made are found, too


ATTACKS = {
    "answers that nobody asked for": "for s in sockets():\n    for _ in range(1000):\n        "
    "attempt(lambda: s.send(b'+', socket.MSG_DONTWAIT))\n",
    "a long answer": "for s in sockets():\n    attempt(lambda: s.send(b'x' * 60000, socket.MSG_DONTWAIT))\n",
    "descriptors": "for s in sockets():\n    attempt(lambda: socket.send_fds(s, [b'+'], [0] * 200))\n",
    "a closed socket": "for s in sockets():\n    s.shutdown(socket.SHUT_RDWR)\n",
    "closed descriptors": "for fd in range(3, 64):\n    attempt(lambda: os.close(fd))\n",
    "a snapshot that stands still": "os.fork() or [os.kill(os.getppid(), 19), os._exit(0)]\n",
    "hooks that never end": "import snapshot_restore_py, time\n"
    "snapshot_restore_py.register_after_restore(time.sleep, 60)\n",
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_hostile_snapshot_harms_its_function_alone(
    runtime: MakeRuntime, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "RESTORE_S", 0.5)
    for module in (environment, restoring):
        monkeypatch.setattr(module, "PREPARE_S", 1.0)
    async with runtime("bwrap", HOSTILE + ATTACKS[attack], timeout_s=1.0, snap_start=True) as it:
        for event in (None, "exit", None):
            assert isinstance(await it.invoke(event), Success | FunctionFailed)
