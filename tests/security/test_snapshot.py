"""What a function may try on the snapshot that it is restored from, and as that on its supervisor."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

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


CHAIN = """
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static void woken(int number) { (void)number; }
int main(void) {
    time_t end = time(0) + 30;
    signal(SIGCHLD, SIG_IGN);
    signal(SIGCONT, woken);
    for (int each = 0; each < 16; each++) {
        if (fork()) continue;
        struct sigevent by = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGCONT};
        struct itimerspec every = {{0, 2000000}, {0, 2000000}};
        timer_t timer;
        setsid();
        timer_create(CLOCK_MONOTONIC, &by, &timer);
        timer_settime(timer, 0, &every, 0);
        while (time(0) < end) {
            pause(); /* until the timer goes on, even where all was told to stop */
            if (access("/tmp/go", F_OK) == 0 && fork() == 0) {
                while (time(0) < end) if (fork() > 0) _exit(0); /* each starts one and ends */
                _exit(0);
            }
        }
        _exit(0);
    }
    return 0;
}
"""
CHAINS = """
import os, subprocess, time
def handle(e, c):
    if e is None:
        return "fine"
    subprocess.run([e], check=True)
    time.sleep(0.3)
    open("/tmp/go", "w").close()
    os._exit(1)
"""


@pytest.fixture
def chain(tmp_path: Path) -> str:
    """A program in the function's package."""
    compiler = shutil.which("cc")
    if compiler is None and not os.environ.get("CI"):
        pytest.skip("needs a C compiler")
    (tmp_path / "code").mkdir()
    build = [compiler or "cc", "-O1", "-x", "c", "-", "-o", str(tmp_path / "code" / "chain")]
    subprocess.run(build, input=CHAIN.encode(), check=True)
    return "/var/task/chain"


async def test_what_starts_others_faster_than_it_is_ended_ends_all_the_same(
    runtime: MakeRuntime, chain: str
) -> None:
    async with runtime("bwrap", CHAINS, timeout_s=30.0, snap_start=True, memory_size_mb=512) as it:
        assert await it.answer() == "fine"
        assert isinstance(await it.invoke(chain), FunctionFailed)
        began = time.monotonic()
        assert await it.answer() == "fine"
        assert time.monotonic() - began < 10.0
