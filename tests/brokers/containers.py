"""Brokers of the tests as containers, of the images that compose/compose.yaml names."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from docker.errors import APIError, DockerException, ImageNotFound
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import get_docker_host

from tests.brokers.provider import Unavailable

COMPOSE = Path(__file__).parents[2] / "compose" / "compose.yaml"
STOPPED_WITHIN_S = 20
ANSWERED_WITHIN_S = 5.0

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\}")


class Container:
    """A service of the compose file, run for one test or session; its ports are on 127.0.0.1.

    Raises:
        Unavailable: no Docker engine answers, or it can have no such image.
    """

    def __init__(
        self,
        service: str,
        ports: Mapping[int, int],
        environment: Mapping[str, str],
        command: list[str] | None = None,
        files: tuple[Path, str] | None = None,
    ) -> None:
        """Ports by those of the host; `files` is a folder, and where the container sees it."""
        if not answers(engine()):
            raise Unavailable(f"wanted a Docker engine, found none at {engine()}")
        with engine_errors(service):
            self._made = DockerContainer(image(service))
            try:
                _fetch(self._made.get_docker_client().client, image(service))
            except DockerException:
                self._made.stop()  # closes the client's connections
                raise
        for host, inside in ports.items():
            # A port alone would be open to the network.
            self._made.ports[f"{inside}/tcp"] = ("127.0.0.1", host)  # type: ignore[assignment]  # docker-py's form
        self._made.with_envs(**environment)
        if command is not None:
            self._made.with_command(command)
        if files is not None:
            share(files[0])
            self._made.with_volume_mapping(files[0], files[1])
        self._service = service
        self._container: Any = None

    def start(self) -> None:
        with engine_errors(self._service):
            if self._container is None:
                self._made.start()
                self._container = self._made.get_wrapped_container()
            else:
                self._container.start()

    def running(self) -> bool:
        if self._container is None:
            return False
        self._container.reload()
        return bool(self._container.status == "running")

    def kill(self) -> None:
        """End it with SIGKILL, as a host that loses its power would."""
        if self.running():
            self._container.kill()
            self._container.wait(timeout=STOPPED_WITHIN_S)

    def stop(self) -> None:
        """End it; its files stay."""
        if self.running():
            self._container.stop(timeout=STOPPED_WITHIN_S)

    def pause(self) -> None:
        """It does nothing from now on, and its connections stay open."""
        self._container.pause()

    def resume(self) -> None:
        self._container.unpause()

    def remove(self) -> None:
        """End it for good, with its files."""
        self._made.stop()

    def log(self) -> str:
        return "" if self._container is None else self._container.logs().decode(errors="replace")


def engine() -> str:
    """Where the engine is that the environment, or Docker's own settings, name."""
    return get_docker_host() or "unix:///var/run/docker.sock"


def answers(address: str) -> bool:
    """Whether an engine is at a socket's file. One of another kind is believed to be there."""
    kind, _, path = address.partition("://")
    if kind != "unix":
        return True
    # Docker's own client would leave its socket open.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWERED_WITHIN_S)
        try:
            probe.connect(path)
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in probe.recv(64)
        except OSError:
            return False


def image(service: str) -> str:
    """The name of a service's image, as compose would have it: variables may name another."""
    found = yaml.safe_load(COMPOSE.read_text())["services"][service]["image"]
    return _VARIABLE.sub(lambda match: os.environ.get(match["name"]) or match["default"], found)


def _fetch(engine: Any, name: str) -> None:
    """Have the engine pull an image, unless it has it."""
    try:
        engine.images.get(name)
    except ImageNotFound:
        engine.images.pull(name)


def share(folder: Path) -> None:
    """Lets the user of a container read a folder, whoever that is."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o755 if file.is_dir() else 0o644)


@contextmanager
def engine_errors(service: str) -> Iterator[None]:
    """Turns faults of the Docker engine into ours."""
    try:
        yield
    except APIError as error:
        raise Unavailable(f"wanted a container of {image(service)}, found: {error.explanation}") from error
    except DockerException as error:
        raise Unavailable(f"wanted a Docker engine, found: {error}") from error
