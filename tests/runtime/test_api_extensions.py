"""The Extensions API: which calls are taken in which order, and all that a hostile extension may send."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.runtime.api.extensions import BODY_BYTES, VERSION, About, ExtensionsApi, shutdown_event
from millstream.runtime.api.roster import MOST, Extension, Refusal, Roster, Stage
from millstream.runtime.api.server import Server
from tests.runtime.test_api_runtime import Connection

BASE = f"/{VERSION}/extension"


def registered(roster: Roster, name: str, *events: str) -> Extension:
    member = roster.register(name, msgspec.json.encode({"events": events}))
    assert isinstance(member, Extension), member
    return member


def refused(answer: Extension | Refusal) -> tuple[int, str]:
    assert isinstance(answer, Refusal)
    return answer.status, answer.kind


@pytest.mark.parametrize(
    ("name", "body", "status", "kind"),
    [
        ("", b'{"events":[]}', 403, "Extension.InvalidExtensionName"),
        ("x" * 129, b'{"events":[]}', 403, "Extension.InvalidExtensionName"),
        ("a\tb", b'{"events":[]}', 403, "Extension.InvalidExtensionName"),
        ("there", b'{"events":[]}', 403, "Extension.AlreadyRegistered"),
        ("outside", b'{"events":["CHANGE"]}', 400, "Extension.InvalidEventType"),
        ("inside", b'{"events":["SHUTDOWN"]}', 400, "ShutdownEventNotSupportedForInternalExtension"),
        ("outside", b"", 400, "InvalidRequestFormat"),
        ("outside", b"[]", 400, "InvalidRequestFormat"),
        ("outside", b'{"events":"INVOKE"}', 400, "InvalidRequestFormat"),
        ("outside", b'{"events":[1]}', 400, "InvalidRequestFormat"),
        ("outside", b"\xff", 400, "InvalidRequestFormat"),
    ],
)
def test_a_wrong_registration_is_refused(name: str, body: bytes, status: int, kind: str) -> None:
    roster = Roster(["outside"])
    registered(roster, "there")
    assert refused(roster.register(name, body)) == (status, kind)
    assert len(roster.members) == 1


def test_nobody_registers_once_the_runtime_has_started() -> None:
    roster = Roster(["outside"])
    roster.open = False
    answer = roster.register("inside", b'{"events":[]}')
    assert refused(answer) == (403, "Extension.RegistrationClosed")


def test_no_more_than_ten_register() -> None:
    roster = Roster([])
    for number in range(MOST):
        registered(roster, f"e{number}")
    assert refused(roster.register("more", b'{"events":[]}')) == (403, "Extension.TooManyExtensions")


def test_external_ones_are_known_by_their_names() -> None:
    roster = Roster(["a", "b"])
    assert roster.missing == ["a", "b"]
    assert registered(roster, "a", "INVOKE", "SHUTDOWN").external
    assert not registered(roster, "c", "INVOKE").external
    assert roster.missing == ["b"]


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [("", "Extension.MissingHeader"), ("nobody", "Extension.UnknownExtensionIdentifier")],
)
def test_an_unknown_extension_is_refused(identifier: str, kind: str) -> None:
    roster = Roster([])
    assert refused(roster.ask(identifier)) == (403, kind)
    assert refused(roster.fail(identifier, initial=True)) == (403, kind)


CALLS = st.sampled_from(["next", "event", "init error", "exit error", "lose"])
ALLOWED = {
    Stage.REGISTERED: {"next": Stage.READY, "init error": Stage.FAILED, "exit error": Stage.FAILED},
    Stage.READY: {"event": Stage.RUNNING, "exit error": Stage.FAILED},
    Stage.RUNNING: {"next": Stage.READY, "exit error": Stage.FAILED},
    Stage.FAILED: {},
}


@given(st.lists(CALLS, max_size=12))
def test_calls_are_taken_in_their_order_alone(calls: list[str]) -> None:
    roster = Roster(["e"])
    member = registered(roster, "e", "INVOKE")
    for call in calls:
        wanted = Stage.FAILED if call == "lose" else ALLOWED[member.stage].get(call, member.stage)
        taken = call in {*ALLOWED[member.stage], "event", "lose"}
        answer: Extension | Refusal = member
        match call:
            case "next":
                answer = roster.ask(member.identifier)
            case "event":
                roster.give(member)
            case "lose":
                roster.lose(member, "Extension.Crash")
            case _:
                answer = roster.fail(member.identifier, initial=call == "init error")
        assert isinstance(answer, Extension) == taken
        assert member.stage is wanted
        assert (member.stage is Stage.FAILED) == bool(member.error_type)


@dataclass
class Side:
    """Both ends: the daemon's, and a way to connect as an extension."""

    api: ExtensionsApi
    port: int
    changes: list[None]
    connections: list[Connection] = field(default_factory=list)

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.connections.append(connection)
        return connection

    async def settles(self, wanted: bool) -> None:
        async with asyncio.timeout(10.0):
            while self.api.settled != wanted:
                await asyncio.sleep(0)

    async def register(self, connection: Connection, name: str, *headers: str) -> tuple[str, bytes]:
        body = b'{"events":["INVOKE"]}'
        connection.ask("POST", f"{BASE}/register", body, f"Lambda-Extension-Name: {name}", *headers)
        status, given, answer = await connection.answer()
        assert status == 200
        return f"Lambda-Extension-Identifier: {given['lambda-extension-identifier']}", answer


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = Server("f")
    changes: list[None] = []
    about = About("f", "$LATEST", "f.handle", "000000000000")
    api = ExtensionsApi(about, Roster(["outside"]), lambda: changes.append(None))
    server.services[VERSION] = api
    await server.start(listener)
    made = Side(api, listener.getsockname()[1], changes)
    yield made
    server.close()
    listener.close()
    for connection in made.connections:
        connection.writer.close()


