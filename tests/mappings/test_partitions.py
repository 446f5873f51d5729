"""A mapping on a stream: lineage, where it starts, leases over several daemons, faults, stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.errors import (
    InvalidConfiguration,
    PartitionGone,
    Problem,
    SourceUnavailable,
)
from millstream.contract.ports import BatchLimits
from millstream.contract.streams import At, Latest, Oldest, StartingPosition, StreamPolicy
from millstream.mappings.partitions import DISCOVER_S, LEASE_S, PartitionsRunner
from tests.examples import examples
from tests.fakes import FAILURE, SUCCESS
from tests.mappings.stream_rig import World, by_numbers, world
from tests.stream_fakes import stream_record

GONE = InvalidConfiguration([Problem("", "stream", "a stream", "none")])


@dataclass
class Daemon:
    it: World
    runner: PartitionsRunner
    task: asyncio.Task[None]
    dead: list[bool] = field(default_factory=list)

    async def until_at(self, partition: str, position: int, within_s: float = 600.0) -> None:
        for _ in range(int(within_s / 0.5)):
            row = self.it.store.rows.get(("m", partition))
            if row is not None and row.position is not None and int(row.position) >= position:
                return
            await self.it.clock.advance(0.5)
        raise AssertionError(f"not within {within_s} s; seen {self.it.function.batches[-5:]}")

    async def kill(self) -> None:
        """End at once, as a kill does: nothing is released."""
        self.dead.append(True)
        self.task.cancel()
        await self.it.clock.settle()


async def live(runner: PartitionsRunner) -> None:
    await runner.begin()
    await runner.run()


@asynccontextmanager
async def daemon(it: World, owner: str = "me", start: StartingPosition = Oldest()) -> AsyncIterator[Daemon]:
    runner = PartitionsRunner("m", owner, it.stream, start, it.store, it.runner, it.observer, it.clock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(live(runner))
        await it.clock.settle()
        made = Daemon(it, runner, task)
        yield made
        runner.stop()
        for _ in range(300):
            if task.done():
                break
            await it.clock.advance(0.5)
        assert task.done(), "the mapping did not stop"


def owners(it: World) -> dict[str, str | None]:
    now = it.clock.monotonic()
    return {
        p: row.owner if row.expires_at > now else None
        for (_, p), row in it.store.rows.items()
        if not row.ended
    }


def lineage(**arguments: object) -> World:
    """Shard p, split into l and r, merged into m; ten records each, in this order."""
    it = world(**arguments)  # type: ignore[arg-type]
    it.stream.add("l", "p")
    it.stream.add("r", "p")
    it.stream.add("m", "l", "r")
    for first, partition in enumerate("plrm"):
        it.stream.put(*[stream_record(first * 10 + n, partition=partition) for n in range(10)])
    for partition in "plr":
        it.stream.parts[partition].ended = True
    return it


async def test_parents_are_resolved_before_their_children_are_read() -> None:
    it = lineage(takes_s=1.0, limits=BatchLimits(4, 0.0))
    async with daemon(it) as me:
        await me.until_at("m", 39)
    seen = it.function.seen
    assert sorted(seen) == list(range(40))
    assert max(seen.index(n) for n in range(10)) < min(seen.index(n) for n in range(10, 30))
    assert max(seen.index(n) for n in range(10, 30)) < min(seen.index(n) for n in range(30, 40))


async def test_a_poisoned_shard_does_not_slow_another() -> None:
    it = world(answer=by_numbers(lambda numbers: FAILURE if numbers[0] < 100 else SUCCESS))
    it.stream.add("q")
    it.stream.put(*[stream_record(n) for n in range(10)])
    it.stream.put(*[stream_record(n, partition="q") for n in range(100, 200)])
    async with daemon(it) as me:
        await me.until_at("q", 199, within_s=3.0)
    assert it.store.rows["m", "p"].position is None


async def test_a_partition_that_ended_is_not_read_again_after_a_restart() -> None:
    it = lineage()
    async with daemon(it) as me:
        await me.until_at("m", 39)
    it.stream.starts.clear()
    async with daemon(it):
        await it.clock.advance(30.0)
    assert [partition for partition, _ in it.stream.starts] == ["m"]
    assert len(it.function.seen) == 40


async def test_children_that_appear_later_are_found() -> None:
    it = world(stream_record(0))
    async with daemon(it) as me:
        await me.until_at("p", 0)
        it.stream.add("q", "p")
        it.stream.put(stream_record(7, partition="q"))
        it.part.ended = True
        await me.until_at("q", 7, within_s=DISCOVER_S + 5)


async def test_latest_begins_at_the_moment_the_mapping_was_first_enabled() -> None:
    it = world(stream_record(0, at=990.0))
    async with daemon(it, start=Latest()):
        await it.clock.advance(5.0)
    it.stream.put(stream_record(1, at=1001.0))  # before any cursor was written
    async with daemon(it, start=Latest()) as me:
        await me.until_at("p", 1)
    assert it.function.seen == [1]
    assert {start for _, start in it.stream.starts} == {At(1000.0)}


async def test_latest_passes_over_partitions_that_were_closed_already() -> None:
    it = lineage()
    for partition in "plr":
        it.stream.add(partition, *it.stream.parts[partition].partition.parents, closed=True).ended = True
    async with daemon(it, start=Latest()):
        await it.clock.advance(10.0)
    assert [partition for partition, _ in it.stream.starts] == ["m"]


async def test_a_restarted_daemon_goes_on_with_its_own_leases_at_once() -> None:
    it = world(*[stream_record(n) for n in range(100)], takes_s=1.0)
    async with daemon(it) as me:
        await it.clock.advance(2.5)
        await me.kill()
    async with daemon(it) as me:
        await me.until_at("p", 99)
    assert sorted(set(it.function.seen)) == list(range(100))


def shards(count: int, **arguments: object) -> World:
    it = world(**arguments)  # type: ignore[arg-type]
    for n in range(1, count):
        it.stream.add(f"p{n}")
    return it


async def test_two_daemons_share_the_shards_evenly() -> None:
    it = shards(4)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(daemon(it, "a"))
        await it.clock.advance(5.0)
        assert set(owners(it).values()) == {"a"}
        await stack.enter_async_context(daemon(it, "b"))
        await it.clock.advance(10.0)
        assert sorted(str(owner) for owner in owners(it).values()) == ["a", "a", "b", "b"]
    assert set(owners(it).values()) == {None}


async def test_what_a_killed_daemon_held_is_taken_over_within_its_lease() -> None:
    it = shards(4)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(daemon(it, "a"))
        await stack.enter_async_context(daemon(it, "b"))
        await it.clock.advance(10.0)
        await a.kill()
        await it.clock.advance(LEASE_S + 5.0)
        assert set(owners(it).values()) == {"b"}


async def test_a_lease_that_runs_out_between_two_looks_is_taken_in_that_moment() -> None:
    it = shards(4)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(daemon(it, "a"))
        await stack.enter_async_context(daemon(it, "b"))
        await it.clock.advance(10.0)
        await a.kill()
        await it.clock.advance(LEASE_S)
        assert set(owners(it).values()) == {"b"}


async def test_a_daemon_whose_leases_were_taken_stops_reading_them() -> None:
    it = shards(2)
    async with daemon(it, "a"):
        await it.clock.advance(5.0)
        for row in it.store.rows.values():
            row.owner, row.epoch, row.expires_at = "b", row.epoch + 1, it.clock.monotonic() + 100.0
        await it.clock.advance(5.0)
        assert it.stream.open_readers == 0


async def test_while_the_store_is_down_a_daemon_goes_on_as_long_as_its_leases_last() -> None:
    it = world()
    async with daemon(it) as me:
        await it.clock.advance(5.0)
        it.store.broken = True
        it.stream.put(stream_record(0))
        await it.clock.advance(2.0)
        assert it.function.seen == [0]
        await it.clock.advance(60.0)
        it.stream.put(stream_record(1))
        await it.clock.advance(60.0)
        assert it.function.seen == [0]
        it.store.broken = False
        await me.until_at("p", 1)
    assert it.function.seen == [0, 1]
    assert it.observer.recovered


async def test_a_daemon_that_was_frozen_invokes_nothing_that_another_has_taken_over() -> None:
    it = world(*[stream_record(n) for n in range(100)], takes_s=1.0)
    async with daemon(it, "a"):
        await it.clock.advance(2.5)
        it.clock.freeze(30.0)
        row = it.store.rows["m", "p"]
        row.owner, row.epoch, row.expires_at = "b", row.epoch + 1, it.clock.monotonic() + 100.0
        before = len(it.function.events)
        await it.clock.advance(20.0)
        assert len(it.function.events) == before


async def test_a_list_that_cannot_be_had_is_asked_for_later() -> None:
    it = world(stream_record(0))
    async with daemon(it) as me:
        await me.until_at("p", 0)
        it.stream.fault = SourceUnavailable("s: throttled")
        await it.clock.advance(3 * DISCOVER_S)
        it.stream.put(stream_record(1))
        await me.until_at("p", 1)
    assert "s: throttled" in it.observer.failed_polls


async def test_a_stream_that_is_deleted_ends_the_mapping_with_its_reason() -> None:
    it = world(*[stream_record(n) for n in range(30)], takes_s=1.0)
    with pytest.raises(ExceptionGroup) as raised:
        async with daemon(it) as me:
            it.part.fault = it.stream.fault = GONE
            for _ in range(200):
                if me.task.done():
                    break
                await it.clock.advance(0.5)
    assert raised.group_contains(InvalidConfiguration)
    assert it.function.seen == list(range(30))


async def test_a_partition_that_vanishes_is_given_up_and_its_children_are_read() -> None:
    it = world(stream_record(0))
    async with daemon(it) as me:
        await me.until_at("p", 0)
        it.stream.add("q", "p")
        it.stream.put(stream_record(5, partition="q"))
        it.part.fault = PartitionGone("p")
        del it.stream.parts["p"]
        await me.until_at("q", 5)


async def test_a_list_that_shrinks_for_a_moment_is_no_reason_to_read_twice() -> None:
    it = lineage()
    async with daemon(it) as me:
        await me.until_at("m", 39)
        parts = dict(it.stream.parts)
        it.stream.parts.clear()
        await it.clock.advance(2 * DISCOVER_S)
        it.stream.parts.update(parts)
        await it.clock.advance(2 * DISCOVER_S)
    assert len(it.function.seen) == 40


async def test_a_fault_of_ours_in_one_shard_is_logged_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    it = shards(2)
    it.part.fault = ZeroDivisionError("a bug")
    async with daemon(it) as me:
        it.stream.put(stream_record(1, partition="p1"))
        await me.until_at("p1", 1)
        await it.clock.advance(6.0)
        it.part.fault = None
        it.stream.put(stream_record(0))
        await me.until_at("p", 0)
    assert "partition failed, it is read again" in caplog.text


@examples(15)
@given(
    st.lists(st.sampled_from(["kill a", "kill b", "start a", "start b", "wait"]), max_size=8),
    st.integers(1, 3),
)
async def test_over_any_kills_and_takeovers_nothing_is_lost_and_order_holds(
    moves: list[str], lanes: int
) -> None:
    policy = StreamPolicy(lanes=lanes)
    it = world(policy=policy, limits=BatchLimits(3, 0.0), takes_s=0.7)
    it.stream.add("q")
    for n in range(60):
        it.stream.put(stream_record(n, partition="pq"[n % 2], key=f"k{n % 6}"))
    async with AsyncExitStack() as stack:
        alive: dict[str, Daemon] = {}
        for move in ["start a", *moves, "start a"]:
            what, _, who = move.partition(" ")
            if what == "kill" and who in alive:
                await alive.pop(who).kill()
            if what == "start" and who not in alive:
                alive[who] = await stack.enter_async_context(daemon(it, who))
            await it.clock.advance(4.0)
        await alive["a"].until_at("p", 58)
        await alive["a"].until_at("q", 59)
    assert set(it.function.seen) == set(range(60))
    for key in range(6):
        firsts = list(dict.fromkeys(n for n in it.function.seen if n % 6 == key))
        assert firsts == sorted(firsts)
