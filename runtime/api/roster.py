"""The extensions of one environment, from one start of its runtime to the next: who may ask what when.

    started ── register ──► registered ── next ──► ready ── an event ──► running
       │                        │                    ▲                     │
       └── exit, launch error ──┴── init error       └──────── next ───────┘
    any but started ── exit, exit error ──► failed

External ones are started by the platform and known by name; any other name is an internal one, which
registers while the runtime starts. Source: AWS, "Using the Lambda Extensions API to create extensions".
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import msgspec

from millstream.runtime.link import UNREADABLE

MOST = 10
"""Extensions of a function. Source: AWS, "Lambda quotas"."""

INVOKE, SHUTDOWN = "INVOKE", "SHUTDOWN"
NAME_CHARACTERS = 128


class Stage(Enum):
    """Of an extension, by what it asked for last."""

    REGISTERED = "Registered"
    READY = "Ready"
    RUNNING = "Running"
    FAILED = "Failed"


@dataclass(eq=False, slots=True)
class Extension:
    """One that registered."""

    name: str
    external: bool
    identifier: str
    events: frozenset[str]
    stage: Stage = Stage.REGISTERED
    error_type: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not taken: an HTTP status, an error type and its message."""

    status: int
    kind: str
    message: str


class _Registration(msgspec.Struct):
    events: list[str] = []


class Roster:
    """A state machine without input or output: each call is taken, or refused and without effect."""

    def __init__(self, external: Iterable[str]) -> None:
        self._expected = dict.fromkeys(external)  # those that have not registered
        self._external = frozenset(self._expected)
        self._members: dict[str, Extension] = {}
        self.open = True  # for registrations; closed once the runtime has asked for work

    @property
    def empty(self) -> bool:
        """True if none has registered."""
        return not self._members

    @property
    def members(self) -> list[Extension]:
        """Those that registered, in their order."""
        return list(self._members.values())

    @property
    def missing(self) -> list[str]:
        """External ones that have not registered."""
        return list(self._expected)

    def register(self, name: str, body: bytes) -> Extension | Refusal:
        """Take a registration, `body` being its JSON."""
        if not name or len(name) > NAME_CHARACTERS or not name.isprintable():
            return Refusal(403, "Extension.InvalidExtensionName", "Invalid extension name")
        if any(member.name == name for member in self._members.values()):
            return Refusal(403, "Extension.AlreadyRegistered", f"Extension {name} is registered")
        if not self.open:
            return Refusal(403, "Extension.RegistrationClosed", "Extension registration closed already")
        if len(self._members) >= MOST:
            return Refusal(403, "Extension.TooManyExtensions", f"Extension limit ({MOST}) reached")
        events = _events(body, external=name in self._external)
        if isinstance(events, Refusal):
            return events
        self._expected.pop(name, None)
        identifier = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        member = Extension(name, name in self._external, identifier, events)
        self._members[identifier] = member
        return member

    def find(self, identifier: str) -> Extension | Refusal:
        """Whose identifier this is."""
        if not identifier:
            return Refusal(403, "Extension.MissingHeader", "Missing Lambda-Extension-Identifier header")
        found = self._members.get(identifier.lower())
        if found is None:
            return Refusal(403, "Extension.UnknownExtensionIdentifier", "Unknown extension identifier")
        return found

    def ask(self, identifier: str, *, again: bool = False) -> Extension | Refusal:
        """It asks for its next event; `again`: the answer to its last question reached nobody."""
        member = self.find(identifier)
        if isinstance(member, Refusal):
            return member
        if member.stage is Stage.FAILED or (member.stage is Stage.READY and not again):
            return _not_now(member, "next")
        member.stage = Stage.READY
        return member

    def give(self, member: Extension) -> None:
        """It was given an event."""
        if member.stage is Stage.READY:
            member.stage = Stage.RUNNING

    def fail(self, identifier: str, *, initial: bool) -> Extension | Refusal:
        """It says that it cannot start (`initial`), or go on."""
        member = self.find(identifier)
        if isinstance(member, Refusal):
            return member
        if member.stage is Stage.FAILED or (initial and member.stage is not Stage.REGISTERED):
            return _not_now(member, "init error" if initial else "exit error")
        self.lose(member, "Extension.InitError" if initial else "Extension.ExitError")
        return member

    def lose(self, member: Extension, kind: str) -> None:
        """It is gone; the first reason stays."""
        if member.stage is not Stage.FAILED:
            member.stage = Stage.FAILED
            member.error_type = kind


def _events(body: bytes, *, external: bool) -> frozenset[str] | Refusal:
    try:
        events = frozenset(msgspec.json.decode(body, type=_Registration).events)
    except UNREADABLE:
        return Refusal(400, "InvalidRequestFormat", 'wanted {"events": ["INVOKE", "SHUTDOWN"]}')
    if events - {INVOKE, SHUTDOWN}:
        return Refusal(400, "Extension.InvalidEventType", "Invalid event type")
    if SHUTDOWN in events and not external:
        kind = "ShutdownEventNotSupportedForInternalExtension"
        return Refusal(400, kind, "Internal extensions cannot register for SHUTDOWN")
    return events


def _not_now(member: Extension, wanted: str) -> Refusal:
    why = f"Transition from {member.stage.value} to {wanted}"
    return Refusal(403, "Extension.InvalidExtensionState", why)
