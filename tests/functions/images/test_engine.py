"""Images by reference, from a Docker engine that answers on a socket."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.functions.images import engine
from millstream.functions.images.find import deploy_image, find_image
from tests.functions.images.making import HERE, OTHER, digest, file, layer, saved
from tests.smoke.engine import engine as real_engine

APP = layer(file("app", b"#!/bin/sh\n", 0o755))
ID = digest(b"app:1")
INSPECTED = {"Id": ID, "Architecture": HERE, "Os": "linux", "Config": {"Entrypoint": ["/app"], "Env": None}}


class Engine(socketserver.ThreadingUnixStreamServer):
    """Speaks the part of Docker's API that gives images. `asked` has the paths, in order."""

    daemon_threads = True

    def __init__(self, path: Path, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Engine

    def address_string(self) -> str:
        return "engine"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is http.server's
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        body = self.server.answers.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b'{"message": "No such image"}')


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # a socket's path must be short
        yield Path(name)


@contextmanager
def running(place: Path, answers: dict[str, bytes]) -> Iterator[tuple[Path, list[str]]]:
    with Engine(place / "s", answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield place / "s", server.asked
        finally:
            server.shutdown()
            thread.join()


def test_an_image_is_asked_for_by_its_name_and_fetched_by_its_digest(place: Path) -> None:
    tar = saved(place / "app.tar", [APP]).read_bytes()
    name = "registry.example.com:5000/team/app:1"
    answers = {f"/images/{name}/json": json.dumps(INSPECTED).encode(), f"/images/{ID}/get": tar}
    with running(place, answers) as (socket, asked):
        found = find_image(f"docker://{name}", None, place, socket)
        assert (found.digest, found.command) == (ID, ("/app",))
        assert asked == [f"/images/{name}/json"]
        image = deploy_image(found, place / "store")
        assert (image.root / "app").read_bytes() == b"#!/bin/sh\n"
        assert deploy_image(found, place / "store") == image
        assert asked == list(answers)
    assert [path.name for path in (place / "store").iterdir()] == [ID.removeprefix("sha256:")]


def test_an_image_that_the_engine_does_not_have_is_one_line(place: Path) -> None:
    with running(place, {}) as (socket, _), pytest.raises(InvalidConfiguration) as invalid:
        find_image("docker://app:1", None, place, socket)
    assert str(invalid.value) == (
        f"image: wanted app:1 in the Docker engine at {socket}: `docker pull` or `docker build`, found none"
    )


def test_an_engine_that_does_not_run_is_one_line(place: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"wanted a Docker engine at .* for app:1, found No such"):
        find_image("docker://app:1", None, place, place / "s")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"<html>", "wanted a Docker engine's answer"),
        (b"{}", "wanted a Docker engine's answer"),
        (json.dumps(INSPECTED | {"Id": "../../etc"}).encode(), "wanted digests of sha256, found"),
        (json.dumps(INSPECTED | {"Architecture": OTHER}).encode(), f"found one for linux/{OTHER}"),
        (json.dumps(INSPECTED | {"Config": {}}).encode(), "wanted an image with an entry point"),
    ],
)
def test_an_answer_that_is_of_no_use_is_one_line(place: Path, answer: bytes, says: str) -> None:
    engine_of = running(place, {"/images/app:1/json": answer})
    with engine_of as (socket, _), pytest.raises(InvalidConfiguration) as invalid:
        find_image("docker://app:1", None, place, socket)
    assert len(invalid.value.problems) == 1
    assert says in str(invalid.value)


@pytest.mark.parametrize("reference", ["docker://", "docker://a b", "docker://a\nb"])
def test_a_reference_without_a_name_is_one_line(place: Path, reference: str) -> None:
    with pytest.raises(InvalidConfiguration, match="wanted docker://NAME:TAG, found"):
        find_image(reference, None, place)


def test_a_name_cannot_ask_the_engine_for_anything_else(place: Path) -> None:
    with running(place, {}) as (socket, asked), pytest.raises(InvalidConfiguration):
        find_image("docker://x?a=1#b", None, place, socket)
    assert asked == ["/images/x%3Fa%3D1%23b/json"]


def test_an_image_larger_than_the_limit_is_not_fetched_to_its_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TAR_BYTES", 1000)
    engine_of = running(place, {f"/images/{ID}/get": bytes(5000)})
    refused = pytest.raises(InvalidConfiguration, match="wanted at most 10 GB uncompressed, found more")
    with engine_of as (socket, _), refused:
        engine.save(ID, place / "saved.tar", socket)


@pytest.mark.broker
def test_a_real_engine_gives_the_files_that_it_was_given(place: Path) -> None:
    (place / "layer.tar").write_bytes(APP)
    with real_engine() as address:
        docker = [shutil.which("docker") or "docker", "--host", address]
        change = ["--change", 'ENTRYPOINT ["/app", "-v"]', "--change", "ENV A=1", "--change", "WORKDIR /srv"]
        command = [*docker, "import", *change, str(place / "layer.tar"), "millstream-test:1"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        socket = Path(address.removeprefix("unix://"))
        try:
            found = find_image("docker://millstream-test:1", None, place, socket)
            image = deploy_image(found, place / "store")
            command = [*docker, "save", "--output", str(place / "saved.tar"), "millstream-test:1"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        finally:
            command = [*docker, "rmi", "millstream-test:1"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert (image.root / "app").read_bytes() == b"#!/bin/sh\n"
    assert (image.command, image.working_directory) == (("/app", "-v"), "/srv")
    assert image.environment["A"] == "1"
    by_tar = deploy_image(find_image("saved.tar", None, place), place / "by-tar")
    assert (by_tar.root / "app").read_bytes() == b"#!/bin/sh\n"
    assert by_tar.command == image.command
