"""Telemetry in the life cycle of environments, on every driver: an internal extension subscribes.

Sources: AWS, "Lambda Telemetry API reference", "Lambda Telemetry API Event schema reference", "Lambda
Logs API".
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from millstream.contract.functions import LoggingConfig
from tests.runtime.conftest import MakeRuntime
from tests.runtime.shell_programs import MakeLayer, layer

__all__ = ["layer"]

pytestmark = pytest.mark.broker

SUBSCRIBER = """
import json, http.server, os, socketserver, threading, time, urllib.error, urllib.request
base = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}"
def ask(method, path, body=None, **headers):
    request = urllib.request.Request(base + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()

kept, more = [], threading.Condition()
def keep(events):
    with more:
        kept.extend(events)
        more.notify_all()

class Posts(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        keep(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass

class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            keep([json.loads(line)])

WANTED = json.loads(%r)
PATH = %r
protocol = WANTED["destination"]["protocol"]
server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Posts if protocol == "HTTP" else Lines)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]
where = {"URI": f"http://sandbox.localdomain:{port}/in"} if protocol == "HTTP" else {"port": port}
WANTED["destination"].update(where)
_, given, _ = ask("POST", "/2020-01-01/extension/register", b'{"events":["INVOKE"]}',
    **{"Lambda-Extension-Name": "keeper"})
me = {"Lambda-Extension-Identifier": given["Lambda-Extension-Identifier"]}
def subscribe():
    status, _, body = ask("PUT", PATH, json.dumps(WANTED).encode(), **me)
    return [status, json.loads(body)]
print("subscribed", subscribe())
def watch():
    while True:
        ask("GET", "/2020-01-01/extension/event/next", **me)
threading.Thread(target=watch, daemon=True).start()

def handle(event, context):
    if event == "subscribe":
        return subscribe()
    if event == "flood":
        for number in range(3000):
            print("x" * 1000)
        return None
    if event == "flood more":
        for number in range(8):
            print("x" * 1000000)
        return None
    if isinstance(event, dict):  # until such an event is there
        with more:
            more.wait_for(lambda: any(event.items() <= one.items() for one in kept), 20)
            return kept
    print("hello")
    print(json.dumps({"level": "INFO", "own": 1}))
    return "abc"
"""


def subscriber(path: str = "/2022-07-01/telemetry", protocol: str = "HTTP", **changed: Any) -> str:
    """A function that subscribes as it is loaded, and answers with what it got."""
    wanted = {
        "schemaVersion": "2022-12-13",
        "destination": {"protocol": protocol},
        "types": ["platform", "function", "extension"],
        "buffering": {"maxItems": 1000, "maxBytes": 262144, "timeoutMs": 25},
        **changed,
    }
    return SUBSCRIBER % (json.dumps(wanted), path)


SPEC: dict[str, Any] = {"timeout_s": 30.0, "memory_size_mb": 256}


@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
async def test_a_subscriber_hears_of_everything_in_its_order(
    driver: str, runtime: MakeRuntime, layer: MakeLayer, protocol: str
) -> None:
    async with runtime(driver, subscriber(protocol=protocol), opt=layer(seer={}), **SPEC) as it:
        assert await it.answer("one") == "abc"
        events = await it.answer({"type": "platform.report"})
        log = it.log()
    kinds = [event["type"] for event in events if event["type"] not in ("extension", "platform.extension")]
    assert [kind for kind in kinds if kind != "function"][:7] == [
        "platform.initStart",
        "platform.telemetrySubscription",
        "platform.initRuntimeDone",
        "platform.initReport",
        "platform.start",
        "platform.runtimeDone",
        "platform.report",
    ]
    start = kinds.index("platform.start")
    assert kinds[start : start + 4] == ["platform.start", "function", "function", "platform.runtimeDone"]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    by_kind = {event["type"]: event["record"] for event in events}
    assert by_kind["platform.telemetrySubscription"] == {
        "name": "keeper",
        "state": "Subscribed",
        "types": ["platform", "function", "extension"],
    }
    assert by_kind["platform.report"]["metrics"]["memorySizeMB"] == 256
    assert by_kind["platform.runtimeDone"]["metrics"]["producedBytes"] == 5
    assert {"name": "seer", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]} in [
        event["record"] for event in events if event["type"] == "platform.extension"
    ]
    assert any(event["type"] == "extension" and "seer heard" in event["record"] for event in events)
    assert "hello" in [event["record"] for event in events if event["type"] == "function"]
    assert "TELEMETRY\tName: keeper\tState: Subscribed\tTypes: [Platform, Function, Extension]" in log


@pytest.mark.parametrize(
    ("version", "log_format", "record"),
    [
        ("2022-12-13", "JSON", {"level": "INFO", "own": 1}),
        ("2022-07-01", "JSON", '{"level": "INFO", "own": 1}'),
        ("2025-01-29", "Text", '{"level": "INFO", "own": 1}'),
    ],
)
async def test_lines_are_objects_with_json_logs_and_a_newer_schema(
    driver: str, runtime: MakeRuntime, layer: MakeLayer, version: str, log_format: Any, record: Any
) -> None:
    code = subscriber(schemaVersion=version, types=["function"])
    spec = {**SPEC, "logging": LoggingConfig(log_format), "opt": layer(seer={})}
    async with runtime(driver, code, **spec) as it:
        await it.answer("one")
        events = await it.answer({"type": "function", "record": record})
    assert record in [event["record"] for event in events]
    assert {event["type"] for event in events} == {"function"}


async def test_the_logs_api_has_its_own_events(driver: str, runtime: MakeRuntime, layer: MakeLayer) -> None:
    code = subscriber("/2020-08-15/logs", schemaVersion="2021-03-18", types=["platform"])
    async with runtime(driver, code, opt=layer(seer={}), **SPEC) as it:
        await it.answer("one")
        events = await it.answer({"type": "platform.report"})
    kinds = [event["type"] for event in events if event["type"] != "platform.extension"]
    assert kinds[:4] == ["platform.start", "platform.runtimeDone", "platform.end", "platform.report"]


async def test_what_a_flood_of_output_has_lost_is_told(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, subscriber(types=["platform"]), **SPEC) as it:
        await it.answer("flood")
        await it.answer("flood more")
        (lost,) = [
            event
            for event in await it.answer({"type": "platform.logsDropped"})
            if event["type"] == "platform.logsDropped"
        ]
        log = it.log()
    assert lost["record"]["reason"] == "Logs above the limit of a request"
    assert 3_000_000 < lost["record"]["droppedBytes"] < 6_000_000
    assert f"LOGS_DROPPED Dropped Bytes: {lost['record']['droppedBytes']}" in log


async def test_nobody_subscribes_after_the_init_phase(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    async with runtime(driver, subscriber(), opt=layer(seer={}), **SPEC) as it:
        status, error = await it.answer("subscribe")
    assert (status, error["errorType"]) == (403, "Telemetry.SubscriptionClosed")


UPDATE = 'WANTED["destination"].update(where)'
DEAF = (
    'import socket\ndeaf = socket.create_server(("127.0.0.1", 0), backlog=1)\nport = deaf.getsockname()[1]\n'
)


@pytest.mark.parametrize("port", ["port = 1\n", DEAF], ids=["nobody", "deaf"])
@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
async def test_a_subscriber_that_does_not_read_holds_nobody(
    driver: str, runtime: MakeRuntime, layer: MakeLayer, port: str, protocol: str
) -> None:
    code = subscriber(protocol=protocol).replace("where = {", f"{port}where = {{")
    async with runtime(driver, code, opt=layer(seer={}), **SPEC) as it:
        await it.answer("flood")
        assert await it.answer("one") == "abc"
        assert "subscribed [200" in it.log()


async def test_the_apis_own_port_is_no_destination(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    own = 'WANTED["destination"]["URI"] = base.replace("127.0.0.1", "sandbox")'
    async with runtime(driver, subscriber().replace(UPDATE, own), opt=layer(seer={}), **SPEC) as it:
        await it.answer("one")
        assert "subscribed [400" in it.log()
