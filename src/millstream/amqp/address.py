"""Where a RabbitMQ broker is and how to log in: from a URL, and from options beside it."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pika

from millstream.contract.errors import Refused

DEFAULT_VIRTUAL_HOST = "/"
DEFAULT_USER = "guest"
"""The user, and the password, of a URL that has none. Source: RabbitMQ, "RabbitMQ URI Specification"."""

CONNECT_S = 5.0
LOGIN_S = 10.0
"""How long a connection may take: the TCP part of it, and all of it."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One of RabbitMQ's protocols, as its URLs have it."""

    scheme: str
    port: int
    tls_scheme: str
    tls_port: int
    variable: str  # where a URL is looked for if none is declared, so that no password need stand in a file

    @property
    def form(self) -> str:
        """What a URL must be, in a user's words."""
        example = f"{self.scheme}://user:password@rabbit.example.com:{self.port}/vhost"
        return f"a URL with {self.scheme}:// or {self.tls_scheme}:// ({example})"


AMQP = Protocol("amqp", 5672, "amqps", 5671, "MILLSTREAM_RABBITMQ_URL")
STREAM = Protocol("rabbitmq-stream", 5552, "rabbitmq-stream+tls", 5551, "MILLSTREAM_RABBITMQ_STREAM_URL")
"""Schemes and ports. Source: RabbitMQ, "RabbitMQ URI Specification" and "Stream Plugin"."""


@dataclass(frozen=True, slots=True)
class Address:
    """A broker, a virtual host on it, and a login."""

    host: str
    port: int
    virtual_host: str = DEFAULT_VIRTUAL_HOST
    username: str = DEFAULT_USER
    password: str = field(default=DEFAULT_USER, repr=False)
    protocol: Protocol = AMQP
    tls: bool = False
    ca_file: str | None = None  # None: the system's own certificates
    heartbeat_s: int | None = None  # None: as the broker proposes

    @property
    def broker(self) -> str:
        """`host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """The URL without the login."""
        scheme = self.protocol.tls_scheme if self.tls else self.protocol.scheme
        return f"{scheme}://{self.broker}/{quote(self.virtual_host, safe='')}"

    def holding(self, queue: str) -> str:
        """A queue or a stream in a user's words: `orders at rabbit.example.com:5672`."""
        default = self.virtual_host == DEFAULT_VIRTUAL_HOST
        return f"{queue} at {self.broker}" + ("" if default else f"/{quote(self.virtual_host, safe='')}")

    def parameters(self, purpose: str) -> Any:
        """pika's connection parameters; `purpose` names the connection in the broker's own lists.

        Raises:
            Refused: `ca_file` cannot be read as certificates.
        """
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.virtual_host,
            credentials=pika.PlainCredentials(self.username, self.password),
            heartbeat=self.heartbeat_s,
            ssl_options=pika.SSLOptions(self.ssl_context(), self.host) if self.tls else None,
            socket_timeout=CONNECT_S,
            stack_timeout=LOGIN_S,
            client_properties={"product": "millstream", "connection_name": purpose},
        )

    def ssl_context(self) -> ssl.SSLContext:
        """What checks the broker's certificate.

        Raises:
            Refused: as `parameters`.
        """
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "strerror", None) or "no certificate in it"
            raise Refused(f"no PEM certificates in the ca_file {self.ca_file}: {why}") from error


def declared_url(url: str | None, protocol: Protocol = AMQP) -> str | None:
    """The URL that was declared, or the one in the environment. None: there is neither."""
    return url or os.environ.get(protocol.variable) or None


def parse_address(url: str, protocol: Protocol = AMQP) -> Address:
    """The address in a URL; what it lacks has RabbitMQ's own defaults.

    Raises:
        ValueError: it is none. The message says what was wanted and repeats nothing of the URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port that is no number, brackets that do not close
        raise ValueError(protocol.form) from None
    tls = parts.scheme == protocol.tls_scheme
    known = tls or parts.scheme == protocol.scheme
    if not known or not parts.hostname or port == 0 or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError(protocol.form)
    if parts.query or parts.fragment:
        raise ValueError("a URL without ?…: heartbeat and ca_file are options of their own")
    path = unquote(parts.path[1:])
    if "/" in parts.path[1:]:
        raise ValueError("a URL with one virtual host, its slashes written as %2F")
    return Address(
        host=parts.hostname,
        port=port or (protocol.tls_port if tls else protocol.port),
        virtual_host=path or DEFAULT_VIRTUAL_HOST,
        username=DEFAULT_USER if parts.username is None else unquote(parts.username),
        password=DEFAULT_USER if parts.password is None else unquote(parts.password),
        protocol=protocol,
        tls=tls,
    )
