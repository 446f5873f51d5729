"""An HTTP URL as a destination: the record is POSTed as JSON; any 2xx takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self
from urllib.parse import urlsplit

import urllib3
from pydantic import AfterValidator, Field
from urllib3.exceptions import HTTPError

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import DestinationUnavailable
from millstream.contract.options import Options, parse_options
from millstream.contract.ports import Host, InvocationRecord
from millstream.contract.records import DestinationReceipt

THREADS = 4
CONNECT_S = 5.0
READ_S = 10.0
RETRIES = 2
RETRIED = (500, 502, 503, 504)


def _url(target: str) -> str:
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an http or https URL with a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL without user and password; the headers option takes what authorises")
    return target


class HttpDestinationOptions(Options):
    """`target` is the URL; `headers` go with each request and are never shown."""

    target: Annotated[str, AfterValidator(_url)]
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    timeout: float = Field(default=READ_S, gt=0, le=300, description="seconds, above 0 and up to 300")


class HttpDestination:
    """Implements Destination."""

    limit_bytes = None

    def __init__(self, options: HttpDestinationOptions) -> None:
        parts = urlsplit(options.target)
        self.name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._url = options.target
        self._headers = {**options.headers, "Content-Type": "application/json"}
        retries = urllib3.Retry(
            RETRIES, status_forcelist=RETRIED, allowed_methods=None, redirect=False, raise_on_status=False,
            backoff_factor=0.1,
        )  # fmt: skip
        timeout = urllib3.Timeout(connect=CONNECT_S, read=options.timeout)
        self._pool = urllib3.PoolManager(maxsize=THREADS, retries=retries, timeout=timeout)
        self._threads = BlockingClient("http-destination", THREADS)

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.startswith(("http://", "https://"))

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        # What was found is not repeated: a URL's user, a query or a header may be secret.
        return cls(parse_options(HttpDestinationOptions, options, frozenset({"target", "headers"})))

    async def open(self, host: Host) -> None:
        self._threads = BlockingClient("http-destination", THREADS)

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        status = await self._threads.call(self._post, record.body)
        if not 200 <= status < 300:
            raise DestinationUnavailable(f"{self.name}: HTTP status {status}")
        return DestinationReceipt(self.name)

    def _post(self, body: bytes) -> int:
        try:
            answer = self._pool.request("POST", self._url, body=body, headers=self._headers, redirect=False)
        except HTTPError as error:
            raise DestinationUnavailable(f"{self.name}: {type(error).__name__}") from error
        return answer.status

    async def aclose(self) -> None:
        self._threads.close()
        self._pool.clear()
