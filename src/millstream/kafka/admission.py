"""Asks a cluster whether it lets us in, before a client library does.

The libraries try again in silence for what no retry mends, or say it each in its own way; this asks
once, over a connection of its own, and says it in AWS's words whichever library is used.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import time
from contextlib import ExitStack

from kafka.net.sasl import get_sasl_mechanism

from millstream.contract.errors import Refused, SourceUnavailable
from millstream.kafka.access import Access

SASL_FAILED = "SASL authentication failed"
SERVER_UNKNOWN = "Lambda failed to authenticate server"
CLIENT_UNKNOWN = "Server failed to authenticate Lambda"
"""Source: AWS, "Troubleshooting self-managed Apache Kafka event source mapping errors"."""

WITHIN_S = 10.0
"""For all servers together."""

CONNECT_S = 3.0
"""For one of several servers."""

MAX_ANSWER_BYTES = 1024 * 1024

_API_VERSIONS, _SASL_HANDSHAKE, _SASL_AUTHENTICATE = (18, 0), (17, 1), (36, 0)
_UNSUPPORTED_VERSION = 35

_ALERT = re.compile(r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|HANDSHAKE_FAILURE)")
"""What a server answers whom a client's certificate does not convince, or who misses one."""


class _NotAdmitted(Exception):
    """The heading that says why."""


def admit(access: Access) -> None:
    """Return once one of the servers has let us in; asks them in turn.

    Raises:
        Refused: they refuse us, or are not whom we trust.
        SourceUnavailable: none answers now.
    """
    context = access.ssl_context() if access.tls else None
    until = time.monotonic() + WITHIN_S
    refused: _NotAdmitted | None = None
    why = f"{access.bootstrap_servers}: no broker answers"
    servers = access.bootstrap_servers.split(",")
    for server in servers:
        left_s = until - time.monotonic()
        if left_s <= 0:
            break
        try:
            return _ask(server, access, context, min(left_s, CONNECT_S) if len(servers) > 1 else left_s)
        except _NotAdmitted as heading:
            refused = heading
        except (OSError, UnicodeError) as error:  # the latter for a host that no name can be
            why = f"{server}: {_why(error)}"
    if refused is None:
        raise SourceUnavailable(why)
    raise Refused(f"{access.bootstrap_servers}: {refused}") from refused


def _ask(server: str, access: Access, context: ssl.SSLContext | None, within_s: float) -> None:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        with ExitStack() as stack:
            plain = stack.enter_context(socket.create_connection((host, int(port)), within_s))
            wire = plain if context is None else stack.enter_context(_secured(plain, context, host))
            # Whoever wants a certificate says so to the first request alone, with TLS 1.3.
            _request(wire, _API_VERSIONS, b"")
            if access.mechanism is not None:
                _authenticate(wire, access, host)
    except ssl.SSLCertVerificationError as error:
        raise _NotAdmitted(SERVER_UNKNOWN) from error
    except struct.error as error:
        raise ConnectionError("this is not Kafka") from error
    except ssl.SSLError as error:
        if _ALERT.search(error.reason or ""):
            raise _NotAdmitted(CLIENT_UNKNOWN) from error
        raise


def _secured(plain: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    return context.wrap_socket(plain, server_hostname=host)


def _authenticate(wire: socket.socket, access: Access, host: str) -> None:
    settings = access.sasl_for_kafka_python()
    answer = _request(wire, _SASL_HANDSHAKE, _text(settings["sasl_mechanism"].encode()))
    if _check(answer):
        return
    mechanism = get_sasl_mechanism(settings["sasl_mechanism"])(host=host, **settings)
    while not mechanism.is_done():
        token: bytes = mechanism.auth_bytes()
        answer = _request(wire, _SASL_AUTHENTICATE, struct.pack(">i", len(token)) + token)
        if _check(answer):
            return
        try:
            mechanism.receive(_token(answer))
        except (ValueError, KeyError) as error:  # it does not know the password, or speaks nonsense
            raise _NotAdmitted(SERVER_UNKNOWN) from error


def _check(answer: bytes) -> bool:
    """True if the server is too old to be asked: the client library will find out."""
    (code,) = struct.unpack_from(">h", answer)
    if code == _UNSUPPORTED_VERSION:
        return True
    if code:
        raise _NotAdmitted(SASL_FAILED)
    return False


def _token(answer: bytes) -> bytes:
    """What follows the error's code and its message, which may be null."""
    (length,) = struct.unpack_from(">h", answer, 2)
    at = 4 + max(length, 0)
    (size,) = struct.unpack_from(">i", answer, at)
    return answer[at + 4 : at + 4 + size]


def _request(wire: socket.socket, kind: tuple[int, int], body: bytes) -> bytes:
    """The answer, without its correlation id.

    Raises:
        OSError: none, or one that Kafka would not give.
    """
    request = struct.pack(">hhi", *kind, 0) + _text(b"millstream") + body
    wire.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _read(wire, 4))
    if not 6 <= size <= MAX_ANSWER_BYTES:
        raise ConnectionError("this is not Kafka")
    return _read(wire, size)[4:]


def _read(wire: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        some = wire.recv(size - len(found))
        if not some:
            raise ConnectionError("closed by the server")
        found += some
    return found


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return "no such host"


def _text(value: bytes) -> bytes:
    return struct.pack(">h", len(value)) + value
