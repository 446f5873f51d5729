"""Settings that every AWS client of ours has.

Credentials come by boto3's own chain. Retries of single calls are botocore's ("standard" mode);
what fails past them is ours to map, in the file that made the call.
"""

from __future__ import annotations

from functools import cache

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import Loader, create_loader
from botocore.parsers import ResponseParserFactory

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0  # above the longest long poll, 20 s
MAX_ATTEMPTS = 3

FAULTS = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServiceError",
        "RequestThrottled",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Error codes of any AWS service that pass by themselves."""


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
