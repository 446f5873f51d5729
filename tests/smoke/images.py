"""Images of this machine's own programs, for an engine that can pull none."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from packaging.requirements import Requirement

from scripts.kafka_broker import libraries

SITE = "/site"
LEFT_OUT = {"__pycache__", "site-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip"}

# What Apache's image does at its start, with the same program of Kafka's own.
KAFKA_SETUP = (
    "kafka.docker.KafkaDockerWrapper setup -D /etc/kafka/docker -M /mnt/shared/config -F /opt/kafka/config"
)
KAFKA = f"""
set -f
java="{{java}} $KAFKA_HEAP_OPTS -XX:TieredStopAtLevel=1 -cp /opt/kafka/libs/*"
$java {KAFKA_SETUP}
exec $java kafka.Kafka /opt/kafka/config/server.properties
"""


class Image:
    """An archive that grows, and becomes an image with one layer."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._names: set[str] = set()

    def add(self, path: Path | str, at: str | None = None, *, without: Iterable[str] = ()) -> None:
        """A file, or a folder with all in it; what links point to stands in their place."""
        path, without = Path(path), set(without)
        for folder, folders, files in os.walk(path):
            folders[:] = [name for name in folders if name not in without]
            for name in files:
                file = Path(folder, name)
                if file.exists():  # else a link to what no installed package has
                    place = file.relative_to(path)
                    self._add(file, f"{at or path}/{place}")
        if path.is_file():
            self._add(path, at or str(path))

    def _add(self, file: Path, name: str) -> None:
        name = os.path.normpath(name)
        if name not in self._names:  # Docker takes no name twice
            self._names.add(name)
            self._archive.add(file.resolve(), arcname=name)

    def add_folder(self, name: str) -> None:
        """An empty one, which every user may write to."""
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        self._archive.addfile(entry)

    def add_text(self, name: str, text: str) -> None:
        data = text.encode()
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.size, entry.mode = len(data), 0o644
        self._archive.addfile(entry, io.BytesIO(data))

    def add_programs(self, *programs: str) -> None:
        """Programs or shared libraries, and the shared libraries that they load."""
        done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True)
        for file in {*programs, *re.findall(r"(/\S+\.so[\w.]*) \(0x", done.stdout)}:
            self.add(file)


@contextmanager
def imported(address: str, name: str, command: list[str], *changes: str) -> Iterator[Image]:
    """An image that the engine has once the block ends; changes are lines of a Dockerfile."""
    repository, _, tag = name.partition(":")
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            yield Image(archive)
        file.seek(0)
        client = docker.DockerClient(base_url=address)
        try:
            lines = [*changes, f"CMD {json.dumps(command)}"]
            client.api.import_image_from_data(file, repository=repository, tag=tag, changes=lines)
        finally:
            client.close()


def import_aws(address: str, name: str) -> None:
    """ministack, by the Python that runs this."""
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    extensions = [str(file) for file in (library / "lib-dynload").glob("*.so")]
    paths = [f"ENV PYTHONPATH={SITE}", f"ENV PYTHONHOME={sys.base_prefix}"]
    with imported(address, name, [python, "-m", "ministack.app"], *paths) as image:
        image.add_programs(python, *extensions)
        image.add(library, without=LEFT_OUT)
        image.add_folder("/tmp")
        for package in closure("ministack"):
            for file in importlib.metadata.distribution(package).files or []:
                if ".." not in file.parts and file.suffix != ".pyc":
                    image.add(Path(str(file.locate())), f"{SITE}/{file}")


def import_kafka(address: str, name: str) -> None:
    """Kafka as Apache's image starts it: by a user without rights, from a folder of settings."""
    java = Path(shutil.which("java") or "java").resolve()
    home = java.parents[1]
    with imported(address, name, ["/bin/sh", "/start"], "USER 1000:1000") as image:
        image.add_text("/start", KAFKA.format(java=java))
        image.add_programs("/bin/sh", str(java), *map(str, (home / "lib").glob("*/libjvm.so")))
        image.add_programs(*(str(home / "lib" / f"lib{part}.so") for part in ("java", "net", "nio", "zip")))
        image.add(home / "lib", without=["ct.sym"])
        image.add(home / "conf")
        image.add(libraries(), "/opt/kafka/libs")
        for folder in ("/tmp", "/opt/kafka/config"):
            image.add_folder(folder)
        for file in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
            image.add_text(f"/etc/kafka/docker/{file}", "")


def closure(package: str) -> set[str]:
    """Names of a package and of all that it requires, extras aside."""
    found: set[str] = set()
    asked = [package]
    while asked:
        name = asked.pop()
        if name in found:
            continue
        found.add(name)
        needed = map(Requirement, importlib.metadata.requires(name) or [])
        asked += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found
