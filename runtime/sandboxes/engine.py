"""A Docker engine of this host: containers and images of one daemon, by docker's own library.

Each call blocks; `DockerSandbox` makes them in threads. All that is made carries the label of the daemon's
data directory, by which a later start finds what a killed daemon left.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from millstream.contract.errors import SandboxUnavailable

LABEL = "millstream.data"
TIMEOUT_S = 60
KNOCK_S = 5.0
LOG_LINES = 5

WAYS_OUT = (
    "ways out: start the engine, or let this user reach its socket (group docker); "
    "name another by DOCKER_HOST=unix://...; or choose --isolation bwrap"
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What an engine says that it enforces."""

    version: str
    cgroup_version: str
    memory: bool
    processes: bool
    seccomp: bool
    rootless: bool


class Engine:
    """One engine, as a daemon with one data directory uses it."""

    def __init__(self, data_id: str) -> None:
        """Connect. Raises SandboxUnavailable, with the ways out."""
        try:
            import docker  # an extra
            from docker.utils import kwargs_from_env
        except ImportError as error:
            wanted = "wanted the docker package (pip install 'millstream[docker]'), found none"
            raise SandboxUnavailable(f"isolation docker: {wanted}") from error
        with engine_errors("isolation docker"):
            address = kwargs_from_env().get("base_url", "unix:///var/run/docker.sock")
            if not address.startswith("unix:///"):
                found = f"wanted an engine of this host, found DOCKER_HOST={_bare(address)}"
                raise SandboxUnavailable(f"isolation docker: {found}; {WAYS_OUT}")
            _knock(address)
            self._address = address
            self._client: Any = docker.APIClient(address, version="auto", timeout=TIMEOUT_S)
        self._data_id = data_id
        self.labels = {LABEL: data_id}

    def offer(self) -> Offer:
        """What it enforces. Raises SandboxUnavailable."""
        with self._asked("isolation docker"):
            found = self._client.info()
        options = [option.partition(",")[0] for option in found.get("SecurityOptions") or []]
        return Offer(
            version=found.get("ServerVersion", ""),
            cgroup_version=f"v{found.get('CgroupVersion', '1')}",
            memory=bool(found.get("MemoryLimit")),
            processes=bool(found.get("PidsLimit")),
            seccomp="name=seccomp" in options,
            rootless="name=rootless" in options,
        )

    def ensure_image(self, name: str, archive: bytes) -> str:
        """The image of that name, of one layer; imported unless it is there. Raises SandboxUnavailable."""
        image = f"millstream-{self._data_id}:{name}"
        with self._asked(f"image {image}"):
            if not self._client.images(image, quiet=True):
                label = f"LABEL {LABEL}={self._data_id}"
                repository, _, tag = image.partition(":")
                self._client.import_image_from_data(archive, repository, tag, changes=[label])
        return image

    def start(self, name: str, config: dict[str, Any]) -> int:
        """Make and start a container: the process id of its first process. Raises SandboxUnavailable."""
        with self._asked(f"container {name}"):
            self._client.create_container_from_config(config, name)
            self._client.start(name)
            return int(self._client.inspect_container(name)["State"]["Pid"])

    def ended(self, name: str) -> str:
        """Why a container that does not run ended: the last it said. Empty: it runs."""
        with self._asked(f"container {name}"):
            state = self._client.inspect_container(name)["State"]
            if state["Running"]:
                return ""
            said = self._client.logs(name, tail=LOG_LINES).decode("utf-8", "replace").splitlines()
        return said[-1].strip() if said else state["Error"] or f"exit status {state['ExitCode']}"

    def remove(self, name: str) -> None:
        """End and remove a container, if it is there. Raises SandboxUnavailable."""
        with self._asked(f"container {name}"), _absent_is_fine():
            self._client.remove_container(name, force=True, v=True)

    def remove_all(self) -> int:
        """Remove all that has the data directory's label; how many containers. Raises SandboxUnavailable."""
        mine = {"label": f"{LABEL}={self._data_id}"}
        with self._asked("isolation docker"):
            containers = self._client.containers(all=True, quiet=True, filters=mine)
            for container in containers:
                with _absent_is_fine():
                    self._client.remove_container(container["Id"], force=True, v=True)
            for image in self._client.images(quiet=True, filters=mine):
                with _absent_is_fine():
                    self._client.remove_image(image, force=True)
        return len(containers)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        with engine_errors(what):
            _knock(self._address)
            yield


@contextlib.contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Turns docker's faults, and those of its connection, into ours."""
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise SandboxUnavailable(f"{what}: {error.explanation or error}") from error
    except (DockerException, OSError) as error:  # of requests, too, whose errors are OSErrors
        raise SandboxUnavailable(f"{what}: the engine does not answer: {type(error).__name__}") from error


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    """What is to be removed may be gone, or go just now."""
    from docker.errors import APIError

    try:
        yield
    except APIError as error:
        if error.status_code not in (404, 409):
            raise


def _knock(address: str) -> None:
    """Find out whether anything listens there; docker's library leaves a socket open that nobody answers.

    Raises SandboxUnavailable.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(KNOCK_S)
            probe.connect(address.removeprefix("unix://"))
        except OSError as error:
            found = f"wanted a Docker engine at {address}, found: {error.strerror or 'no answer'}"
            raise SandboxUnavailable(f"isolation docker: {found}; {WAYS_OUT}") from error


def _bare(address: str) -> str:
    """Without a user and a password."""
    kind, _, rest = address.partition("://")
    return f"{kind}://{rest.rpartition('@')[2]}"
