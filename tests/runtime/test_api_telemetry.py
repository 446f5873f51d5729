"""Subscriptions to telemetry: which are taken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from millstream.runtime.api.roster import Refusal
from millstream.runtime.api.telemetry import parse
from millstream.runtime.delivery import Buffering, Destination
from millstream.runtime.telemetry import Wanted

HTTP = {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080/a?b=c"}


def body(**changed: Any) -> bytes:
    usual = {"schemaVersion": "2022-07-01", "destination": HTTP, "types": ["platform", "function"]}
    return msgspec.json.encode({**usual, **changed})


def test_a_subscription_has_awss_defaults() -> None:
    found = parse(body(), logs_api=False)
    assert found == Wanted(
        Destination(8080, "/a?b=c"), Buffering(10_000, 262_144, 1.0), ("platform", "function"), objects=False
    )


@pytest.mark.parametrize("version", ["2022-12-13", "2025-01-29"])
def test_newer_schemas_have_objects(version: str) -> None:
    found = parse(body(schemaVersion=version), logs_api=False)
    assert isinstance(found, Wanted)
    assert found.objects


@pytest.mark.parametrize(
    ("destination", "wanted"),
    [
        ({"protocol": "HTTP", "URI": "http://sandbox"}, Destination(80, "/", host="sandbox")),
        ({"protocol": "HTTP", "URI": "http://127.0.0.1:9/"}, Destination(9, "/", host="127.0.0.1")),
        ({**HTTP, "method": "PUT"}, Destination(8080, "/a?b=c", "PUT")),
        ({"protocol": "TCP", "port": 4000}, Destination(4000)),
    ],
)
def test_a_destination_is_in_the_environment(destination: dict[str, Any], wanted: Destination) -> None:
    found = parse(body(destination=destination), logs_api=False)
    assert isinstance(found, Wanted)
    assert found.destination == wanted


@pytest.mark.parametrize(
    "changed",
    [
        {"schemaVersion": "2021-03-18"},
        {"schemaVersion": 1},
        {"types": []},
        {"types": ["platform"] * 4},
        {"types": ["everything"]},
        {"types": "platform"},
        {"destination": {}},
        {"destination": {"protocol": "UDP", "port": 1}},
        {"destination": {"protocol": "TCP"}},
        {"destination": {"protocol": "TCP", "port": 0}},
        {"destination": {"protocol": "TCP", "port": 65536}},
        {"destination": {"protocol": "HTTP"}},
        *(
            {"destination": {"protocol": "HTTP", "URI": uri}}
            for uri in (
                "https://sandbox:1", "http://example.com", "http://169.254.169.254/", "http://sandbox:0",
                "http://sandbox:99999", "http://user@sandbox", "http://sandbox.localdomain.example",
                "http://sandbox/a b", "http://sandbox/\r\nX: y", "http://sandbox:1\n", "file:///etc/passwd",
            )
        ),
        {"buffering": {"maxItems": 999}},
        {"buffering": {"maxItems": 10_001}},
        {"buffering": {"maxBytes": 262_143}},
        {"buffering": {"maxBytes": 1_048_577}},
        {"buffering": {"timeoutMs": 24}},
        {"buffering": {"timeoutMs": 30_001}},
        {"buffering": []},
    ],
)  # fmt: skip
def test_a_wrong_subscription_is_refused(changed: dict[str, Any]) -> None:
    found = parse(body(**changed), logs_api=False)
    assert isinstance(found, Refusal)
    assert (found.status, found.kind) == (400, "ValidationError")


@pytest.mark.parametrize("hostile", [b"", b"[]", b"\xff", b"[" * 10_000, b'{"types":' * 1000])
def test_what_is_no_document_is_refused(hostile: bytes) -> None:
    assert isinstance(parse(hostile, logs_api=False), Refusal)


def test_the_logs_api_has_versions_of_its_own() -> None:
    found = parse(body(schemaVersion="2021-03-18"), logs_api=True)
    assert isinstance(found, Wanted)
    assert found.logs_api
    assert not found.objects
    assert isinstance(parse(body(schemaVersion="2022-07-01"), logs_api=True), Refusal)
