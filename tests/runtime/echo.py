"""A server on loopback, and a function that asks servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

ASK = """
import errno, socket
def handle(event, context):
    try:
        with socket.create_connection((event[0], event[1]), 2) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            return answer.decode()
    except OSError as error:
        return 'no such name' if isinstance(error, socket.gaierror) else errno.errorcode[error.errno]
"""


CLOSED = ("", "ECONNRESET", "ENOTCONN", "EPIPE")
"""What a function sees of a connection that was taken, and then closed."""


class Echo:
    """A server on loopback that answers with what it was sent, twice."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                data = b""
                while piece := sock.recv(65536):
                    data += piece
                sock.sendall(2 * data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()
