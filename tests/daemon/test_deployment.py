"""From a declaration to what execution environments are made from."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from millstream.cli.tables import print_plan
from millstream.contract.errors import InvalidConfiguration
from millstream.contract.functions import FileSystem, FunctionSpec, LoggingConfig
from millstream.daemon.deployment import deployed, prune
from millstream.daemon.loader import load
from millstream.daemon.plan import Plan, make_plan
from millstream.daemon.settings import Settings
from millstream.functions.retention import hold
from tests.functions.images.making import file, layer, simple

HEAD = """
from millstream import App, Function, Sqs
app = App("orders")
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name.removesuffix("*")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if name.endswith("*") else 0o644)


def plan(folder: Path, function: str) -> Plan:
    write(folder, {"app.py": HEAD + f'app.map(Sqs("q"), to=Function("f", {function}))\n'})
    return make_plan(load(folder / "app.py"))


async def spec(folder: Path, function: str) -> FunctionSpec:
    with ExitStack() as held:
        return (await deployed(plan(folder, function), settings(folder), held))["f"]


def settings(folder: Path) -> Settings:
    return Settings(data_dir=folder / "data")


async def test_a_package_with_layers_becomes_two_folders(tmp_path: Path) -> None:
    write(tmp_path, {"code/f.py": "def h(e, c): ...\n", "one/python/m.py": "x = 1\n", "two/bin/t": "x"})
    found = await spec(tmp_path, 'handler="f.h", code="code", layers=["one", "two"]')
    assert (found.code / "f.py").exists()
    assert found.opt is not None
    assert (found.opt / "python" / "m.py").exists()
    assert (found.opt / "bin" / "t").exists()
    assert found.opt.is_relative_to(tmp_path / "data")
    assert (found.command, found.image) == ((), None)


async def test_a_function_may_be_loaded_ahead(tmp_path: Path) -> None:
    write(tmp_path, {"code/f.py": "def h(e, c): ...\n"})
    assert (await spec(tmp_path, 'handler="f.h", code="code", snap_start=True')).snap_start
    assert not (await spec(tmp_path, 'handler="f.h", code="code"')).snap_start


async def test_a_custom_runtime_is_started_by_its_bootstrap(tmp_path: Path) -> None:
    write(tmp_path, {"code/bootstrap*": "#!/bin/sh\n"})
    found = await spec(tmp_path, 'handler="any", code="code", runtime="provided.al2023"')
    assert found.command == ("/var/task/bootstrap",)
    assert found.runtime == "provided.al2023"
    assert (found.code / "bootstrap").stat().st_mode & 0o111


async def test_an_image_is_unpacked_with_its_digest_as_its_name(tmp_path: Path) -> None:
    simple(tmp_path / "image", layer(file("app", b"x", 0o755)), run={"Cmd": ["/app"], "Env": ["A=1"]})
    found = await spec(tmp_path, 'image="image", image_config={"command": ["/app", "--fast"]}')
    assert found.image is not None
    assert found.image.command == ("/app", "--fast")
    assert found.image.environment == {"A": "1"}
    assert (found.image.root / "app").exists()
    assert found.image.root.parent == tmp_path / "data" / "images"
    assert (found.runtime, found.handler, found.code) == ("", "", found.image.root)


async def test_what_an_environment_is_given_is_passed_on(tmp_path: Path) -> None:
    write(tmp_path, {"code/f.py": "def h(e, c): ...\n", "data/shared/x": ""})
    found = await spec(
        tmp_path,
        'handler="f.h", code="code", network=["mq:5672", "db:5432"], logging_config={"log_format": "JSON",'
        ' "system_log_level": "WARN"}, reserved_concurrent_executions=3, provisioned_concurrent_executions=2,'
        ' file_system_configs=[{"folder": "data/shared", "local_mount_path": "/mnt/shared"}]',
    )
    assert found.network == ("mq:5672", "db:5432")
    assert found.logging == LoggingConfig("JSON", "INFO", "WARN")
    assert (found.reserved_concurrency, found.provisioned_concurrency) == (3, 2)
    assert found.file_system == FileSystem(tmp_path / "data" / "shared", "/mnt/shared")


