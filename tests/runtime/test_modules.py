"""Imports find files of the package and the layers before those that the runtime has loaded."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from millstream.runtime.bootstrap.modules import AWS_LOADS, give_way
from tests.runtime.conftest import MakeRuntime

SITE = f"python/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
WHERE = "import {0}\ndef handle(e, c):\n    return [{0}.__file__, getattr({0}, 'mine', None)]\n"


@dataclass
class Brought:
    """A package's folder with files in it, and what is loaded."""

    folder: Path

    def write(self, *names: str) -> None:
        for name in names:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def forgotten(self, *loaded: str, handler: str = "") -> set[str]:
        there = {name: ModuleType(name) for name in loaded}
        give_way([str(self.folder), f"{self.folder}/none"], handler, there)
        return set(loaded) - set(there)


@pytest.fixture
def brought(tmp_path: Path) -> Brought:
    return Brought(tmp_path)


@pytest.mark.parametrize(
    "file", ["csv.py", "csv.so", "csv.abi3.so", "csv.pyc", "csv/__init__.py", "csv/__init__.abi3.so"]
)
def test_a_module_that_a_package_has_a_file_of_is_forgotten_with_all_below_it(
    brought: Brought, file: str
) -> None:
    brought.write(file)
    assert brought.forgotten("csv", "csv.reader", "csvs", "_csv") == {"csv", "csv.reader"}


@pytest.mark.parametrize("file", ["csv.txt", "csv", "csv/data.csv", "csv.py.bak", "csv.d/a.py", "xcsv.py"])
def test_files_and_folders_that_are_no_modules_forget_none(brought: Brought, file: str) -> None:
    brought.write(file)
    assert brought.forgotten("csv", "csv.reader") == set()


def test_what_awss_runtime_has_loaded_stays_but_for_the_handlers_own_module(brought: Brought) -> None:
    brought.write("json.py", "logging/__init__.py", "time.py")
    assert brought.forgotten("json", "json.decoder", "logging", "time") == set()
    assert brought.forgotten("json", "logging", handler="json.handle") == {"json"}
    assert brought.forgotten("json", "logging", handler="json/sub.handle") == {"json"}


def test_of_the_sdk_all_of_ours_goes_where_one_part_is_brought(brought: Brought) -> None:
    brought.write("botocore/__init__.py")
    assert brought.forgotten("boto3.session", "botocore", "six", "csv") == {
        "boto3.session",
        "botocore",
        "six",
    }


def test_none_of_our_own_modules_is_ever_forgotten(brought: Brought) -> None:
    brought.write("_millstream/__init__.py")
    assert brought.forgotten("_millstream.bootstrap.bootstrap") == set()


def test_what_stays_is_what_awss_runtime_loads() -> None:
    """awslambdaric itself, its client in C and its encoder are left out: those a package may bring."""
    code = "import sys; import awslambdaric.__main__; print(*{m.partition('.')[0] for m in sys.modules})"
    path = next(folder for folder in sys.path if Path(folder, "awslambdaric").exists())
    command = [sys.executable, "-S", "-I", "-c", f"import sys; sys.path.append({path!r}); {code}"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    loaded -= {*sys.builtin_module_names, "awslambdaric", "runtime_client", "simplejson"}
    assert loaded <= AWS_LOADS
    if sys.version_info[:2] == (3, 11):
        assert loaded == AWS_LOADS


@pytest.mark.broker
@pytest.mark.parametrize("name", ["image", "supervisor", "snapshot", "statistics", "uuid", "hmac", "email"])
async def test_a_module_of_the_package_wins_over_one_that_the_runtime_has_loaded(
    driver: str, runtime: MakeRuntime, tmp_path: Path, name: str
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text("mine = 1\n", encoding="utf-8")
    async with runtime(driver, WHERE.format(name)) as it:
        file, mine = await it.answer()
    assert file.endswith((f"task/{name}.py", f"code/{name}.py"))
    assert mine == 1


@pytest.mark.broker
@pytest.mark.parametrize("folder", ["python", SITE])
async def test_a_layers_modules_win_over_those_of_the_runtime_and_the_sdk(
    driver: str, runtime: MakeRuntime, tmp_path: Path, folder: str
) -> None:
    opt = tmp_path / "opt"
    for name in ("boto3", "image", "calendar"):
        (opt / folder / name).mkdir(parents=True)
        (opt / folder / name / "__init__.py").write_text(f"mine = '{name}'\n", encoding="utf-8")
    code = (
        "import boto3, image, calendar\ndef handle(e, c):\n    return boto3.mine, image.mine, calendar.mine\n"
    )
    async with runtime(driver, code, opt=opt) as it:
        assert await it.answer() == ["boto3", "image", "calendar"]


@pytest.mark.broker
async def test_modules_are_looked_for_in_the_order_of_awss_runtime(
    driver: str, runtime: MakeRuntime, tmp_path: Path
) -> None:
    code = "import sys\ndef handle(e, c):\n    return sys.path, sys.argv\n"
    async with runtime(
        driver, code, opt=tmp_path, environment={"PYTHONPATH": "/var/task/vendor:/tmp/more"}
    ) as it:
        path, arguments = await it.answer()
    ends = ["", f"/{SITE}", "/python", "/vendor", "/more"]
    assert [folder.endswith(end) for folder, end in zip(path, ends, strict=False)] == [True] * 5
    library = next(n for n, folder in enumerate(path) if folder.endswith(f"python{sys.version[:4]}"))
    assert 5 <= library < len(path) - 1
    assert path[-1].endswith("/runtime")
    assert arguments == ["/var/runtime/bootstrap.py"]


@pytest.mark.broker
async def test_modules_of_pythonpath_are_found(driver: str, runtime: MakeRuntime, tmp_path: Path) -> None:
    vendor = tmp_path / "code" / "vendor"
    vendor.mkdir(parents=True)
    (vendor / "statistics.py").write_text("mine = 2\n", encoding="utf-8")
    environment = {"PYTHONPATH": "/var/task/vendor"}
    async with runtime(driver, WHERE.format("statistics"), environment=environment) as it:
        assert (await it.answer())[1] == 2


@pytest.mark.broker
async def test_the_sdk_is_known_as_what_was_installed(driver: str, runtime: MakeRuntime) -> None:
    code = (
        "from importlib.metadata import version\nimport boto3, botocore, urllib3, dateutil\n"
        "NAMES = ('boto3', 'botocore', 'urllib3', 'python-dateutil')\n"
        "def handle(e, c):\n    return [version(n) for n in NAMES], boto3.__version__\n"
    )
    async with runtime(driver, code, timeout_s=20.0) as it:
        versions, boto3 = await it.answer()
    assert versions[0] == boto3
    assert len(versions) == 4


@pytest.mark.broker
async def test_the_distribution_is_told_as_programs_ask_for_it(driver: str, runtime: MakeRuntime) -> None:
    code = "import platform\ndef handle(e, c):\n    return platform.freedesktop_os_release()['ID']\n"
    async with runtime(driver, code) as it:
        assert await it.answer() == platform.freedesktop_os_release()["ID"]
