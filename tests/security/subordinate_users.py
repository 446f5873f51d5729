"""A daemon of an ordinary user with subordinate ids: `test_unprivileged.py` runs this as such a user."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.contract.functions import FileSystem
from millstream.runtime.sandboxes.subordinate import PROGRAMS, Subordinates, find_subordinates
from tests.runtime.conftest import MakeRuntime, runtime
from tests.security.sieges import SIEGES, taker
from tests.security.victim import pair

__all__ = ["runtime"]

WITHIN_S = 30.0
PIPE_BYTES = 1 << 16
"""The kernel gives one less once its user has taken what it may: pipe(7), "/proc files"."""

PIPES, INOTIFY = (
    next(siege for siege in SIEGES if siege.name == name) for name in ("pages of pipes", "inotify instances")
)


def uids() -> range:
    found = find_subordinates()
    assert isinstance(found, Subordinates), found
    return found.uids


def status(pid: str) -> dict[str, str]:
    """Read it of a living process; empty if that is gone."""
    try:
        lines = Path("/proc", pid, "status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def users() -> dict[str, set[int]]:
    """Users and groups of processes of this host that are one of its subordinate ids, by their names."""
    found: dict[str, set[int]] = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        fields = status(pid)
        if fields and not fields["State"].startswith(("Z", "X")):
            ids = {int(number) for name in ("Uid", "Gid") for number in fields[name].split()}
            if not ids.isdisjoint(uids()):
                found.setdefault(fields["Name"], set()).update(ids)
    return found


def wait_until(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    until = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until, what()
        time.sleep(0.02)


async def test_each_function_is_a_user_and_a_group_of_its_own(tmp_path: Path) -> None:
    async with pair("bwrap", tmp_path, PIPES.code) as it:
        await it.attack()
        found = users()
        assert len(found["evil"]) == len(found["victim"]) == 1  # each of its processes
        assert found["evil"] != found["victim"]
    wait_until(lambda: not users(), users)


async def test_what_one_takes_of_a_users_quota_neither_another_nor_the_daemon_lacks(tmp_path: Path) -> None:
    async with pair("bwrap", tmp_path, PIPES.code, PIPES.needs) as it:
        await it.attack()
        await it.frozen()
        assert await it.unharmed()
        ends = os.pipe()
        size_bytes = fcntl.fcntl(ends[0], fcntl.F_GETPIPE_SZ)
        for end in ends:
            os.close(end)
        assert size_bytes == PIPE_BYTES


async def test_many_environments_of_one_leave_inotify_to_another_and_the_daemon(tmp_path: Path) -> None:
    code = taker("while libc.inotify_init() >= 0:", "    kept.append(1)", "time.sleep(e)", "return len(kept)")
    async with pair("bwrap", tmp_path, code, INOTIFY.needs) as it:
        async with asyncio.TaskGroup() as group:
            taken = [group.create_task(it.attack(2.0)) for _ in range(10)]
        assert sum(each.result() for each in taken) > 16
        assert await it.unharmed()
        own = ctypes.CDLL(None).inotify_init()
        assert own >= 0
        os.close(own)


async def test_a_function_with_a_folder_is_the_daemons_user(runtime: MakeRuntime, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    code = "def handle(e, c):\n    open('/mnt/f/file', 'w').write('x')\n"
    async with runtime("bwrap", code, file_system=FileSystem(folder, "/mnt/f")) as it:
        await it.answer()
        assert not users()
    assert (folder / "file").stat().st_uid == os.getuid()


async def test_memory_and_processes_of_another_user_are_seen_and_ended(runtime: MakeRuntime) -> None:
    code = (
        "import os, time\ndef handle(e, c):\n"
        "    if e and os.fork() == 0:\n        os.setsid()\n        time.sleep(600)\n"
        "    while e:\n        pass\n    return 'fine'\n"
    )
    async with runtime("bwrap", code, timeout_s=1.0) as it:
        assert (await it.error(True))["errorType"] == "Sandbox.Timedout"
        assert await it.answer(False) == "fine"
        assert "Max Memory Used: 0 MB" not in it.log()
        assert users()
    wait_until(lambda: not users(), users)


APP = """
import os, time
from millstream import App
app = App("x")
@app.function(name="stays", provisioned_concurrent_executions=1)
def handle(event, context):
    return None
if "AWS_LAMBDA_FUNCTION_NAME" in os.environ and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/usr/bin/sleep", ["sleep", "600"])
    os._exit(0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_daemon(tmp_path: Path, number: int) -> None:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "millstream", "run", "app.py"], cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: "sleep" in users(), lambda: (tmp_path / "log").read_text())
        os.kill(daemon.pid, number)
        daemon.wait(WITHIN_S)
    finally:
        daemon.kill()
        daemon.wait()
    wait_until(lambda: not users(), users)


def test_doctor_says_whose_they_are() -> None:
    assert f"one of its subordinate ids {uids()[0]}-{uids()[-1]}" in doctor()


def doctor() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "millstream", "doctor", "--json"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    (user,) = (each["found"] for each in json.loads(done.stdout)["host"] if each["what"] == "user")
    assert isinstance(user, str)
    return user


async def test_programs_that_may_not_map_ids_are_said_once_and_done_without(
    tmp_path: Path, runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for program in PROGRAMS:
        whole = shutil.which(program)
        assert whole is not None
        shutil.copy(whole, tmp_path)  # loses the bit that makes it root's
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    caplog.set_level(logging.INFO, "millstream.runtime.sandboxes.bwrap")
    async with runtime("bwrap", "def handle(e, c):\n    return 'fine'\n") as it:
        assert await it.answer() == "fine"
        assert not users()
    (said,) = caplog.records
    assert "share the daemon's user" in said.getMessage()
    told = doctor()
    assert "newuidmap: write to uid_map failed" in told
    assert "way out: let newuidmap and newgidmap work" in told


def test_without_ids_they_are_the_daemons_user_and_that_is_said_with_the_way_out() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    told = doctor()
    assert told.startswith(f"an ordinary one, {os.getuid()}; all functions are this user, too")
    assert (
        f"found 0; way out: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        in told
    )