async def test_an_extension_is_told_of_its_function(side: Side) -> None:
    extension = await side.connect()
    _, answer = await side.register(extension, "outside", "Lambda-Extension-Accept-Feature: x, accountId")
    assert json.loads(answer) == {
        "functionName": "f",
        "functionVersion": "$LATEST",
        "handler": "f.handle",
        "accountId": "000000000000",
    }
    _, answer = await side.register(extension, "inside")
    assert "accountId" not in json.loads(answer)


async def test_an_event_waits_until_it_is_asked_for(side: Side) -> None:
    extension = await side.connect()
    me, _ = await side.register(extension, "outside")
    (member,) = side.api.roster.members
    event = shutdown_event("SPINDOWN", 7)
    side.api.tell(member, event)
    extension.ask("GET", f"{BASE}/event/next", b"", me)
    status, headers, body = await extension.answer()
    assert (status, body) == (200, event)
    assert len(headers["lambda-extension-event-identifier"]) == 36
    assert not side.api.settled
    assert len(side.changes) == 2


async def test_a_second_question_while_one_waits_is_refused(side: Side) -> None:
    first, second = await side.connect(), await side.connect()
    me, _ = await side.register(first, "outside")
    first.ask("GET", f"{BASE}/event/next", b"", me)
    await side.settles(True)
    status, body = await second.asked("GET", f"{BASE}/event/next", b"", me)
    assert (status, json.loads(body)["errorType"]) == (403, "Extension.InvalidExtensionState")


async def test_who_hung_up_may_ask_again(side: Side) -> None:
    first, second = await side.connect(), await side.connect()
    me, _ = await side.register(first, "outside")
    first.ask("GET", f"{BASE}/event/next", b"", me)
    await side.settles(True)
    first.writer.transport.abort()
    await side.settles(False)
    second.ask("GET", f"{BASE}/event/next", b"", me)
    await side.settles(True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/register", b"", 404),
        ("POST", "/event/next", b"", 404),
        ("GET", "/event/next", b"", 403),
        ("POST", "/init/error", b"{}", 403),
        ("POST", "/exit/error", b"{}", 403),
        ("POST", "/other/error", b"{}", 404),
        ("POST", "/register", b" " * (BODY_BYTES + 1), 400),
        ("POST", "/register", b"[" * 10_000, 400),
    ],
)
async def test_wrong_calls_are_refused_and_change_nothing(
    side: Side, method: str, path: str, body: bytes, status: int
) -> None:
    extension = await side.connect()
    answer, _ = await extension.asked(method, BASE + path, body, "Lambda-Extension-Name: outside")
    assert answer == status
    assert side.api.roster.members == []
    assert side.changes == []
