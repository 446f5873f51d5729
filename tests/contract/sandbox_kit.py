"""What every driver must do with functions, their runtimes and their ends. A driver's test class subclasses
`SandboxKit` and names it; what a driver has less of is declared in `Offers`, and the kit shows what it has
instead."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from millstream.contract.functions import MAX_PAYLOAD_BYTES, FunctionFailed
from tests.runtime.conftest import MakeRuntime, Runtime, mathematics
from tests.runtime.shell_programs import MakeLayer, heard, of_shell


@dataclass(frozen=True, slots=True)
class Offers:
    """What a driver has beyond processes of their own."""

    supervised: bool = True  # every process ends with a reset, those that left their session, too
    own_root: bool = True  # files of the host, and places to write to, are not there
    bounded_tmp: bool = True  # as a whole; else each file is
    closed_network: bool = True
    images: bool = True


COUNTED = """
import os, tempfile, time
seen = 0
def handle(event, context):
    global seen
    seen += 1
    with open(os.path.join(tempfile.gettempdir(), "calls"), "a") as file:
        file.write("x")
    calls = os.path.getsize(file.name)
    if event == "hang":
        time.sleep(60)
    if event == "exit":
        os._exit(7)
    return {"seen": seen, "calls": calls, "pid": os.getpid()}
"""

TICKS = """
import threading, time
ticks = 0
def tick():
    global ticks
    while True:
        time.sleep(0.01)
        ticks += 1
def handle(event, context):
    if event == "start":
        threading.Thread(target=tick, daemon=True).start()
    time.sleep(event if isinstance(event, float) else 0)
    return ticks, time.monotonic()
"""

LEAVER = """
import os, tempfile, time
def handle(event, context):
    place = os.path.join(tempfile.gettempdir(), "beats")
    if event == "leave":
        if os.fork() == 0:
            os.setsid()
            for _ in range(80):
                with open(place, "a") as file:
                    file.write("x")
                time.sleep(0.05)
            os._exit(0)
        while not os.path.exists(place):
            time.sleep(0.01)
        os._exit(1)
    before = os.path.getsize(place)
    time.sleep(0.3)
    return os.path.getsize(place) - before
"""

SNAPSHOT = """
import os, tempfile
from snapshot_restore_py import register_after_restore, register_before_snapshot
place = os.path.join(tempfile.gettempdir(), "notes")
def note(what):
    with open(place, "a") as file:
        file.write(what)
note("load ")
register_before_snapshot(note, "before ")
register_after_restore(note, "after ")
def handle(event, context):
    if event == "exit":
        os._exit(1)
    with open(place) as file:
        return file.read()
"""


def runtime_pid(it: Runtime) -> int:
    """Of the idle environment's runtime, as the host counts."""
    environment: Any = it.pool._fleets["f"].idle[0].environment
    pid: int = environment.link.process.pid
    return pid


def there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


