"""Settings that only a fresh interpreter heeds: such functions are started in one of their own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from millstream.contract.functions import FunctionSpec
from millstream.runtime.fresh import why_fresh
from tests.runtime.conftest import MakeRuntime, mathematics

ARN = "arn:aws:lambda:us-east-1:000000000000:function:f"
WRAPPER = '#!/bin/bash\nexport SEEN="$1 ${@: -1}"\nexec "$@"\n'


def of(folder: Path, **environment: str) -> FunctionSpec:
    return FunctionSpec("f", ARN, "f.handle", folder, environment=environment)


@pytest.mark.parametrize(
    ("name", "fresh"),
    [
        ("PYTHONHASHSEED", True), ("PYTHONWARNINGS", True), ("PYTHONSTARTUP", True), ("LD_PRELOAD", True),
        ("LD_LIBRARY_PATH", True), ("MALLOC_ARENA_MAX", True), ("GLIBC_TUNABLES", True),
        ("OPENSSL_CONF", True), ("AWS_LAMBDA_EXEC_WRAPPER", True), ("PYTHONPATH", False),
        ("PYTHONUNBUFFERED", False), ("TABLE", False), ("LDAP", False), ("SSL_CERT_FILE", False),
    ],
)  # fmt: skip
def test_a_setting_of_interpreter_or_loader_asks_for_a_fresh_start(
    tmp_path: Path, name: str, fresh: bool
) -> None:
    assert why_fresh(of(tmp_path, **{name: "1"})) == (name if fresh else "")
    assert why_fresh(replace(of(tmp_path, **{name: "1"}), command=("/bin/true",))) == ""


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("code/libx.so", "/var/task"), ("code/lib/libx.so.1.2", "/var/task/lib"),
        ("opt/lib/libx.so", "/opt/lib"),
        ("code/x.cpython-311-x86_64-linux-gnu.so", ""), ("code/lib/x.py", ""), ("opt/python/libx.so", ""),
    ],
)  # fmt: skip
def test_shared_libraries_where_the_loader_looks_ask_for_one_too(tmp_path: Path, file: str, why: str) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    function = replace(of(tmp_path / "code"), opt=tmp_path / "opt")
    assert why_fresh(function) == (f"shared libraries in {why}" if why else "")


pytestmark = pytest.mark.broker


async def test_the_hash_seed_and_warnings_are_the_functions(driver: str, runtime: MakeRuntime) -> None:
    code = (
        "import sys, warnings\ndef handle(e, c):\n"
        "    return hash('a'), sys.warnoptions, sys.argv, __name__, c.function_name, c.invoked_function_arn\n"
    )
    seen = []
    for seed in ("1", "1", "2"):
        settings = {"PYTHONHASHSEED": seed, "PYTHONWARNINGS": "error::UserWarning"}
        async with runtime(driver, code, environment=settings, timeout_s=10.0) as it:
            seen.append(await it.answer())
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[2][0]
    assert seen[0][1:] == [["error::UserWarning"], ["/var/runtime/bootstrap.py"], "f", "f", ARN]


async def test_a_wrapper_script_starts_the_runtime(driver: str, runtime: MakeRuntime, tmp_path: Path) -> None:
    opt = tmp_path / "opt"
    opt.mkdir()
    (opt / "wrapper").write_text(WRAPPER, encoding="utf-8")
    (opt / "wrapper").chmod(0o755)
    code = (
        "import os\ndef handle(e, c):\n"
        "    return [os.environ['SEEN'], e, c.get_remaining_time_in_millis() > 1]\n"
    )
    settings = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/wrapper"}
    async with runtime(driver, code, opt=opt, environment=settings, timeout_s=10.0) as it:
        seen, event, left = await it.answer({"a": 1})
        first, last = seen.split(" ")
        assert "python3" in first
        assert last.endswith("/runtime/bootstrap.py")
        assert (event, left) == ({"a": 1}, True)
        assert [await it.answer(n) for n in range(3)] == [[seen, n, True] for n in range(3)]


async def test_a_wrapper_script_that_is_missing_ends_as_on_aws(driver: str, runtime: MakeRuntime) -> None:
    settings = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/nothing"}
    async with runtime(driver, "def handle(e, c): ...\n", environment=settings, timeout_s=10.0) as it:
        error = await it.error()
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].endswith("exit status 127")


@pytest.mark.parametrize("place", ["opt/lib", "code/lib"])
async def test_shared_libraries_of_layers_and_packages_are_found(
    driver: str, runtime: MakeRuntime, tmp_path: Path, place: str
) -> None:
    if driver == "process" and place == "opt/lib":
        place = "code/lib"
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (tmp_path / "opt").mkdir(exist_ok=True)
    shutil.copy(mathematics(), folder / "libx.so")
    code = "import ctypes\ndef handle(e, c):\n    return hasattr(ctypes.CDLL('libx.so'), 'cos')\n"
    async with runtime(driver, code, opt=tmp_path / "opt", timeout_s=10.0) as it:
        assert await it.answer() is True


async def test_hooks_around_a_snapshot_run_in_a_fresh_interpreter(driver: str, runtime: MakeRuntime) -> None:
    code = (
        "import snapshot_restore_py as s\nran = []\n"
        "s.register_before_snapshot(ran.append, 'before')\ns.register_after_restore(ran.append, 'after')\n"
        "def handle(e, c):\n    return ran\n"
    )
    settings = {"PYTHONHASHSEED": "1"}
    async with runtime(driver, code, environment=settings, snap_start=True, timeout_s=10.0) as it:
        assert await it.answer() == ["before", "after"]
