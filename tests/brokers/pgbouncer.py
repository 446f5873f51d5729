"""The PgBouncer of the tests: a private one on loopback that pools the test server's connections."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers.ports import free_port
from tests.brokers.postgres import PASSWORD, USER, Postgres, as_server_user, server_user
from tests.brokers.provider import Unavailable, provided

READY_WITHIN_S = 10.0

CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool}
server_idle_timeout = 1
"""


class PgBouncer:
    """Hands each transaction any of a few connections to a server.

    Raises:
        Unavailable: the package is not installed.
    """

    def __init__(self, folder: Path, server_port: int, pool: int) -> None:
        program = shutil.which("pgbouncer")
        if program is None:
            raise Unavailable("wanted pgbouncer (Debian's package pgbouncer), found none")
        self.port = free_port()
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            CONFIGURATION.format(server_port=server_port, port=self.port, folder=folder, pool=pool)
        )
        (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        for path in (folder, settings, folder / "users"):
            shutil.chown(path, server_user())
        self._log = folder / "log"
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [program, str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                **as_server_user(),
            )

    def wait(self) -> None:
        """Return once it listens."""
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError(f"PgBouncer did not answer: {self._log.read_text(errors='replace')[-500:]}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def url(self, url: str) -> str:
        """The URL of one of the server's databases, through the pool."""
        before, _, database = url.rpartition("/")
        return f"{before.rpartition(':')[0]}:{self.port}/{database}"


@contextmanager
def pooler(server: Postgres, pool: int) -> Iterator[PgBouncer]:
    """A running one in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-pgbouncer-"))

    def local() -> PgBouncer:
        return PgBouncer(folder, int(server.url("").rpartition(":")[2].rstrip("/")), pool)

    def container() -> PgBouncer:
        raise Unavailable("there is no official image of it")

    try:
        running = provided("PgBouncer", local=local, containers=container)
        try:
            running.wait()
            yield running
        finally:
            running.close()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def pgbouncer(postgres: Postgres) -> Iterator[PgBouncer]:
    """One for the session, in transaction mode, with fewer connections to the server than tests have."""
    with pooler(postgres, 2) as running:
        yield running