class SandboxKit:
    """Life and talk; `SandboxWallsKit` has limits, files and network."""

    driver: str
    offers = Offers()

    def end_sandbox(self, pid: int) -> None:
        """End from outside what a runtime runs in."""
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        (parent,) = re.findall(r"^PPid:\t(\d+)$", status, re.M)
        os.kill(int(parent) if self.offers.supervised else pid, signal.SIGKILL)

    async def test_a_function_sees_its_event_context_and_own_variables(
        self, runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DAEMON_SECRET", "s3cret")
        code = (
            "import os\ndef handle(event, context):\n"
            "    return [event, context.aws_request_id, context.memory_limit_in_mb, dict(os.environ)]\n"
        )
        async with runtime(self.driver, code, environment={"SIZE": "64"}) as it:
            event, request_id, memory, variables = await it.answer({"ä": [1, None, "\U0001f600"]})
        assert event == {"ä": [1, None, "\U0001f600"]}
        assert (len(request_id), memory, variables["SIZE"]) == (36, "128", "64")
        assert variables["AWS_LAMBDA_FUNCTION_NAME"] == "f"
        assert "s3cret" not in str(variables)

    async def test_a_runtime_is_restored_and_restored_again_where_a_reset_leaves_its_snapshot(
        self, runtime: MakeRuntime
    ) -> None:
        async with runtime(self.driver, SNAPSHOT, timeout_s=10.0, snap_start=True) as it:
            assert await it.answer() == "load before after "
            assert isinstance(await it.invoke("exit"), FunctionFailed)
            again = "after " if self.offers.supervised else "load before after "
            assert await it.answer() == "load before after " + again

    async def test_an_error_and_output_reach_caller_and_log(self, runtime: MakeRuntime) -> None:
        code = (
            "import sys\ndef handle(e, c):\n    print('out')\n    print('err', file=sys.stderr)\n    1 / 0\n"
        )
        async with runtime(self.driver, code) as it:
            error = await it.error()
            log = it.log()
        assert (error["errorType"], error["errorMessage"]) == ("ZeroDivisionError", "division by zero")
        assert "f.py" in error["stackTrace"][0]
        assert " out\n" in log
        assert " err\n" in log
        assert re.search(r"REPORT .*Max Memory Used: [1-9]\d* MB\tInit Duration: ", log)

    async def test_a_handler_that_cannot_be_loaded_is_told_again_and_again(
        self, runtime: MakeRuntime
    ) -> None:
        async with runtime(self.driver, "raise KeyError('at import')\n", timeout_s=5.0) as it:
            first, second = await it.error(), await it.error()
            log = it.log()
        assert first["errorType"] == second["errorType"] == "KeyError"
        assert log.count("Phase: init\tStatus: error\tError Type: KeyError") == 1

    async def test_payloads_of_six_megabytes_go_both_ways(self, runtime: MakeRuntime) -> None:
        async with runtime(self.driver, "def handle(e, c):\n    return e\n", timeout_s=20.0) as it:
            event = "x" * (MAX_PAYLOAD_BYTES - 2)
            assert await it.answer(event) == event

    @pytest.mark.parametrize("event", ["hang", "exit"])
    async def test_after_a_failure_globals_are_lost_and_files_kept(
        self, runtime: MakeRuntime, event: str
    ) -> None:
        async with runtime(self.driver, COUNTED, timeout_s=3.0) as it:
            first = await it.answer()
            assert isinstance(await it.invoke(event), FunctionFailed)
            second = await it.answer()
        assert (first["seen"], second["seen"]) == (1, 1)
        assert (first["calls"], second["calls"]) == (1, 3)
        assert first["pid"] != second["pid"]

    async def test_what_left_its_session_ends_with_a_reset(self, runtime: MakeRuntime) -> None:
        async with runtime(self.driver, LEAVER, timeout_s=10.0) as it:
            assert isinstance(await it.invoke("leave"), FunctionFailed)
            goes_on = await it.answer() > 0
        assert goes_on is not self.offers.supervised

    async def test_a_frozen_environment_does_nothing_until_its_next_invocation(
        self, runtime: MakeRuntime
    ) -> None:
        async with runtime(self.driver, TICKS, timeout_s=10.0) as it:
            await it.answer("start")
            ticks, _ = await it.answer(0.2)
            assert ticks > 5
            async with asyncio.timeout(10.0):
                while not it.pool.state()[0].frozen:
                    await asyncio.sleep(0.01)
                ticks, at = await it.answer()
                while not it.pool.state()[0].frozen or time.monotonic() < at + 1.0:
                    await asyncio.sleep(0.01)
            later, then = await it.answer()
        assert then - at >= 1.0
        assert later - ticks < 50  # a hundred, if it had gone on

    async def test_invocations_at_once_have_environments_of_their_own(self, runtime: MakeRuntime) -> None:
        code = (
            "import os, random, tempfile, time\ndef handle(e, c):\n    folder = tempfile.gettempdir()\n"
            "    before = os.listdir(folder)\n    open(folder + '/mine', 'w').close()\n"
            "    time.sleep(1)\n    return [before, random.random()]\n"
        )
        async with runtime(self.driver, code, timeout_s=10.0) as it:
            answers = await asyncio.gather(*(it.answer() for _ in range(3)))
            assert it.pool.idle("f") == 3
        assert [before for before, _ in answers] == [[], [], []]
        assert len({number for _, number in answers}) == 3

    async def test_what_is_provisioned_is_ready_before_it_is_invoked(self, runtime: MakeRuntime) -> None:
        code = "import time\nat = time.time()\ndef handle(e, c):\n    return at\n"
        async with runtime(self.driver, code, provisioned_concurrency=1) as it:
            async with asyncio.timeout(20.0):
                while it.pool.state()[0].provisioned_status != "READY":
                    await asyncio.sleep(0.01)
            before = time.time()
            assert await it.answer() < before

    async def test_a_cold_start_that_is_cut_off_keeps_none_from_ending(self, runtime: MakeRuntime) -> None:
        async with asyncio.timeout(20.0), runtime(self.driver, COUNTED, timeout_s=10.0) as it:
            for wait_s in (0.0, 0.01, 0.05, 0.2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await it.answer("hang")
            assert (await it.answer())["seen"] == 1

    async def test_an_end_leaves_no_process(self, runtime: MakeRuntime) -> None:
        async with runtime(self.driver, COUNTED, timeout_s=10.0) as it:
            await it.answer()
            pid = runtime_pid(it)
            assert there(pid)
        assert not there(pid)

    async def test_a_sandbox_that_is_killed_is_noticed_and_costs_no_invocation(
        self, runtime: MakeRuntime
    ) -> None:
        async with runtime(self.driver, COUNTED, timeout_s=10.0) as it:
            await it.answer()
            ended = it.pool._fleets["f"].idle[0].environment
            self.end_sandbox(runtime_pid(it))
            async with asyncio.timeout(10.0):
                while ended.alive:
                    await asyncio.sleep(0.01)
            assert (await it.answer())["calls"] == 1

    @pytest.mark.usefixtures("shell")
    async def test_a_program_speaks_the_runtime_api(self, runtime: MakeRuntime) -> None:
        async with runtime(self.driver, "", **of_shell()) as it:
            assert await it.answer({"a": 1}) == {"echo": {"a": 1}}
            assert await it.error("fail") == {"errorMessage": "it did", "errorType": "Shell.Failed"}
            assert await it.answer("text") == "no json"
            gone = await it.invoke("exit")
            assert isinstance(gone, FunctionFailed)
            assert gone.message.endswith("Error: Runtime exited without providing a reason")
            assert await it.answer([1]) == {"echo": [1]}

    @pytest.mark.usefixtures("shell")
    async def test_a_program_has_as_many_descriptors_as_on_aws(self, runtime: MakeRuntime) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))  # as a daemon has more
        try:
            async with runtime(self.driver, "", **of_shell()) as it:
                assert await it.answer("descriptors") == 1024
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def test_settings_of_interpreter_and_loader_are_the_functions(
        self, runtime: MakeRuntime, tmp_path: Path
    ) -> None:
        library = tmp_path / "opt" / "lib" / "libx.so"
        library.parent.mkdir(parents=True)
        shutil.copy(mathematics(), library)
        wrapper = tmp_path / "opt" / "wrapper"
        wrapper.write_text('#!/bin/sh\nexport WRAPPED="$#"\nexec "$@"\n', encoding="utf-8")
        wrapper.chmod(0o755)
        settings = {"PYTHONHASHSEED": "0", "AWS_LAMBDA_EXEC_WRAPPER": "/opt/wrapper"}
        code = (
            "import ctypes, os\ndef handle(e, c):\n"
            "    return hasattr(ctypes.CDLL('libx.so'), 'cos'), os.environ['WRAPPED'], hash('a'), e\n"
        )
        plain = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "print(hash('a'))",
            env={"PYTHONHASHSEED": "0"},
            stdout=asyncio.subprocess.PIPE,
        )
        seeded, _ = await plain.communicate()
        async with runtime(
            self.driver, code, opt=tmp_path / "opt", environment=settings, timeout_s=20.0
        ) as it:
            assert await it.answer({"a": 1}) == [True, "2", int(seeded), {"a": 1}]

    async def test_a_program_that_is_not_there_is_said(self, runtime: MakeRuntime) -> None:
        async with runtime(self.driver, "", command=("/none",), timeout_s=5.0) as it:
            error = await it.error()
            assert error["errorMessage"].endswith("exit status 127")
            assert "/none: No such file or directory" in it.log()

    async def test_an_extension_hears_of_invocations_and_of_the_end(
        self, runtime: MakeRuntime, layer: MakeLayer
    ) -> None:
        async with runtime(self.driver, COUNTED, opt=layer(seer={}), timeout_s=10.0) as it:
            await it.answer()
            async with asyncio.timeout(10.0):
                while not it.pool.state()[0].frozen:  # and is thawed for it
                    await asyncio.sleep(0.01)
        events = heard(it.log(), "seer")
        assert [event["eventType"] for event in events] == ["INVOKE", "SHUTDOWN"]
        assert events[1]["shutdownReason"] == "SPINDOWN"
