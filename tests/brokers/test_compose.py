"""compose/compose.yaml: what it opens, what it pins, and that others follow it."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from scripts import kafka_broker
from tests.brokers.containers import COMPOSE, image

SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]

every_service = pytest.mark.parametrize("service", SERVICES)


def test_the_services_are_those_that_are_promised() -> None:
    assert set(SERVICES) == {"aws", "kafka", "rabbitmq", "postgres"}


@every_service
def test_a_service_is_the_whole_of_its_profile(service: str) -> None:
    assert SERVICES[service]["profiles"] == [service]


@every_service
def test_every_port_is_open_to_this_machine_alone_and_may_be_moved(service: str) -> None:
    prefix = f"MILLSTREAM_{service.upper()}_"
    for port in SERVICES[service]["ports"]:
        assert re.fullmatch(rf"127\.0\.0\.1:\$\{{{prefix}[A-Z_]*PORT:-\d+\}}:.+", port)


@every_service
def test_an_image_is_pinned_to_a_release(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"MILLSTREAM_{service.upper()}_IMAGE", raising=False)
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", image(service))


@every_service
def test_a_variable_names_another_image(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MILLSTREAM_{service.upper()}_IMAGE", "mine:1")
    assert image(service) == "mine:1"


@every_service
def test_a_service_says_when_it_is_healthy_and_when_to_give_up(service: str) -> None:
    check = SERVICES[service]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries"} < set(check)


def test_kafka_is_the_release_that_is_tested_without_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILLSTREAM_KAFKA_IMAGE", raising=False)
    assert image("kafka") == f"apache/kafka:{kafka_broker.VERSION}"


def test_the_aws_endpoint_is_the_release_that_is_tested_without_containers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MILLSTREAM_AWS_IMAGE", raising=False)
    pinned = re.search(r'"ministack==([\d.]+)"', (COMPOSE.parents[1] / "pyproject.toml").read_text())
    assert pinned is not None
    assert image("aws") == f"ministackorg/ministack:{pinned[1]}"


@pytest.mark.parametrize("target", ["up", "down"])
def test_make_says_in_one_line_what_it_wanted_where_there_is_no_compose(target: str) -> None:
    command = ["make", "-s", target, "COMPOSE=false"]
    done = subprocess.run(command, cwd=COMPOSE.parents[1], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == f"{target}: wanted Docker and its compose plugin, found none"


def test_compose_itself_takes_the_file() -> None:
    docker = shutil.which("docker")
    version = [docker or "docker", "compose", "version"]
    if docker is None or subprocess.run(version, capture_output=True).returncode:
        pytest.skip("wanted docker compose, found none")
    command = [docker, "compose", "-f", str(COMPOSE), "--profile", "*", "config", "--quiet"]
    subprocess.run(command, check=True, timeout=30)
