"""What every driver must keep functions from, and show them: the other half of `sandbox_kit.py`."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from pathlib import Path

import pytest

from millstream.contract.functions import FileSystem, Throttled
from tests.contract.sandbox_kit import Offers
from tests.runtime.bash_image import image
from tests.runtime.conftest import MakeRuntime
from tests.runtime.echo import ASK, CLOSED, Echo
from tests.runtime.shell_programs import MakeLayer
from tests.runtime.test_telemetry import subscriber

HOSTS_OWN = "/private" if sys.platform == "darwin" else "/var/lib"

FILLER = """
import errno, os, tempfile
def handle(event, context):
    written, size = 0, 1 << 20
    try:
        for name in "ab":
            with open(os.path.join(tempfile.gettempdir(), name), "wb", buffering=0) as file:
                for _ in range(48):
                    written += file.write(bytes(size))
    except OSError as error:
        return errno.errorcode[error.errno], written >> 20
    return "OK", written >> 20
"""

MAPPED = """
import mmap
def handle(event, context):
    if event:
        area = mmap.mmap(-1, 1 << 30)  # shared: no limit of a process counts it
        for page in range(0, 1 << 30, 4096):
            area[page] = 1
    return "fine"
"""


class SandboxWallsKit:
    """Limits, files, network, images."""

    driver: str
    offers = Offers()

    async def test_it_says_which_limits_hold(self, runtime: MakeRuntime) -> None:
        async with runtime(self.driver, "") as it:
            said = it.sandbox.limits()
        assert "\n" not in said
        assert "memory" in said
        assert ("no network" in said) is self.offers.closed_network
        assert said.startswith("reduced") is not self.offers.own_root

    async def test_memory_of_a_process_is_bounded(self, runtime: MakeRuntime) -> None:
        code = "def handle(e, c):\n    return len(bytearray(400 * 1024 * 1024))\n"
        async with runtime(self.driver, code, timeout_s=20.0) as it:
            assert (await it.error())["errorType"] == "MemoryError"

    async def test_memory_of_all_is_bounded_where_that_is_said(self, runtime: MakeRuntime) -> None:
        async with runtime(self.driver, MAPPED, timeout_s=20.0) as it:
            if re.search("memory per (function|environment)", it.sandbox.limits()) is None:
                assert await it.answer(True) == "fine"
                return
            error = await it.error(True)
            assert error["errorMessage"].endswith("Runtime exited with error: signal: killed")
            assert await it.answer(False) == "fine"

    async def test_files_are_bounded(self, runtime: MakeRuntime) -> None:
        async with runtime(self.driver, FILLER, ephemeral_storage_mb=64, timeout_s=20.0) as it:
            why, written_mb = await it.answer()
        if self.offers.bounded_tmp:
            assert why == "ENOSPC"
            assert 48 < written_mb <= 64
        else:
            assert (why, written_mb) == ("OK", 96)
            async with runtime(self.driver, FILLER, ephemeral_storage_mb=16, timeout_s=20.0) as it:
                assert await it.answer() == ["EFBIG", 16]

    async def test_files_of_the_host_are_not_there(self, runtime: MakeRuntime) -> None:
        code = "import os\ndef handle(e, c):\n    return os.path.isdir(e)\n"
        async with runtime(self.driver, code) as it:
            assert await it.answer(HOSTS_OWN) is not self.offers.own_root

    async def test_nothing_but_tmp_can_be_written_to(self, runtime: MakeRuntime) -> None:
        code = (
            "import os, tempfile\ndef attempt(place):\n    try:\n        open(place + '/new', 'w').close()\n"
            "    except OSError:\n        return False\n    return True\n"
            "def handle(e, c):\n    return [attempt(tempfile.gettempdir()), *map(attempt, e)]\n"
        )
        places = [
            "/",
            "/usr",
            "/etc",
            "/dev",
            "/dev/shm",
            "/run",
            "/var/task",
            "/var/runtime",
            "/opt",
            "/mnt",
        ]
        async with runtime(self.driver, code) as it:
            tmp, *others = await it.answer(places if self.offers.own_root else [])
        assert tmp
        assert not any(others), dict(zip(places, others, strict=True))

    async def test_a_function_has_an_ordinary_users_name(self, runtime: MakeRuntime) -> None:
        code = "import getpass, os\ndef handle(e, c):\n    return [os.getuid(), getpass.getuser()]\n"
        if not self.offers.own_root:
            pytest.skip("declared: own_root is not offered, and with it no /etc/passwd")
        async with runtime(self.driver, code) as it:
            user, name = await it.answer()
        assert user > 0
        assert name == "sbx_user1051"

    async def test_layers_are_at_opt(self, runtime: MakeRuntime, tmp_path: Path) -> None:
        (tmp_path / "opt" / "python").mkdir(parents=True)
        (tmp_path / "opt" / "python" / "shared.py").write_text("name = 'layer'\n", encoding="utf-8")
        code = "import shared\ndef handle(e, c):\n    return shared.name\n"
        async with runtime(self.driver, code, opt=tmp_path / "opt", timeout_s=10.0) as it:
            assert await it.answer() == "layer"

    async def test_a_file_system_is_shared_and_kept(self, runtime: MakeRuntime, tmp_path: Path) -> None:
        if not self.offers.own_root:
            pytest.skip("declared: own_root is not offered, which would show it at its place")
        folder = tmp_path / "shared"
        folder.mkdir()
        folder.chmod(0o777)
        code = (
            "def handle(e, c):\n    with open('/mnt/data/x', 'a') as f:\n        f.write(e)\n"
            "    with open('/mnt/data/x') as f:\n        return f.read()\n"
        )
        spec = {"file_system": FileSystem(folder, "/mnt/data"), "timeout_s": 10.0}
        async with runtime(self.driver, code, **spec) as it:
            assert await it.answer("a") == "a"
            assert await it.answer("b") == "ab"
        assert (folder / "x").read_text(encoding="utf-8") == "ab"

    async def test_a_function_reaches_what_is_allowed_and_nothing_else(
        self, runtime: MakeRuntime, echo: Echo
    ) -> None:
        other = Echo()
        try:
            async with runtime(self.driver, ASK, network=(f"localhost:{echo.port}",), timeout_s=10.0) as it:
                assert await it.answer(["localhost", echo.port]) == "hellohello"
                assert await it.answer(["127.0.0.1", echo.port]) == "hellohello"
                found = await it.answer(["127.0.0.1", other.port])
                if not self.offers.closed_network:
                    assert found == "hellohello"
                    return
                assert found == "ECONNREFUSED"
                assert await it.answer(["192.0.2.1", 80]) == "ENETUNREACH"
                assert await it.answer(["example.com", 80]) == "no such name"
        finally:
            other.close()

    async def test_a_name_and_an_address_are_found_as_they_are_declared(
        self, runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not self.offers.closed_network:
            pytest.skip("declared: closed_network is not offered, which alone has addresses to give")
        asked: list[tuple[str, int]] = []

        async def unreachable(host: str, port: int, limit: int) -> None:
            asked.append((host, port))
            raise OSError("nothing leaves this test")

        def resolved(host: str, port: int, *_: object, **__: object) -> list[object]:
            return [(2, 1, 6, "", ("192.0.2.7" if host == "db.example" else host, port))]

        monkeypatch.setattr(asyncio, "open_connection", unreachable)
        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        code = ASK.replace("def handle", "def ask") + (
            "def handle(e, c):\n    return ask(e, c) if e else open('/proc/self/status').read()\n"
        )
        network = {"db.example:5432": ("db.example", 5432), "192.0.2.1:80": ("192.0.2.1", 80)}
        async with runtime(self.driver, code, network=tuple(network), timeout_s=10.0) as it:
            for host, port in network.values():
                assert await it.answer([host, port]) in CLOSED
            status = dict(re.findall(r"^(\w+):\t(.*)$", await it.answer(), re.M))
        assert asked == [("192.0.2.7", 5432), ("192.0.2.1", 80)]
        assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert "0" not in status["Uid"].split()

    async def test_a_subscriber_gets_telemetry(self, runtime: MakeRuntime, layer: MakeLayer) -> None:
        spec = {"opt": layer(seer={}), "timeout_s": 30.0, "memory_size_mb": 256}
        async with runtime(self.driver, subscriber(), **spec) as it:
            assert await it.answer() == "abc"
            events = await it.answer({"type": "platform.runtimeDone"})
        assert {"platform.initStart", "platform.start", "function"} <= {event["type"] for event in events}

    async def test_an_image_is_all_that_a_function_sees(self, runtime: MakeRuntime, root: Path) -> None:
        spec = {"image": image(root), "environment": {"SIZE": "2"}, "timeout_s": 10.0}
        async with runtime(self.driver, "", **spec) as it:
            if not self.offers.images:
                outcome = await it.invoke("")
                assert isinstance(outcome, Throttled)
                assert outcome.reason == "ServiceException"
                return
            assert await it.answer("echo $PWD $FROM_IMAGE $SIZE $AWS_LAMBDA_FUNCTION_NAME") == "/app yes 2 f"
            found = (await it.answer("cd / && echo *")).split()
            assert {"app", "bin", "link", "proc", "dev", "tmp", "mnt"} <= set(found)
            assert not {"opt", "run", "var", "root"} & set(found)
            assert await it.answer("cd /link && echo *; echo $(</etc/os-release)") == "run\nNAME=bash"
            assert await it.answer("echo hello > /tmp/x && echo $(</tmp/x)") == "hello"
            for place in ("/x", "/app/x", "/etc/x", "/mnt/x"):
                assert (await it.answer(f"echo hello > {place} || echo no")).endswith("no")

    async def test_an_image_finds_what_it_may_reach_by_name(self, runtime: MakeRuntime, root: Path) -> None:
        if not self.offers.images:
            pytest.skip("declared: images are not offered")
        spec = {"image": image(root), "network": ("db.example:5432",), "timeout_s": 10.0}
        async with runtime(self.driver, "", **spec) as it:
            assert "127.0.1.1 db.example" in await it.answer(
                'while read -r line; do echo "$line"; done </etc/hosts'
            )
            assert await it.answer("echo $(</etc/os-release)") == "NAME=bash"
