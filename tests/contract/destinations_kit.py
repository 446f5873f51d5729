"""What every destination must do. A destination's test module subclasses `DestinationsKit` and gives it a
`Target`."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from millstream.contract.clock import SystemClock
from millstream.contract.errors import DestinationUnavailable, InvalidConfiguration, Refused
from millstream.contract.functions import Outcome
from millstream.contract.ports import Destination, Host, InvocationRecord, Invoker
from millstream.destinations.registry import parse_destination

WITHIN_S = 30.0
MANY = 60
FUNCTION_ARN = "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST"
SECRET = "hunter2"


class NoInvoker:
    """Invokes nothing: most destinations have no need to."""

    async def invoke(self, function: str, event: bytes) -> Outcome:
        raise AssertionError("a destination invoked a function")


class Target(ABC):
    """A new, empty target. Its `options` are a declaration's, `target` among them."""

    options: Mapping[str, object]
    endpoint_url: str | None = None
    missing: Mapping[str, object] | None = None  # options of a target that is not there; None: not looked for
    invoker: Invoker = NoInvoker()

    @abstractmethod
    def read(self, count: int) -> Sequence[bytes]:
        """The documents that the target holds, once there are `count` of them."""

    @abstractmethod
    def die(self) -> None:
        """Make the target not answer, for good."""


def host(target: Target) -> Host:
    return Host(Path("/none"), SystemClock(), target.invoker, target.endpoint_url, "us-east-1")


def record_of(
    document: object, *, succeeded: bool = False, partition: str = "arn:aws:sqs:x:1:q"
) -> InvocationRecord:
    return InvocationRecord(
        body=msgspec.json.encode(document),
        function_arn=FUNCTION_ARN,
        succeeded=succeeded,
        mapping_id="mapping-1",
        partition=partition,
        request_id="request-1",
        written_at=1_764_088_532.123,
    )


AWKWARD = record_of(
    {"payload": '{"a": "é \U0001f980 \\u0000 \n\t <&>"}', "text": "\u2028 é \U0001f980 <&> \\"}
)


class DestinationsKit:
    """The suite; `target` is what a subclass gives, as a fixture."""

    bad_options: Sequence[tuple[str, object]] = ()

    @pytest.fixture
    def target(self) -> Target:
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, target: Target) -> AsyncIterator[Destination]:
        destination = self.parsed(target)
        await destination.open(host(target))
        try:
            yield destination
        finally:
            await destination.aclose()

    def parsed(self, target: Target) -> Destination:
        if set(target.options) == {"target"}:
            return parse_destination(target.options["target"])
        return parse_destination(target.options)

    async def test_a_delivered_record_is_readable_byte_for_byte(self, target: Target) -> None:
        async with self.opened(target) as destination:
            await destination.deliver(AWKWARD)
        assert target.read(1) == [AWKWARD.body]

    async def test_a_receipt_names_the_destination(self, target: Target) -> None:
        async with self.opened(target) as destination:
            receipt = await destination.deliver(AWKWARD)
        assert receipt.accepted_by == destination.name
        assert destination.name

    async def test_many_concurrent_deliveries_all_arrive(self, target: Target) -> None:
        records = [record_of({"number": number, "pad": "x" * 2000}) for number in range(MANY)]
        async with self.opened(target) as destination, asyncio.timeout(WITHIN_S):
            await asyncio.gather(*[destination.deliver(record) for record in records])
        assert sorted(target.read(MANY)) == sorted(record.body for record in records)

    async def test_a_dead_target_gives_no_receipt(self, target: Target) -> None:
        async with self.opened(target) as destination:
            target.die()
            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(DestinationUnavailable) as unavailable:
                    await destination.deliver(AWKWARD)
        assert destination.name in str(unavailable.value)
        assert "payload" not in str(unavailable.value)

    async def test_a_missing_target_is_said_at_open(self, target: Target) -> None:
        if target.missing is None:
            pytest.skip("known with the first delivery alone")
        destination = parse_destination({**target.options, **target.missing})
        before = threading.active_count()
        with pytest.raises(Refused):
            await destination.open(host(target))
        await until_threads(before)

    async def test_a_destination_can_be_opened_again(self, target: Target) -> None:
        destination = self.parsed(target)
        for _ in range(2):
            await destination.open(host(target))
            await destination.deliver(AWKWARD)
            await destination.aclose()
        assert len(target.read(2)) == 2

    async def test_nothing_is_delivered_once_it_is_closed(self, target: Target) -> None:
        async with self.opened(target) as destination:
            pass
        with pytest.raises(DestinationUnavailable):
            await destination.deliver(AWKWARD)

    async def test_a_destination_that_was_not_opened_can_be_closed(self, target: Target) -> None:
        await self.parsed(target).aclose()

    async def test_closing_leaves_no_thread_and_no_socket(self, target: Target) -> None:
        threads, files = threading.active_count(), open_files()
        async with self.opened(target) as destination:
            await asyncio.gather(*[destination.deliver(AWKWARD) for _ in range(8)])
        assert all(thread.daemon for thread in threading.enumerate() if "destination" in thread.name)
        await until_threads(threads)
        async with asyncio.timeout(WITHIN_S):  # a target in this process closes its ends a little later
            while set(open_files()) - set(files):
                await asyncio.sleep(0.01)

    def test_each_bad_field_is_refused_by_name(self, target: Target) -> None:
        assert self.bad_options
        kind = type(self.parsed(target))
        good = {name: value for name, value in target.options.items() if name != "kind"}
        for field, value in self.bad_options:
            with pytest.raises(InvalidConfiguration) as invalid:
                kind.parse({**good, field: value})
            fields = [problem.field.partition(".")[0] for problem in invalid.value.problems]
            assert fields == [field], value

    def test_a_target_that_is_not_given_is_asked_for(self, target: Target) -> None:
        with pytest.raises(InvalidConfiguration) as invalid:
            type(self.parsed(target)).parse({})
        assert "(" in invalid.value.problems[0].wanted  # an example

    def test_no_secret_is_shown(self, target: Target) -> None:
        kind = type(self.parsed(target))
        assert SECRET not in f"{vars(self.parsed(target)).get('options')!r} {self.parsed(target)!r}"
        with pytest.raises(InvalidConfiguration) as invalid:
            kind.parse({"target": f"https://user:{SECRET}@example.com:port/{SECRET}"})
        assert SECRET not in str(invalid.value)


def open_files() -> list[str]:
    """What this process holds open, but for what an event loop has."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the listing's own
            continue
    return sorted(name for name in found if name.startswith(("socket:", "/")))


async def until_threads(count: int) -> None:
    """Wait until as few threads run as before; an ending thread gives no signal."""
    async with asyncio.timeout(WITHIN_S):
        while threading.active_count() > count:
            await asyncio.sleep(0.01)
