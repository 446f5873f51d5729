"""Options that name a RabbitMQ broker and a login."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, field_validator

from millstream.amqp.address import AMQP, Address, Protocol, declared_url, parse_address
from millstream.contract.errors import Problem
from millstream.contract.options import Options

_ARN = re.compile(r"arn:[a-z-]+:mq:[a-z0-9-]+:\d{12}:broker:.+")

LOGIN = 'a dictionary with "username" and "password"'

SECRET_FIELDS = frozenset({"url", "basic_auth"})
"""Options whose values no message repeats."""


def _arn(text: str) -> str:
    if not _ARN.fullmatch(text):
        raise ValueError("the ARN of an Amazon MQ broker")
    return text


def _login(given: dict[str, Any]) -> dict[str, Any]:
    if set(given) != {"username", "password"} or not all(isinstance(part, str) for part in given.values()):
        raise ValueError(LOGIN)
    return given


class LoginOptions(Options):
    """What stands beside a broker's URL, and in place of the login in it.

    `basic_auth` is AWS's BASIC_AUTH. `heartbeat` is in seconds; without it the broker's proposal holds.
    """

    basic_auth: Annotated[dict[str, Any], AfterValidator(_login)] | None = Field(
        default=None, repr=False, description=LOGIN
    )
    ca_file: str | None = Field(default=None, min_length=1, description="a file of PEM certificates")
    heartbeat: int | None = Field(
        default=None, ge=1, le=3600, description="a whole number of seconds from 1 to 3600"
    )

    def ca_file_misfits(self, address: Address) -> list[Problem]:
        """A CA for a connection that is not encrypted."""
        if self.ca_file is None or address.tls:
            return []
        schemes = address.protocol
        wanted = f"a URL with {schemes.tls_scheme}:// beside it"
        return [Problem("", "ca_file", wanted, f"one with {schemes.scheme}://")]

    def applied(self, address: Address) -> Address:
        """The address with these options."""
        if self.basic_auth is not None:
            login = self.basic_auth
            address = replace(address, username=login["username"], password=login["password"])
        return replace(address, ca_file=self.ca_file, heartbeat_s=self.heartbeat)


class RabbitMqConnectionOptions(LoginOptions):
    """Where a broker is: the URL, declared or in the environment, and what stands in place of its parts.

    `virtual_host` is AWS's VIRTUAL_HOST: where it is given, that of the URL does not count. An event's
    `eventSourceArn` is that of an Amazon MQ broker if one is declared; else one is made up in that form:
    of account 000000000000, named for the host, with an id made from host and port.
    """

    protocol: ClassVar[Protocol] = AMQP

    url: str | None = Field(default=None, repr=False)
    virtual_host: str | None = Field(
        default=None, min_length=1, max_length=255, description="a virtual host's name"
    )

    event_source_arn: Annotated[str, AfterValidator(_arn)] | None = Field(
        default=None, description="the ARN of an Amazon MQ broker"
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None:
            parse_address(url, cls.protocol)
        return url

    def misfits(self) -> list[Problem]:
        url, variable = declared_url(self.url, self.protocol), self.protocol.variable
        problems = super().misfits()
        if url is None:
            wanted = f"{self.protocol.form}, here or in {variable}"
            return [*problems, Problem("", "url", wanted, "nothing")]
        try:
            address = parse_address(url, self.protocol)
        except ValueError as invalid:
            wanted = f"{invalid}, here or in {variable}"
            return [*problems, Problem("", "url", wanted, "something else there")]
        return problems + self.ca_file_misfits(address)

    @property
    def address(self) -> Address:
        """The broker and the login, all options taken together."""
        address = parse_address(declared_url(self.url, self.protocol) or "", self.protocol)
        if self.virtual_host is not None:
            address = replace(address, virtual_host=self.virtual_host)
        return self.applied(address)

    @property
    def source_arn(self) -> str:
        """What events carry as `eventSourceArn`. Source of its form: AWS, "Amazon MQ ARNs"."""
        if self.event_source_arn is not None:
            return self.event_source_arn
        address = self.address
        broker_id = uuid.uuid5(uuid.NAMESPACE_URL, f"amqp://{address.broker}")
        return f"arn:aws:mq:us-east-1:000000000000:broker:{address.host.replace(':', '-')}:b-{broker_id}"
