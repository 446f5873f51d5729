"""Asking a cluster whether it lets us in: what servers may answer that are not as they should be."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from millstream.contract.errors import Refused, SourceUnavailable
from millstream.kafka import admission
from millstream.kafka.access import Access

pytestmark = pytest.mark.broker  # servers on loopback

VERSIONS = b"\0\0" + b"\0\0\0\0"
HANDSHAKE = b"\0\0" + b"\0\0\0\1" + b"\0\x0dSCRAM-SHA-256"


def framed(body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, 0) + body


def token(text: bytes) -> bytes:
    return framed(b"\0\0" + b"\xff\xff" + struct.pack(">i", len(text)) + text)


@contextmanager
def server(answers: Sequence[bytes | None]) -> Iterator[str]:
    """Gives one answer to each request, and then closes; None: it says no more, and keeps the line."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        wire, _ = listener.accept()
        with wire:
            for answer in answers:
                wire.recv(4096)
                if answer is None:
                    over.wait()
                    return
                wire.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        thread.join()
        listener.close()


def login(servers: str) -> Access:
    return Access(servers, "SCRAM-SHA-256", "mill", "hush")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">i", -1),
        struct.pack(">i", 2_000_000_000),
        struct.pack(">i", 4) + b"\0\0\0\0",
    ],
)
def test_who_does_not_speak_kafka_is_unavailable(answer: bytes) -> None:
    with server([answer]) as at, pytest.raises(SourceUnavailable, match=at):
        admission.admit(Access(at))


def test_who_says_nothing_is_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WITHIN_S", 0.2)
    with server([None]) as at, pytest.raises(SourceUnavailable, match="timed out"):
        admission.admit(Access(at))


def test_a_silent_server_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "CONNECT_S", 0.2)
    with server([None]) as silent, server([framed(VERSIONS)]) as other:
        admission.admit(Access(f"{silent},{other}"))


def test_a_refusal_is_told_where_no_other_server_lets_us_in() -> None:
    answers = [framed(VERSIONS), framed(b"\0\x21\0\0\0\0")]
    with server(answers) as at, pytest.raises(Refused) as refused:
        admission.admit(login(f"127.0.0.1:1,{at}"))
    assert str(refused.value) == f"127.0.0.1:1,{at}: SASL authentication failed"


def test_a_server_too_old_to_be_asked_is_left_to_the_client() -> None:
    with server([framed(VERSIONS), framed(b"\0\x23\0\0\0\0")]) as at:
        admission.admit(login(at))


@pytest.mark.parametrize(
    "said",
    [
        b"r=another,s=c2FsdA==,i=4096",
        b"r=x,s=c2FsdA==,i=2000000000",
        b"nonsense",
        b"\xff\xfe",
        b"r=x",
    ],
)
def test_a_server_that_does_not_know_the_password_itself_is_refused(said: bytes) -> None:
    heading = "Lambda failed to authenticate server"
    answers = [framed(VERSIONS), framed(HANDSHAKE), token(said)]
    with server(answers) as at, pytest.raises(Refused, match=heading):
        admission.admit(login(at))


def test_a_host_that_no_name_can_be_is_unavailable() -> None:
    with pytest.raises(SourceUnavailable):
        admission.admit(Access("a..b:9092"))
