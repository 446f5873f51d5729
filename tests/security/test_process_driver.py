"""What reduced isolation does hold: a root daemon's functions are not root."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from millstream.runtime.sandboxes.users import IDS
from tests.runtime.conftest import MakeRuntime, runtime

__all__ = ["runtime"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(os.geteuid() != 0, reason="only a root daemon has root to give up"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mount namespaces"),
]

CODE = """
import os, tempfile
def attempt(action):
    try:
        return repr(action())
    except OSError as error:
        return type(error).__name__
def handle(e, c):
    folder = tempfile.gettempdir()
    return {
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "status": open("/proc/self/status").read(),
        "secret": attempt(lambda: open(e).read()),
        "shadow": attempt(lambda: open("/etc/shadow").read()),
        "task": attempt(lambda: open(__file__, "a")),
        "root": attempt(lambda: os.setuid(0)),
        "tmp": attempt(lambda: open(folder + "/mine", "w").write("x")),
    }
"""


async def test_a_function_of_a_root_daemon_is_an_ordinary_user(runtime: MakeRuntime, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    async with runtime("process", CODE, timeout_s=10.0) as it:
        seen = await it.answer(str(secret))
    user = IDS[1]
    assert seen["ids"] == [[user] * 3, [user] * 3, []]
    status = dict(line.split(":\t", 1) for line in seen["status"].splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert seen["secret"] in ("FileNotFoundError", "PermissionError")
    assert seen["shadow"] == "PermissionError"
    assert seen["task"] in ("OSError", "PermissionError")
    assert seen["root"] == "PermissionError"
    assert seen["tmp"] == "1"


async def test_the_temporary_folder_goes_with_its_environment(runtime: MakeRuntime, tmp_path: Path) -> None:
    async with runtime("process", CODE, timeout_s=10.0) as it:
        await it.answer("/none")
        assert len(list((tmp_path / "sandboxes").glob("tmp-*"))) == 1
    assert list((tmp_path / "sandboxes").glob("tmp-*")) == []
