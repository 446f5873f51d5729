"""Where a RabbitMQ broker is and how to log in: from a URL, and from options beside it."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pika

from millstream.contract.errors import InvalidConfiguration, Problem

URL_VARIABLE = "MILLSTREAM_RABBITMQ_URL"
"""Where a broker's URL is looked for if none is declared, so that no password need stand in an app's file."""

URL_FORM = "an amqp:// or amqps:// URL (amqp://user:password@rabbit.example.com:5672/vhost)"

DEFAULT_VIRTUAL_HOST = "/"
DEFAULT_USER = "guest"
"""The user, and the password, of a URL that has none. Source: RabbitMQ, "RabbitMQ URI Specification"."""

CONNECT_S = 5.0
LOGIN_S = 10.0
"""How long a connection may take: the TCP part of it, and all of it."""

_PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Address:
    """A broker, a virtual host on it, and a login."""

    host: str
    port: int
    virtual_host: str = DEFAULT_VIRTUAL_HOST
    username: str = DEFAULT_USER
    password: str = field(default=DEFAULT_USER, repr=False)
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
        scheme = "amqps" if self.tls else "amqp"
        return f"{scheme}://{self.broker}/{quote(self.virtual_host, safe='')}"

    def parameters(self, purpose: str) -> Any:
        """pika's connection parameters; `purpose` names the connection in the broker's own lists.

        Raises:
            InvalidConfiguration: `ca_file` cannot be read as certificates.
        """
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.virtual_host,
            credentials=pika.PlainCredentials(self.username, self.password),
            heartbeat=self.heartbeat_s,
            ssl_options=self._ssl_options() if self.tls else None,
            socket_timeout=CONNECT_S,
            stack_timeout=LOGIN_S,
            client_properties={"product": "millstream", "connection_name": purpose},
        )

    def _ssl_options(self) -> Any:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "strerror", None) or "no certificate in it"
            problem = Problem("", "ca_file", "a file of PEM certificates", f"{self.ca_file}: {why}")
            raise InvalidConfiguration([problem]) from error
        return pika.SSLOptions(context, server_hostname=self.host)


def declared_url(url: str | None) -> str | None:
    """The URL that was declared, or the one in the environment. None: there is neither."""
    return url or os.environ.get(URL_VARIABLE) or None


def parse_address(url: str) -> Address:
    """The address in a URL; what it lacks has RabbitMQ's own defaults.

    Raises:
        ValueError: it is none. The message says what was wanted and repeats nothing of the URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port that is no number, brackets that do not close
        raise ValueError(URL_FORM) from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError(URL_FORM)
    if parts.query or parts.fragment:
        raise ValueError("a URL without ?…: heartbeat and ca_file are options of their own")
    path = unquote(parts.path[1:])
    if "/" in parts.path[1:]:
        raise ValueError("a URL with one virtual host, its slashes written as %2F")
    return Address(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        virtual_host=path or DEFAULT_VIRTUAL_HOST,
        username=DEFAULT_USER if parts.username is None else unquote(parts.username),
        password=DEFAULT_USER if parts.password is None else unquote(parts.password),
        tls=parts.scheme == "amqps",
    )
