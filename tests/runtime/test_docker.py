"""The docker driver: the engines that it takes, what it leaves on them, and what it says of them."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.registry import load_plugin
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.sandboxes.containers import root_of
from millstream.runtime.sandboxes.docker import DockerSandbox
from millstream.runtime.sandboxes.users import IDS
from tests.runtime.bash_image import image, root
from tests.smoke.engine import started

__all__ = ["root"]


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("unix:///nowhere/docker.sock", "engine at unix:///nowhere/docker.sock, found: No such file"),
        ("tcp://user:hush@192.0.2.1:2375", "engine of this host, found DOCKER_HOST=tcp://192.0.2.1:2375;"),
        ("ssh://192.0.2.1", "engine of this host, found DOCKER_HOST=ssh://192.0.2.1;"),
    ],
)
async def test_an_engine_that_is_not_there_or_not_here_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, found: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(SandboxUnavailable) as refused:
        await DockerSandbox(tmp_path).start()
    assert found in str(refused.value)
    assert "ways out: " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_root_of_an_image_has_its_links_and_what_all_may_read_of_its_etc(
    root: Path, tmp_path: Path
) -> None:
    (root / "etc" / "shadow").write_text("")
    (root / "etc" / "shadow").chmod(0)
    (root / "etc" / "hosts").write_text("the image's")
    (root / "etc" / "mtab").symlink_to("/proc/mounts")
    (root / "etc" / "release").symlink_to("os-release")
    made = root_of(replace(function(tmp_path), image=image(root)), tmp_path, IDS[0])
    with tarfile.open(fileobj=io.BytesIO(made.archive)) as archive:
        found = {entry.name: entry.linkname for entry in archive if entry.name not in ("etc", "mnt", "tmp")}
    assert found == {"link": "app", "etc/os-release": "", "etc/release": "os-release"}
    places = {place for _, place in made.mounts}
    assert {"/app", "/bin", "/etc/hosts"} <= places
    assert made.archive == root_of(replace(function(tmp_path), image=image(root)), tmp_path, IDS[0]).archive


@pytest.fixture
def client(docker_engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[docker.DockerClient]:
    """Of the engine that DOCKER_HOST then names."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine)
    client = docker.DockerClient(docker_engine)
    yield client
    client.close()


def made(client: docker.DockerClient) -> tuple[list[str], list[str]]:
    """Names of the containers and of the images that are there."""
    images = [tag for image in client.images.list() for tag in image.tags if tag.startswith("millstream-")]
    return [one.name for one in client.containers.list(all=True)], images


def function(folder: Path) -> FunctionSpec:
    (folder / "f.py").write_text("def handle(e, c): ...\n", encoding="utf-8")
    return FunctionSpec("f", "arn:aws:lambda:us-east-1:000000000000:function:f", "f.handle", folder)


@pytest.mark.broker
async def test_nothing_is_left_on_the_engine(client: docker.DockerClient, tmp_path: Path) -> None:
    sandbox = load_plugin("sandboxes", "docker")(tmp_path / "sandboxes")
    before = made(client)
    await sandbox.start()
    sink = FunctionLogs(tmp_path / "logs").of("f")
    environment = await sandbox.create(function(tmp_path), sink)
    assert len(made(client)[0]) == len(before[0]) + 1
    await environment.aclose()
    await sandbox.aclose()
    assert made(client) == before


@pytest.mark.broker
async def test_what_a_killed_daemon_left_is_removed_by_its_next_start_alone(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    before = made(client)
    killed, other, again = (DockerSandbox(tmp_path / name) for name in ("own", "other", "own"))
    await killed.start()
    sink = FunctionLogs(tmp_path / "logs").of("f")
    environment = await killed.create(function(tmp_path), sink)
    await other.start()
    assert len(made(client)[0]) == len(before[0]) + 1
    await again.start()
    assert made(client)[0] == before[0]
    await environment.aclose()
    for sandbox in (killed, other, again):
        await sandbox.aclose()
    assert made(client) == before


@pytest.mark.broker
async def test_an_engine_that_goes_away_costs_environments_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("wanted root and dockerd, to start an engine that may end")
    sink = FunctionLogs(tmp_path / "logs").of("f")
    with started(bridge=False) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        sandbox = DockerSandbox(tmp_path)
        await sandbox.start()
        environment = await sandbox.create(function(tmp_path), sink)
    async with asyncio.timeout(10.0):
        while environment.alive:
            await asyncio.sleep(0)
    with pytest.raises(SandboxUnavailable, match="wanted a Docker engine at unix:"):
        await sandbox.create(function(tmp_path), sink)
    await environment.aclose()
    await sandbox.aclose()
    assert "containers not removed" in caplog.text


@pytest.mark.broker
async def test_it_says_which_limits_the_engine_enforces(client: docker.DockerClient, tmp_path: Path) -> None:
    sandbox = DockerSandbox(tmp_path)
    await sandbox.start()
    said = sandbox.limits()
    await sandbox.aclose()
    info = client.info()
    assert ("memory per environment" in said) == info["MemoryLimit"]
    assert said.endswith(f"(Docker {info['ServerVersion']})")
    assert "no network; system calls filtered" in said
