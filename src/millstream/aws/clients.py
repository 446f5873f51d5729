"""Settings that every AWS client of ours has.

Credentials come by boto3's own chain. Retries of single calls are botocore's ("standard" mode);
what fails past them is ours to map, in the file that made the call.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader, create_loader
from botocore.parsers import ResponseParserFactory

from millstream.contract.errors import InvalidConfiguration, Problem

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0  # above the longest long poll, 20 s
MAX_ATTEMPTS = 3


def new_client(
    service: str,
    endpoint_url: str | None,
    region: str | None,
    config: Config,
    parsers: ResponseParserFactory | None = None,
) -> Any:
    """A client of a session of its own, which finds credentials as they are now.

    Raises:
        InvalidConfiguration: the endpoint is no URL.
        BotoCoreError: this host's AWS settings are wrong.
    """
    make: Any = new_session(parsers).client  # by name, which the stubs cannot follow
    try:
        return make(service, endpoint_url=endpoint_url, region_name=region, config=config)
    except BotoCoreError:
        raise
    except ValueError as error:  # of botocore, for an endpoint that is no URL; it may hold a password
        raise InvalidConfiguration([Problem("", "endpoint_url", "a URL", "none")]) from error


def service_time(answer: dict[str, Any]) -> float | None:
    """The service's time when it gave an answer: Unix seconds. None: the answer does not say."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def new_session(parsers: ResponseParserFactory | None = None) -> boto3.session.Session:
    """A boto3 session by the environment as it is now; its service models are shared with all others.

    A session of its own for each mapping would load them again: 8 MB each. `parsers` makes the
    parsers of its clients in botocore's place.
    """
    core = botocore.session.get_session()
    core.register_component("data_loader", _loader())
    if parsers is not None:
        core.register_component("response_parser_factory", parsers)
    return boto3.session.Session(botocore_session=core)


@cache
def _loader() -> Loader:
    return create_loader()


def client_config(connections: int) -> Config:
    """Configuration of a client that at most `connections` threads use at once."""
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=connections,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        parameter_validation=False,  # our own calls are checked by mypy, and this is on the hot path
        user_agent_extra="millstream",
    )
