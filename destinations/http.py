"""An HTTP URL as a destination: the record is POSTed as JSON; any 2xx takes it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Annotated, Self
from urllib.parse import urlsplit

import urllib3
from pydantic import AfterValidator, Field

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge
from millstream.contract.options import Options, parse_options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.targets import is_queue_url

logger = logging.getLogger(__name__)

THREADS = 4
CONNECT_S = 5.0
READ_S = 10.0
RETRIES = 2
RETRIED = range(500, 600)
BACKOFF_S = 0.1
TOO_LARGE = 413

ANSWER_BYTES = 64 * 1024
"""Of an answer this much is read, so that its connection can be used again; a longer one is cut off."""

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_OURS = frozenset({"content-length", "content-type", "transfer-encoding", "host", "connection"})


def _url(target: str) -> str:
    try:
        parts = urlsplit(target)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        whole = False
    if not whole or not target.isascii() or re.search(r"[\s\x00-\x1f\x7f]", target):
        raise ValueError("an http or https URL (https://hooks.example.com/failed)")
    if "@" in parts.netloc:
        raise ValueError("a URL without user and password; the headers option takes what authorises")
    return target


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError("names and values of HTTP headers, in ASCII and on one line")
        if name.lower() in _OURS:
            raise ValueError(f"headers other than {name}, which is set for each request")
    return headers


class HttpDestinationOptions(Options):
    """`target` is the URL; `headers` go with each request and are never shown."""

    target: Annotated[str, AfterValidator(_url)] = Field(repr=False)
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(default_factory=dict, repr=False)
    timeout: float = Field(default=READ_S, gt=0, le=60, description="seconds, above 0 and up to 60")


class HttpDestination:
    """Implements Destination."""

    limit_bytes = None
    payload = Payload.EVENT

    def __init__(self, options: HttpDestinationOptions) -> None:
        parts = urlsplit(options.target)
        self.name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._url = options.target
        self._headers = {**options.headers, "Content-Type": "application/json"}
        self._timeout = urllib3.Timeout(connect=CONNECT_S, read=options.timeout)
        self._pool: urllib3.PoolManager | None = None
        self._threads: BlockingClient | None = None

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.lower().startswith(("http://", "https://")) and not is_queue_url(target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        # What was found is not repeated: a URL's user, a query or a header may be secret.
        secret = frozenset({"target", "headers"}) if options.get("target") else frozenset({"headers"})
        return cls(parse_options(HttpDestinationOptions, {"target": "", **options}, secret))

    async def open(self, host: Host) -> None:
        """Makes ready; whether the URL takes records is known with the first one alone."""
        retries = urllib3.Retry(
            RETRIES,
            status_forcelist=RETRIED,
            allowed_methods=None,
            raise_on_status=False,
            backoff_factor=BACKOFF_S,
            respect_retry_after_header=False,  # it may ask for hours
        )
        self._pool = urllib3.PoolManager(maxsize=THREADS, block=True, retries=retries, timeout=self._timeout)
        self._threads = BlockingClient("http-destination", THREADS)

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        if self._threads is None or self._pool is None:
            raise DestinationUnavailable(f"{self.name}: closed")
        try:
            status = await self._threads.call(self._post, self._pool, record.body)
        except RuntimeError as error:  # this host can have no further thread now
            raise DestinationUnavailable(f"{self.name}: {error}") from error
        if status == TOO_LARGE:
            raise DocumentTooLarge(f"{self.name}: HTTP status {status} for {len(record.body)} bytes")
        if not 200 <= status < 300:
            raise DestinationUnavailable(f"{self.name}: HTTP status {status}")
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        if self._threads is not None and self._pool is not None:
            self._threads.close()
            self._pool.clear()
            self._threads = self._pool = None

    def _post(self, pool: urllib3.PoolManager, body: bytes) -> int:
        try:
            answer = pool.request(
                "POST", self._url, body=body, headers=self._headers, redirect=False, preload_content=False
            )
        except Exception as error:  # of urllib3, or of what it stands on: names that no resolver takes …
            raise DestinationUnavailable(f"{self.name}: {type(error).__name__}") from error
        _finish(answer)
        return answer.status


def _finish(answer: urllib3.BaseHTTPResponse) -> None:
    """Read the rest of an answer, whose status has said all, so that its connection is free again."""
    whole = False
    try:
        whole = len(answer.read(ANSWER_BYTES, decode_content=False)) < ANSWER_BYTES
    except Exception as error:  # noqa: BLE001  its status is known
        logger.debug("answer cut short", extra={"why": type(error).__name__})
    finally:
        if whole:
            answer.release_conn()
        else:
            answer.close()
