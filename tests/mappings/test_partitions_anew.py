"""Streams that lose partitions, are made anew under their names, or refuse. Time is virtual."""

from __future__ import annotations

import asyncio

import pytest

from millstream.contract.errors import PartitionGone, Refused
from millstream.contract.streams import At, Latest, Oldest, StartingPosition
from millstream.mappings.partitions import DISCOVER_S, PartitionsRunner
from tests.mappings.stream_rig import World, world
from tests.mappings.test_partitions import daemon, live, owners
from tests.stream_fakes import stream_record


async def test_a_partition_that_is_said_to_be_gone_and_is_listed_all_the_same_is_read_on() -> None:
    it = world(*[stream_record(n) for n in range(5)])
    async with daemon(it) as me:
        await me.until_at("p", 4)
        it.part.fault = PartitionGone("p: ResourceNotFoundException")
        await it.clock.advance(30.0)
        assert not it.store.rows["m", "p"].ended
        it.part.fault = None
        it.stream.put(stream_record(5))
        await me.until_at("p", 5, within_s=70.0)
    assert it.function.seen == list(range(6))


async def test_a_partition_that_is_gone_and_not_listed_any_more_has_ended() -> None:
    it = world(stream_record(0))
    async with daemon(it) as me:
        await me.until_at("p", 0)
        it.stream.add("q", "p")
        it.stream.put(stream_record(7, partition="q"))
        it.part.fault = PartitionGone("p: trimmed")
        del it.stream.parts["p"]
        await me.until_at("q", 7, within_s=10.0)
    assert it.store.rows["m", "p"].ended


def made_anew(it: World, first: int, count: int = 10) -> None:
    """Delete the stream, and make another one of its name with as many partitions of the same names."""
    it.stream.identity = "second"
    it.stream.parts.clear()
    it.part = it.stream.add("p")
    it.stream.put(*[stream_record(n) for n in range(first, first + count)])


@pytest.mark.parametrize("start", [Oldest(), Latest(), At(900.0)], ids=["oldest", "latest", "at a time"])
@pytest.mark.parametrize("runs", [True, False], ids=["while the daemon runs", "while no daemon runs"])
async def test_a_stream_that_is_made_anew_is_read_from_its_beginning(
    start: StartingPosition, runs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    it = world()
    it.stream.identity = "first"
    async with daemon(it, start=start) as me:
        it.stream.put(*[stream_record(n, at=1000.0) for n in range(10)])
        await me.until_at("p", 9)
        if runs:
            made_anew(it, 100)
            await me.until_at("p", 109, within_s=DISCOVER_S + 10)
    if not runs:
        made_anew(it, 100)
        async with daemon(it, start=start) as me:
            await me.until_at("p", 109)
    assert it.function.seen == [*range(10), *range(100, 110)]
    assert "stream made anew under its name, it is read from its beginning" in caplog.text


async def test_a_shard_that_had_ended_is_read_again_in_a_stream_of_the_same_name() -> None:
    it = world(stream_record(0))
    it.stream.identity = "first"
    it.part.ended = True
    async with daemon(it) as me:
        await me.until_at("p", 0)
    made_anew(it, 5)
    async with daemon(it) as me:
        await me.until_at("p", 14)


async def test_two_daemons_find_a_stream_made_anew_and_none_of_them_writes_an_old_cursor() -> None:
    it = world(*[stream_record(n) for n in range(10)], takes_s=5.0)
    it.stream.identity = "first"
    async with daemon(it, "a") as me, daemon(it, "b"):
        await me.until_at("p", 9)
        made_anew(it, 3, 10)
        await me.until_at("p", 12, within_s=120.0)
    new = it.function.seen[10:]
    assert set(new) >= set(range(3, 13))


async def test_ended_partitions_are_forgotten_a_day_later_whatever_restarts_meanwhile() -> None:
    it = world(stream_record(0))
    it.part.ended = True
    it.stream.add("q", "p")
    async with daemon(it) as me:
        await me.until_at("p", 0)
    del it.stream.parts["p"]
    for _ in range(9):
        async with daemon(it):
            await it.clock.advance(30.0)
        it.clock.freeze(3 * 3600.0)
    assert ("m", "p") not in it.store.rows


async def test_a_source_that_refuses_ends_the_mapping_softly() -> None:
    it = world(*[stream_record(n) for n in range(10)], takes_s=1.0)
    runner = PartitionsRunner("m", "me", it.stream, Oldest(), it.store, it.runner, it.observer, it.clock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_refused(runner))
        await it.clock.advance(0.5)
        it.part.fault = Refused("s: AccessDenied")
        await it.clock.advance(30.0)
        assert task.result() == "s: AccessDenied"
    assert it.store.rows["m", "p"].position == "9"
    assert owners(it) == {"p": None}


async def test_a_list_that_is_refused_ends_the_mapping_softly_while_its_partitions_can_be_read() -> None:
    """So that the supervisor says what the problem is, and new partitions are found once it is mended."""
    it = world(*[stream_record(n) for n in range(10)])
    runner = PartitionsRunner("m", "me", it.stream, Oldest(), it.store, it.runner, it.observer, it.clock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_refused(runner))
        await it.clock.advance(5.0)
        it.stream.fault = Refused("s: AccessDenied")
        await it.clock.advance(DISCOVER_S + 10.0)
        done = task.done()
        runner.stop()
        await it.clock.advance(10.0)
    assert done
    assert task.result() == "s: AccessDenied"
    assert it.store.rows["m", "p"].position == "9"
    assert owners(it) == {"p": None}


async def _refused(runner: PartitionsRunner) -> str:
    try:
        await live(runner)
    except Refused as refused:
        return str(refused)
    return ""
