"""Real attempts from inside a function of the bwrap driver; each must come to nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.runtime.pool import RuntimePool
from millstream.runtime.sandboxes import template
from millstream.runtime.sandboxes.hierarchies import find_groups
from tests.clock import VirtualClock
from tests.runtime.conftest import MakeRuntime, runtime
from tests.security.attempts import TRY, tried

__all__ = ["runtime"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux"),
]


@pytest.mark.parametrize(
    "action",
    [
        "open('/etc/shadow').read()",
        "os.listdir('/root')",
        "os.listdir('/home')",
        "open('/proc/1/root/etc/shadow').read()",
        "open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')",
        "open('/proc/1/mem', 'rb').read(1)",
        "open('/proc/1/environ', 'rb').read()",
        "open('/proc/1/maps').read()",
        "os.readlink('/proc/1/fd/3')",
        "open('/proc/1/fd/1', 'w')",
        "os.readlink('/proc/1/exe')",
        "os.stat('/proc/1/cwd/')",
        "__import__('resource').prlimit(1, __import__('resource').RLIMIT_CPU, (1, 1))",
        "open('/var/task/new', 'w')",
        "open('/usr/new', 'w')",
        "open('/var/runtime/new', 'w')",
        "os.mkdir('/new')",
        "os.listdir('/etc/ssl/private')",
        "open('/dev/new', 'w')",
        "open('/dev/shm/new', 'w')",
        "os.openpty()",
        "os.setuid(0)",
        "os.chroot('/tmp')",
        "os.mknod('/tmp/sda', 0o60666, os.makedev(8, 0))",
        "os.kill(-1, 9) or 1/0",
        "__import__('socket').socket(__import__('socket').AF_PACKET, 3)",
        "__import__('socket').socket(16, 3, 12)",
        *(
            f"__import__('socket').socket({family}, 2)"
            for family in (3, 4, 9, 17, 21, 29, 31, 38, 40, 42, 44)
        ),
    ],
)
async def test_an_attempt_is_refused(runtime: MakeRuntime, action: str) -> None:
    answer = await tried(runtime, f"def handle(e, c):\n    return attempt(lambda: {action})\n")
    assert "error" in answer, answer


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("unshare", 272), ("mount", 165), ("ptrace", 101), ("bpf", 321), ("io_uring_setup", 425),
        ("userfaultfd", 323), ("add_key", 248), ("keyctl", 250), ("perf_event_open", 298), ("setns", 308),
        ("process_vm_readv", 310), ("init_module", 175), ("clone3", 435),
    ],
)  # fmt: skip
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86_64")
async def test_a_system_call_is_denied(runtime: MakeRuntime, name: str, number: int) -> None:
    code = (
        "import ctypes\ndef handle(e, c):\n    libc = ctypes.CDLL(None, use_errno=True)\n"
        f"    return [libc.syscall({number}, 0x10000000, 0, 0, 0, 0), ctypes.get_errno()]\n"
    )
    answer, number = await tried(runtime, code)
    assert answer == -1
    assert number in (1, 38), name  # EPERM, ENOSYS


async def test_a_function_holds_no_capability_and_gains_none(runtime: MakeRuntime) -> None:
    code = "def handle(e, c):\n    return open('/proc/self/status').read()\n"
    status = dict(line.split(":\t", 1) for line in (await tried(runtime, code)).splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


async def test_the_hosts_loopback_is_out_of_reach(runtime: MakeRuntime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            "import socket\ndef handle(e, c):\n"
            "    return attempt(lambda: socket.create_connection(('127.0.0.1', e), 2))\n"
        )
        assert "error" in await tried(runtime, code, port)


async def test_an_abstract_socket_of_the_host_is_out_of_reach(runtime: MakeRuntime) -> None:
    name = f"\0millstream-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = (
            "import socket\ndef handle(e, c):\n"
            "    return attempt(lambda: socket.socket(socket.AF_UNIX).connect(e))\n"
        )
        assert "error" in await tried(runtime, code, name)


async def test_there_is_no_way_off_the_host(runtime: MakeRuntime) -> None:
    code = (
        "import socket\ndef handle(e, c):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    return [attempt(lambda: s.sendto(b'x', ('192.0.2.1', 9))), open('/proc/net/dev').read()]\n"
    )
    sent, interfaces = await tried(runtime, code)
    assert "error" in sent
    assert [line.split(":")[0].strip() for line in interfaces.splitlines()[2:]] == ["lo"]


async def test_only_its_own_processes_are_visible(runtime: MakeRuntime) -> None:
    code = "import os\ndef handle(e, c):\n    return [p for p in os.listdir('/proc') if p.isdecimal()]\n"
    assert await tried(runtime, code) == ["1", "2"]  # its supervisor and itself


async def test_no_descriptor_but_its_own_is_open(runtime: MakeRuntime) -> None:
    code = (
        "import os\ndef handle(e, c):\n"
        "    return {d: os.readlink(f'/proc/self/fd/{d}') for d in os.listdir('/proc/self/fd') if int(d) > 3"
        " and os.path.exists(f'/proc/self/fd/{d}')}\n"
    )
    open_ones = await tried(runtime, code)
    assert all(target.startswith("/proc/") for target in open_ones.values()), open_ones


async def test_tmp_is_private_to_an_environment_and_bounded(runtime: MakeRuntime) -> None:
    code = (
        "import os, time\ndef handle(e, c):\n"
        "    before = os.listdir('/tmp')\n    time.sleep(.3)\n"
        "    open('/tmp/mine', 'w').write('x')\n    stat = os.statvfs('/tmp')\n"
        "    return [before, stat.f_blocks * stat.f_frsize]\n"
    )
    async with runtime("bwrap", TRY + code, timeout_s=10.0, ephemeral_storage_mb=512) as it:
        answers = await asyncio.gather(it.answer(), it.answer())
    assert [before for before, _ in answers] == [[], []]
    assert {size for _, size in answers} == {512 * 1024 * 1024}


async def test_many_small_files_do_not_pass_the_bound_of_tmp(runtime: MakeRuntime) -> None:
    code = "import os\ndef handle(e, c):\n    return os.statvfs('/tmp').f_files\n"
    assert await tried(runtime, code, ephemeral_storage_mb=512) <= 65536


async def test_a_crash_starts_no_program_of_the_host(runtime: MakeRuntime) -> None:
    code = "import resource\ndef handle(e, c):\n    return resource.getrlimit(resource.RLIMIT_CORE)\n"
    assert await tried(runtime, code) == [1, 1]  # core(5): at 0, a pipe in core_pattern is still used


async def test_memory_is_bounded(runtime: MakeRuntime) -> None:
    code = "def handle(e, c):\n    return len(bytearray(400 * 1024 * 1024))\n"
    async with runtime("bwrap", code, timeout_s=20.0) as it:
        assert (await it.error())["errorType"] == "MemoryError"


SHARED = """
import mmap, os
def mapped():
    area = mmap.mmap(-1, 1 << 30)
    for page in range(0, 1 << 30, 4096):
        area[page] = 1
