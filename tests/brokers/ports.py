"""Ports for servers that a test starts, and starts again."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000


def free_port() -> int:
    """A port that nothing listens on, and that the system gives to no connection.

    A server that was killed finds it free again: one of the ephemeral ports might by then
    be a client's, which would keep the server from starting.
    """
    while True:
        port = random.randrange(LOWEST, _first_ephemeral())
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _first_ephemeral() -> int:
    """The first ephemeral port: Linux's, or the one that IANA names."""
    try:
        return int(EPHEMERAL.read_text().split()[0])
    except FileNotFoundError:
        return 49_152
