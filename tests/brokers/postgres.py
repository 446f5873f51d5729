"""The PostgreSQL of the tests: a private server on loopback, of the system's own package or a container."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.brokers.containers import Container
from tests.brokers.ports import free_port
from tests.brokers.provider import Server, Unavailable, provided

USER, PASSWORD = "millstream", "hush-5d1f"
READY_WITHIN_S = 30.0
ENDED_WITHIN_S = 10.0


class Postgres:
    """A server in a folder of its own; may be ended and started again on the same port."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._port = free_port()

        def local() -> Server:
            return LocalPostgres(folder, self._port, durable=durable)

        def container() -> Server:
            return PostgresContainer(self._port, durable=durable)

        self._server = provided("PostgreSQL", local=local, containers=container)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._server.start()
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self._server.running():
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError(f"PostgreSQL did not answer: {self._server.log()[-500:]}")

    def kill(self) -> None:
        """End it and its children with SIGKILL, as a host that loses its power would."""
        self._server.kill()

    def stop(self) -> None:
        """End it; connections are cut."""
        self._server.stop()

    def close(self) -> None:
        """End it for good."""
        self._server.remove()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Its processes do nothing meanwhile, and their connections stay open."""
        self._server.pause()
        try:
            yield
        finally:
            self._server.resume()

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self._port}/{database}"

    def database(self) -> str:
        """A new database's URL."""
        name = f"d{uuid.uuid4().hex[:12]}"
        self.execute(self.url("postgres"), f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, url: str, statement: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())


class LocalPostgres:
    """A server of the system's package, in a folder of its own.

    Raises:
        Unavailable: the package is not installed.
    """

    def __init__(self, folder: Path, port: int, *, durable: bool) -> None:
        self._programs = programs()
        self._data = folder / "data"
        self._log = folder / "log"
        self._settings = {
            **settings(durable=durable),
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []
        given = folder / "password"
        given.write_text(PASSWORD)
        shutil.chown(folder, server_user())
        shutil.chown(given, server_user())
        login = ["-A", "scram-sha-256", "-U", USER, "--pwfile", str(given)]
        self._run("initdb", "-D", str(self._data), *login, "-E", "UTF8", "--no-locale", "--no-sync")

    def start(self) -> None:
        command = [str(self._programs / "postgres"), "-D", str(self._data), *options(self._settings)]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", **as_server_user()
            )

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it and its children with SIGKILL."""
        assert self._process is not None
        children = self._children(self._process.pid)
        self._process.kill()  # first, as it would start again what its children had
        self._process.wait()
        for child in children:
            os.kill(child, signal.SIGKILL)
        until = time.monotonic() + ENDED_WITHIN_S
        while any(alive(child) for child in children) and time.monotonic() < until:
            time.sleep(0.01)

    def stop(self) -> None:
        """End it; connections are cut."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(ENDED_WITHIN_S)

    def pause(self) -> None:
        """It does nothing from now on, and its connections stay open."""
        assert self._process is not None
        self._paused = [self._process.pid, *self._children(self._process.pid)]
        for process in self._paused:
            os.kill(process, signal.SIGSTOP)

    def resume(self) -> None:
        for process in self._paused:
            os.kill(process, signal.SIGCONT)

    def remove(self) -> None:
        """End it for good."""
        self.stop()

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **as_server_user())
        if done.returncode:
            raise OSError(f"{program}: {done.stderr}")

    def _children(self, parent: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


class PostgresContainer(Container):
    """A server in a container of the official image.

    Raises:
        Unavailable: no Docker engine answers, or it can have no such image.
    """

    def __init__(self, port: int, *, durable: bool) -> None:
        environment = {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": PASSWORD}
        command = ["postgres", *options(settings(durable=durable))]
        super().__init__("postgres", {port: 5432}, environment, command)


def settings(*, durable: bool) -> dict[str, str]:
    """What the tests want of a server, wherever it runs."""
    return {"fsync": "on" if durable else "off", "max_connections": "30", "shared_buffers": "16MB"}


def options(settings: Mapping[str, str]) -> list[str]:
    """The same as arguments of the server's program."""
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def programs() -> Path:
    """The folder of the newest server's programs.

    Raises:
        Unavailable: there is none.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if not found:
        raise Unavailable(
            "wanted /usr/lib/postgresql/*/bin/postgres (Debian's package postgresql), found none"
        )
    return found[-1].parent


def server_user() -> int:
    """Who runs it: PostgreSQL refuses to be run by root."""
    if os.geteuid():
        return os.geteuid()
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return pwd.getpwnam("nobody").pw_uid


def as_server_user() -> dict[str, Any]:
    """Options of a subprocess."""
    if os.geteuid():
        return {}
    return {"user": server_user(), "group": pwd.getpwuid(server_user()).pw_gid, "extra_groups": []}


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@contextmanager
def server(*, durable: bool) -> Iterator[Postgres]:
    """A running server in a folder that is not below pytest's own, which its user may not enter."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-postgres-"))
    try:
        running = Postgres(folder, durable=durable)
        try:
            running.start()
            yield running
        finally:
            running.close()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the session; tests take a database each, and leave the server running."""
    with server(durable=False) as running:
        yield running


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that a test may kill and start as it likes; what it committed is on the disk."""
    with server(durable=True) as running:
        yield running