def file():
    for _ in range(16):
        descriptor = os.memfd_create("x")
        for _ in range(64):
            os.write(descriptor, bytes(1 << 20))
def forked():
    for _ in range(20):
        if os.fork() == 0:
            held = bytearray(64 << 20)
            __import__("time").sleep(60)
    return os.wait()[1]
def handle(e, c):
    return globals()[e]() if e else "fine"
"""


@pytest.fixture
def cgroups() -> None:
    groups = find_groups()
    if groups is None or "memory" not in groups.controllers:
        pytest.skip("this host lets us make no cgroup for memory")
    groups.close()


@pytest.mark.parametrize("way", ["mapped", "file"])
async def test_memory_that_no_process_limit_counts_is_bounded_by_a_cgroup(
    runtime: MakeRuntime, cgroups: None, way: str
) -> None:
    async with runtime("bwrap", SHARED, timeout_s=20.0) as it:
        document = await it.error(way)
        assert document["errorType"] == "Runtime.ExitError"
        assert document["errorMessage"].endswith("Runtime exited with error: signal: killed")
        assert "Status: error\tError Type: Runtime.ExitError" in it.log()
        assert await it.answer("") == "fine"


async def test_memory_of_many_processes_is_bounded_by_a_cgroup(runtime: MakeRuntime, cgroups: None) -> None:
    async with runtime("bwrap", SHARED, timeout_s=20.0) as it:
        assert await it.answer("forked") == 9  # the kernel killed one of them


BOMB = """
import os, time
def handle(e, c):
    made = 0
    try:
        while e:
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
            made += 1
    except OSError:
        pass
    return made
