"""Asks a Docker engine on this host for an image that it has."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from millstream.functions.images.files import refused
from millstream.functions.images.manifest import DOCUMENT_BYTES, RunConfig
from millstream.functions.images.unpack import IMAGE_BYTES

SCHEME = "docker://"

SOCKET = Path("/var/run/docker.sock")

ANSWER_S = 60.0
"""How long an engine may be silent; it gathers an image's layers before it sends the first."""

TAR_BYTES = IMAGE_BYTES + IMAGE_BYTES // 10
"""Largest tar of an image, with what tars add to files."""


class Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    """Source: Docker Engine API, "Inspect an image"."""

    id: str
    architecture: str = ""
    os: str = ""
    config: RunConfig | None = None


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def inspect(name: str, engine: Path = SOCKET) -> Inspected:
    """What an engine knows of an image.

    Raises:
        InvalidConfiguration: no engine answers, or it has no such image.
    """
    with _got(f"/images/{quote(name, safe='/:@')}/json", name, engine) as answer:
        with _errors(name, engine):
            document = answer.read(DOCUMENT_BYTES)
        try:
            return msgspec.json.decode(document, type=Inspected)
        except msgspec.DecodeError as error:
            raise refused("a Docker engine's answer", f"{engine}: {error}") from error


def save(image_id: str, target: Path, engine: Path = SOCKET) -> None:
    """Write an image to a tar, as `docker save` does.

    Raises:
        InvalidConfiguration: no engine answers, it has no such image, or the image is too large.
        OSError: `target` cannot be written.
    """
    size = 0
    with (
        _got(f"/images/{quote(image_id, safe=':')}/get", image_id, engine) as answer,
        target.open("wb") as out,
    ):
        while True:
            with _errors(image_id, engine):
                chunk = answer.read(1 << 20)
            if not chunk:
                return
            size += len(chunk)
            if size > TAR_BYTES:
                raise refused("at most 10 GB uncompressed", "more")
            out.write(chunk)


@contextmanager
def _got(path: str, name: str, engine: Path) -> Iterator[http.client.HTTPResponse]:
    missing = f"{name} in the Docker engine at {engine}: `docker pull` or `docker build`"
    with closing(_Connection(engine)) as connection:
        with _errors(name, engine):
            connection.request("GET", path)
            answer = connection.getresponse()
        with answer:
            if answer.status == http.HTTPStatus.NOT_FOUND:
                raise refused(missing, "none")
            if answer.status != http.HTTPStatus.OK:
                raise refused(f"{name} of the Docker engine at {engine}", f"status {answer.status}")
            yield answer


@contextmanager
def _errors(name: str, engine: Path) -> Iterator[None]:
    """Turns what a connection raises into the user's problem."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        found = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
        raise refused(f"a Docker engine at {engine} for {name}", found) from error
