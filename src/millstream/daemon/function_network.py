"""What a function's `network` option comes to: endpoints to forward, and how it finds AWS."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from millstream.contract.errors import InvalidConfiguration, Problem

AWS = "aws"
OWN = ("localhost:9001", "127.0.0.1:9001")
"""Where a function finds the Runtime API."""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "MILLSTREAM_FUNCTION_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "MILLSTREAM_FUNCTION_SECRET_ACCESS_KEY",
}
"""Variables that functions get, and those of the daemon's environment that they are taken from.

The daemon's own credentials are never given to a function.
"""

ANY_CREDENTIAL = "test"
"""What LocalStack and its like take."""

PORTS = {"http": 80, "https": 443}


def reach(
    network: Sequence[str], endpoint_url: str | None, environ: Mapping[str, str] = os.environ
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The endpoints as `host:port`, and the variables that the function is given for them.

    Raises:
        InvalidConfiguration: "aws" without an endpoint of one's own, or an endpoint that is the sandbox's.
    """
    places = [each for each in network if each != AWS]
    variables: dict[str, str] = {}
    if AWS in network:
        url = endpoint_url or environ.get("AWS_ENDPOINT_URL") or ""
        place = _place(url)
        if place is None:
            wanted = f'--endpoint-url or AWS_ENDPOINT_URL beside "{AWS}": an endpoint of one host'
            raise InvalidConfiguration([Problem("", "network", wanted, "none: AWS itself has many hosts")])
        places.append(place)
        credentials = {name: environ.get(own, ANY_CREDENTIAL) for name, own in CREDENTIALS.items()}
        variables = {"AWS_ENDPOINT_URL": url, **credentials}
    for place in places:
        if place.startswith("["):
            raise InvalidConfiguration([Problem("", "network", "a name or an IPv4 address", repr(place))])
        if place in OWN:
            raise InvalidConfiguration(
                [Problem("", "network", "another port than the Runtime API's in the sandbox", repr(place))]
            )
    return tuple(dict.fromkeys(places)), variables


def _place(url: str) -> str | None:
    """`host:port` of an endpoint's URL."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        return None
    return f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}"
