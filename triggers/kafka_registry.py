"""Asks a Confluent schema registry for schemas, over HTTP."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from millstream.contract import outside_json
from millstream.contract.errors import Refused, SourceUnavailable

FIELD = "schema_registry_config"

CONNECT_S, READ_S, ANSWER_S = 3.0, 5.0, 10.0
"""How long a connection, a part of an answer and all of it may take."""

MAX_ANSWER_BYTES = 8 * 1024 * 1024

MAX_REFERENCES = 200
"""Schemas that one schema may refer to, those of its references included."""

_MISSING = frozenset({40401, 40402, 40403})
"""Error codes of what is not there. Source: Confluent, "Schema Registry API Reference"."""

_REFUSED = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema as the registry has it; of a Protobuf one the serialized descriptor, in base64."""

    kind: str  # AVRO, JSON, PROTOBUF
    text: str
    references: Mapping[str, str] = field(default_factory=dict)  # texts by name, each before who needs it


class _Reference(msgspec.Struct):
    name: str
    subject: str
    version: int


class _Document(msgspec.Struct, rename="camel"):
    """What a registry answers of a schema, or that it has none."""

    schema: str = ""
    schema_type: str = "AVRO"
    references: list[_Reference] | None = None
    code: int | None = msgspec.field(default=None, name="error_code")


class Registry:
    """One registry; used by one thread at a time. `headers` go with each request."""

    def __init__(self, url: str, headers: Mapping[str, str], context: ssl.SSLContext | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json", **headers}
        self._pool = urllib3.PoolManager(
            maxsize=1,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            ssl_context=context,
        )

    def check(self) -> None:
        """See that there is a registry, and that it lets us in.

        Raises:
            Refused: it does not, or there is none.
            SourceUnavailable: it does not answer now.
        """
        status, answer = self._ask("/schemas/ids/0")  # there is none: they are counted from 1
        if answer is None or (answer.code is None and not answer.schema):
            raise self._refusal(f"HTTP status {status}, and no JSON of a Confluent schema registry")

    def schema(self, number: int) -> RegisteredSchema | None:
        """The schema of an id. None: there is none.

        Raises:
            Refused: the registry does not let us in, or is not there.
            SourceUnavailable: it does not answer now.
        """
        path = f"/schemas/ids/{number}"
        found = self._get(path)
        if found is None:
            return None
        references: dict[str, str] = {}
        self._refer(found, into=references, depth=0)
        return RegisteredSchema(found.schema_type, self._text(found, path), references)

    def close(self) -> None:
        """Give the connection back."""
        self._pool.clear()

    def _refer(self, document: _Document, into: dict[str, str], depth: int) -> None:
        """Add all that a schema refers to, directly or not."""
        for one in document.references or ():
            if one.name in into:
                continue
            if len(into) >= MAX_REFERENCES or depth >= MAX_REFERENCES:
                raise self._unavailable("too many references")
            path = f"/subjects/{quote(one.subject, safe='')}/versions/{one.version}"
            found = self._get(path)
            if found is None:
                continue  # whoever needs it will miss it
            self._refer(found, into, depth + 1)
            into[one.name] = self._text(found, path)

    def _text(self, document: _Document, path: str) -> str:
        if document.schema_type != "PROTOBUF":
            return document.schema
        found = self._get(f"{path}?format=serialized")
        return document.schema if found is None else found.schema

    def _get(self, path: str) -> _Document | None:
        """A document. None: the registry says that it is not there."""
        status, answer = self._ask(path)
        if status == 200 and answer is not None:
            return answer
        if status == 404 and answer is not None and answer.code in _MISSING:
            return None
        if status == 404:
            raise self._refusal(f"HTTP status {status}, and no JSON of a Confluent schema registry")
        raise self._unavailable(f"HTTP status {status}")

    def _ask(self, path: str) -> tuple[int, _Document | None]:
        """An answer's status, and what it says. None: nothing that a registry would say."""
        url = f"{self._url}{path}"
        try:
            answer = self._pool.request(
                "GET", url, headers=self._headers, redirect=False, preload_content=False
            )
            body = self._body(answer)
        except HTTPError as error:
            if error.args and isinstance(error.args[0], ssl.SSLCertVerificationError):
                raise self._refusal("its certificate is of no known authority") from error
            raise self._unavailable(type(error).__name__) from error
        if answer.status in _REFUSED:
            raise self._refusal(f"HTTP status {answer.status}")
        if answer.status >= 500 or answer.status == 429:
            raise self._unavailable(f"HTTP status {answer.status}")
        return answer.status, _document(body)

    def _body(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        until = time.monotonic() + ANSWER_S
        found, whole = b"", False
        try:
            for part in answer.stream(65_536, decode_content=False):
                found += part
                if len(found) > MAX_ANSWER_BYTES:
                    raise self._unavailable("an answer too large")
                if time.monotonic() > until:
                    raise self._unavailable("an answer too slow")
            whole = True
        finally:
            answer.release_conn() if whole else answer.close()
        return found

    def _unavailable(self, why: str) -> SourceUnavailable:
        return SourceUnavailable(f"schema registry {self._url}: {why}")

    def _refusal(self, why: str) -> Refused:
        return Refused(f"{FIELD}: {self._url}: {why}")


def _document(body: bytes) -> _Document | None:
    """What a registry says. None: nothing that one would say."""
    try:
        return msgspec.convert(outside_json.read(body), type=_Document)
    except (outside_json.NotJson, msgspec.ValidationError, RecursionError):
        return None