"""

LEAVER = """
import os, time
def handle(e, c):
    if e and os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    return 1
"""


@pytest.mark.parametrize("code", [BOMB, LEAVER], ids=["fork bomb", "left its session"])
async def test_processes_are_bounded_and_end_with_their_environment(
    runtime: MakeRuntime, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "SPARE_AFTER_S", 600.0)  # it would be one more, or not yet
    clock = VirtualClock()
    async with runtime("bwrap", code, clock, 60.0, timeout_s=30.0, memory_size_mb=512) as it:
        await it.answer(False)
        await clock.advance(120.0)
        assert await _retired(it.pool) == 0
        before = _sandboxed_processes()
        assert await it.answer(True) < 1024
        assert _sandboxed_processes() > before
        await clock.advance(120.0)
        assert await _retired(it.pool) == 0
        assert _sandboxed_processes() == before


async def _retired(pool: RuntimePool) -> int:
    """Environments that are left once the pool has ended the idle ones."""
    async with asyncio.timeout(10.0):
        while pool.retiring:
            await asyncio.sleep(0)
    return pool.idle("f")


@pytest.mark.parametrize(
    "forged",
    [
        "s.send(b'S' + (44).to_bytes(4, 'big') + b'0' * 44)",  # another request's answer
        "s.send(b'S' + (1 << 31).to_bytes(4, 'big'))",  # a length beyond all limits
        "s.send(b'?' * 100)",
        "s.close()",
        "s.sendall(b'F' + (20044).to_bytes(4, 'big') + c.aws_request_id.encode() + bytes(8) + b'[' * 20000)",
        "s.send(b'F' + (47).to_bytes(4, 'big') + c.aws_request_id.encode() + bytes(8) + b'\"x\"')",
        "s.sendall(b'S' + (6400000).to_bytes(4, 'big') + c.aws_request_id.encode() + bytes(6399964))",
    ],
)
async def test_what_is_forged_on_the_socket_ends_the_environment(runtime: MakeRuntime, forged: str) -> None:
    code = (
        "import socket, time\ndef handle(e, c):\n    if e:\n        s = socket.socket(fileno=3)\n"
        f"        {forged}\n        time.sleep(5)\n    return 'fine'\n"
    )
    async with runtime("bwrap", code, timeout_s=2.0) as it:
        assert (await it.error(True))["errorType"] in ("Runtime.ExitError", "Sandbox.Timedout")
        assert await it.answer(False) == "fine"


async def test_an_answer_that_was_not_asked_for_reaches_no_other_request(runtime: MakeRuntime) -> None:
    code = (
        "import socket\ncount = 0\ndef handle(e, c):\n    global count\n    count += 1\n    if e:\n"
        "        body = c.aws_request_id.encode() + bytes(8) + b'\"forged\"'\n"
        "        s = socket.socket(fileno=3)\n"
        "        s.send((b'S' + len(body).to_bytes(4, 'big') + body) * 2)\n        s.detach()\n"
        "    return [count, e]\n"
    )
    async with runtime("bwrap", code) as it:
        assert await it.answer(True) == "forged"  # its own answer is its own affair
        assert await it.answer(False) == [1, False]  # of a new environment


async def test_the_daemons_files_are_not_there(runtime: MakeRuntime, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    code = "import os\ndef handle(e, c):\n    return [os.path.exists(e), sorted(os.listdir('/'))]\n"
    exists, root = await tried(runtime, code, str(secret))
    assert not exists
    seen = "bin dev etc lib lib32 lib64 libx32 mnt opt proc sbin tmp usr var"
    assert set(root) <= set(seen.split())


def _sandboxed_processes() -> int:
    """Living processes below this one. None can leave: what loses its parent gets its namespace's first."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if not fields["State"].startswith(("Z", "X")):
            parents[int(fields["Pid"])] = int(fields["PPid"])
    return sum(os.getpid() in _ancestors(pid, parents) for pid in parents)


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.add(pid)
    return found


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare of util-linux")
def test_a_host_without_namespaces_is_said_in_one_line_with_the_ways_out(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from millstream import App\napp = App('x')\n")
    command = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", command, "sh", sys.executable, "-m", "millstream", "run", "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "max_user_namespaces" in done.stderr
    assert "--isolation process" in done.stderr
