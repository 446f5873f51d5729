"""Another function as a destination: the kit on an invoker in memory, and what it may answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from millstream.contract.errors import DestinationUnavailable
from millstream.contract.functions import (
    MAX_PAYLOAD_BYTES,
    FunctionFailed,
    Outcome,
    Success,
    Throttled,
    TooLarge,
)
from millstream.contract.ports import Host
from millstream.destinations.function import ATTEMPTS, FunctionDestination
from tests.clock import VirtualClock
from tests.contract.destinations_kit import AWKWARD, WITHIN_S, DestinationsKit, Target

LONGEST_S = 20.0  # all tries of a throttled invocation, in virtual time
THROTTLED = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded", 0.0)
FAILED = FunctionFailed("ValueError", "a secret of the payload", b"{}", "r")


class Answering:
    """An invoker that gives `answers` in turn, and then a success."""

    def __init__(self, *answers: Outcome) -> None:
        self.answers = list(answers)
        self.invoked: list[tuple[str, bytes]] = []
        self.dead = False
        self.most_bytes = MAX_PAYLOAD_BYTES

    async def invoke(self, function: str, event: bytes) -> Outcome:
        if len(event) > self.most_bytes:
            return TooLarge(len(event), self.most_bytes)
        self.invoked.append((function, event))
        await asyncio.sleep(0)
        if self.dead:
            return FAILED
        return self.answers.pop(0) if self.answers else Success(b"null", "r")


class FunctionSide(Target):
    def __init__(self) -> None:
        self.invoker: Answering = Answering()
        self.options = {"target": "function:on_failed"}

    def read(self, count: int) -> Sequence[bytes]:
        assert {function for function, _ in self.invoker.invoked} == {"on_failed"}
        return [event for _, event in self.invoker.invoked]

    def shrink(self) -> int | None:
        self.invoker.most_bytes = 2000
        return 2000

    def die(self) -> None:
        self.invoker.dead = True


class TestFunction(DestinationsKit):
    bad_options: Sequence[tuple[str, object]] = (
        ("target", "function:"),
        ("target", "function:two words"),
        ("target", "arn:aws:lambda:us-east-1:000000000000:layer:x"),
        ("target", "arn:aws:lambda:us-east-1:000000000000:function:f:alias"),
        ("target", 7),
        ("qualifier", "x"),
    )

    @pytest.fixture
    def target(self) -> Target:
        return FunctionSide()


async def delivered(invoker: Answering, clock: VirtualClock, target: str = "function:f") -> str | None:
    destination = FunctionDestination.parse({"target": target})
    await destination.open(Host(Path("/none"), clock, invoker))
    async with asyncio.timeout(WITHIN_S):
        receipt, _ = await asyncio.gather(destination.deliver(AWKWARD), clock.advance(LONGEST_S))
    return receipt.accepted_by


@pytest.mark.parametrize("suffix", ["", ":$LATEST"])
async def test_a_function_is_found_by_its_arn(suffix: str) -> None:
    invoker = Answering()
    await delivered(invoker, VirtualClock(), f"arn:aws:lambda:us-east-1:000000000000:function:f{suffix}")
    assert invoker.invoked == [("f", AWKWARD.body)]


async def test_a_throttled_invocation_is_tried_again() -> None:
    invoker = Answering(THROTTLED, THROTTLED)
    assert await delivered(invoker, VirtualClock()) == "function:f"
    assert len(invoker.invoked) == 3


async def test_a_function_that_stays_throttled_is_given_up() -> None:
    invoker = Answering(*[THROTTLED] * 9)
    with pytest.raises(DestinationUnavailable, match="throttled"):
        await delivered(invoker, VirtualClock())
    assert len(invoker.invoked) == ATTEMPTS


async def test_a_function_that_fails_has_not_taken_the_record() -> None:
    with pytest.raises(DestinationUnavailable, match="ValueError") as unavailable:
        await delivered(Answering(FAILED), VirtualClock())
    assert "secret" not in str(unavailable.value)