async def test_what_cannot_be_deployed_is_said_with_its_place(tmp_path: Path) -> None:
    write(tmp_path, {"code/f.py": "def h(e, c): ...\n"})
    (tmp_path / "code" / "out").symlink_to("/etc/hostname")
    with pytest.raises(InvalidConfiguration) as invalid:
        await spec(tmp_path, 'handler="f.h", code="code"')
    lines = [str(problem) for problem in invalid.value.problems]
    assert len(lines) == 1
    assert lines[0].startswith("app.py:4 function 'f': code: wanted relative links that stay inside")


async def test_what_was_left_half_made_is_removed(tmp_path: Path) -> None:
    write(tmp_path, {"code/f.py": "def h(e, c): ...\n", "data/images/.new-abc/root/x": "x"})
    await spec(tmp_path, 'handler="f.h", code="code"')
    assert list((tmp_path / "data" / "images").iterdir()) == []


def test_a_plan_shows_the_digest_of_an_image_and_a_packages_layers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.cli.tables.WIDTH", 400)
    simple(tmp_path / "image", layer(file("app")))
    planned = plan(tmp_path, 'image="image"')
    print_plan(planned)
    image = planned.functions["f"].image
    assert image is not None
    assert image.digest in capfd.readouterr().out
    write(tmp_path, {"code/bootstrap*": "x", "one/x": "x"})
    print_plan(plan(tmp_path, 'handler="h", code="code", layers=["one"], runtime="provided.al2"'))
    shown = capfd.readouterr().out
    assert f"+ {tmp_path / 'one'}" in shown
    assert "provided.al2" in shown


async def test_starts_leave_two_unused_folders_of_each_kind(tmp_path: Path) -> None:
    for number in range(5):
        files = {"code/f.py": f"def h(e, c): return {number}\n", "one/x": str(number), "two/y": "1"}
        write(tmp_path, files)
        found = await spec(tmp_path, 'handler="f.h", code="code", layers=["one", "two"]')
        assert found.opt is not None
        assert (found.opt / "x").read_text() == str(number)
    counts = {name: len(list((tmp_path / "data" / name).iterdir())) for name in ("code", "layers", "opt")}
    assert counts == {"code": 3, "layers": 4, "opt": 3}


async def test_nothing_that_is_deployed_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"code/f.py": "def h(e, c): ...\n", "one/x": "1", "two/y": "1"})
    first = await spec(tmp_path, 'handler="f.h", code="code", layers=["one", "two"]')
    for module in ("packages", "layers"):
        monkeypatch.delattr(f"millstream.functions.{module}.staging")  # what is written begins there
    second = await spec(tmp_path, 'handler="f.h", code="code", layers=["one", "two"]')
    assert (second.code, second.opt) == (first.code, first.opt)


async def test_pruning_leaves_what_is_deployed_and_takes_all_else(tmp_path: Path) -> None:
    write(tmp_path, {"code/f.py": "x = 1\n"})
    await spec(tmp_path, 'handler="f.h", code="code"')
    write(tmp_path, {"code/f.py": "x = 2\n"})
    with ExitStack() as held:
        found = (await deployed(plan(tmp_path, 'handler="f.h", code="code"'), settings(tmp_path), held))["f"]
        removed = prune(tmp_path / "data")
        assert (removed.folders, removed.in_use) == (1, 1)
        assert (found.code / "f.py").exists()
    assert prune(tmp_path / "data").folders == 1
    assert (await spec(tmp_path, 'handler="f.h", code="code"')).code == found.code


async def test_a_package_that_is_pruned_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"code/f.py": "x = 1\n"})
    pruned: list[int] = []

    def late(folder: Path) -> int | None:
        if not pruned:
            pruned.append(prune(tmp_path / "data").folders)
        return hold(folder)

    monkeypatch.setattr("millstream.daemon.deployment.hold", late)
    found = await spec(tmp_path, 'handler="f.h", code="code"')
    assert pruned == [1]
    assert (found.code / "f.py").exists()


async def test_what_is_left_out_of_a_package_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "millstream.daemon.deployment")
    write(tmp_path, {"code/f.py": "x = 1\n", "code/__pycache__/f.pyc": "x"})
    await spec(tmp_path, 'handler="f.h", code="code"')
    assert [record.getMessage() for record in caplog.records] == []
    write(tmp_path, {"code/.git/config": "x", "code/env/pyvenv.cfg": "x"})
    await spec(tmp_path, 'handler="f.h", code="code"')
    (record,) = caplog.records
    assert vars(record)["left_out"] == ".git, env (virtual environment)"
