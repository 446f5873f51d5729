"""A mapping whose broker hands out the partitions: assignments, revocations, losses, stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable
from millstream.contract.functions import Outcome, Success
from millstream.contract.ports import BatchLimits
from millstream.contract.state import Lease
from millstream.contract.streams import At, Latest, Oldest, StartingPosition, StreamPolicy, StreamReader
from millstream.mappings.filters import compile_filters
from millstream.mappings.group import GroupRunner
from millstream.mappings.lanes import read_ahead
from millstream.mappings.stream import StreamRunner
from millstream.mappings.stream_process import StreamRoute
from millstream.mappings.tenure import Tenure
from tests.clock import VirtualClock
from tests.examples import examples
from tests.fakes import FAILURE, FUNCTION, SUCCESS, FakeObserver
from tests.group_fakes import FakeGroup, FakeOutputs
from tests.mappings.stream_rig import StreamFunction, by_numbers
from tests.stream_fakes import FakeStream, FakeStreamTrigger, MemoryStore, stream_record

GONE = InvalidConfiguration([Problem("", "topic", "a topic", "none")])


@dataclass
class Member:
    clock: VirtualClock
    group: FakeGroup
    function: StreamFunction
    observer: FakeObserver
    store: MemoryStore
    runner: GroupRunner
    task: asyncio.Task[None]

    async def until(self, happened: Callable[[], bool], within_s: float = 600.0) -> None:
        for _ in range(int(within_s / 0.1)):
            if happened():
                return
            await self.clock.advance(0.1)
        raise AssertionError(f"not within {within_s} s; seen {self.function.batches[-5:]}")


@asynccontextmanager
async def member(
    group: FakeGroup,
    answer: Callable[[dict[str, Any]], Outcome] = lambda event: SUCCESS,
    *,
    takes_s: float = 0.0,
    policy: StreamPolicy = StreamPolicy(),
    start: StartingPosition = Oldest(),
    store: MemoryStore | None = None,
) -> AsyncIterator[Member]:
    clock = group.clock
    assert isinstance(clock, VirtualClock)
    trigger = FakeStreamTrigger(FakeStream(clock), BatchLimits(4, 0.0), policy, start)
    function = StreamFunction(clock, answer, takes_s)
    observer, rows = FakeObserver(), store or MemoryStore(clock)
    route = StreamRoute("m", FUNCTION, policy, None, None, group.outputs)

    def make(reader: StreamReader, leases: Sequence[Lease], tenure: Tenure, share: float) -> StreamRunner:
        return StreamRunner(
            route,
            trigger,
            reader,
            group.event_source_arn,
            compile_filters((), trigger.filter_rules),
            function,
            group,
            leases,
            tenure,
            read_ahead(trigger.limits, 1, 1 << 20),
            observer,
            clock,
        )

    runner = GroupRunner("m", "me", group, start, policy.share_batches, rows, make, observer, clock)
    await runner.begin()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(runner.run())
        await clock.settle()
        made = Member(clock, group, function, observer, rows, runner, task)
        yield made
        runner.stop()
        for _ in range(600):
            if task.done():
                break
            await clock.advance(0.5)
        assert task.done(), "the mapping did not stop"


def filled(*partitions: str, count: int = 10, outputs: FakeOutputs | None = None) -> FakeGroup:
    group = FakeGroup(VirtualClock(), outputs=outputs)
    for nth, partition in enumerate(partitions):
        group.put(*[stream_record(100 * nth + n, partition=partition) for n in range(count)])
    return group


async def test_assigned_partitions_are_read_and_their_cursors_given_to_the_group() -> None:
    group = filled("a", "b")
    async with member(group) as it:
        group.assign("a", "b")
        await it.until(lambda: group.cursors == {"a": 9, "b": 109})
        assert sorted(it.function.seen) == [*range(10), *range(100, 110)]
    assert group.joined == [(Oldest(), False)]


async def test_a_revoked_partition_is_given_up_once_what_runs_is_resolved_and_committed() -> None:
    group = filled("a", "b")
    async with member(group, takes_s=3.0) as it:
        group.assign("a", "b")
        await it.until(lambda: len(it.function.batches) == 2)
        done = group.revoke("a", within_s=10.0)
        await it.clock.settle()
        assert not done.is_set()
        await it.until(done.is_set, 3.5)
        assert group.cursors["a"] == 3
        await it.until(lambda: group.cursors.get("b") == 109)
        assert not [n for n in it.function.seen if 3 < n < 100]
    assert group.refused == []


async def test_a_partition_that_is_not_finished_in_time_is_let_go_uncommitted() -> None:
    group = filled("a")
    async with member(group, takes_s=60.0) as it:
        group.assign("a")
        await it.until(lambda: len(it.function.batches) == 1)
        done = group.revoke("a", within_s=5.0)
        await it.until(done.is_set, 6.0)
    assert group.cursors == {}


async def test_a_lost_partition_is_not_written_any_more() -> None:
    group = filled("a")
    async with member(group, takes_s=3.0) as it:
        group.assign("a")
        await it.until(lambda: len(it.function.batches) == 1)
        done = group.revoke("a", within_s=0.0)
        await it.until(done.is_set, 1.0)
        await it.clock.advance(5.0)
        group.assign("a")
        await it.until(lambda: group.cursors.get("a") == 9)
    assert it.function.seen[:8] == [0, 1, 2, 3, 0, 1, 2, 3]


async def test_a_source_that_assigns_partitions_is_known_to_answer() -> None:
    async with member(filled("a")) as it:
        it.group.assign("a")
        await it.until(lambda: it.observer.recovered == 1)


async def test_a_partition_that_comes_back_goes_on_behind_its_cursor() -> None:
    group = filled("a")
    async with member(group) as it:
        group.assign("a")
        await it.until(lambda: group.cursors.get("a") == 9)
        done = group.revoke("a")
        await it.until(done.is_set)
        group.put(stream_record(10, partition="a"))
        group.assign("a")
        await it.until(lambda: group.cursors["a"] == 10)
        assert it.function.seen == [*range(11)]


async def test_a_poisoned_partition_does_not_slow_another() -> None:
    group = filled("a", "b")
    async with member(group, by_numbers(lambda batch: FAILURE if batch[0] < 100 else SUCCESS)) as it:
        group.assign("a", "b")
        await it.until(lambda: group.cursors.get("b") == 109, 1.0)
        assert "a" not in group.cursors


async def test_a_stop_finishes_what_runs_and_leaves() -> None:
    group = filled("a", "b")
    async with member(group, takes_s=2.0) as it:
        group.assign("a", "b")
        await it.until(lambda: len(it.function.batches) == 2)
        it.runner.stop()
        await it.until(it.task.done, 3.0)
    assert group.cursors == {"a": 3, "b": 103}


async def test_a_partition_revoked_while_the_daemon_stops_is_still_given_up() -> None:
    group = filled("a", "b")
    async with member(group, by_numbers(lambda batch: SUCCESS), takes_s=4.0) as it:
        group.assign("a", "b")
        await it.until(lambda: len(it.function.batches) == 2)
        it.runner.stop()
        await it.clock.settle()
        done = group.revoke("a")
        await it.until(done.is_set, 5.0)
        await it.until(it.task.done, 5.0)
    assert group.cursors == {"a": 3, "b": 103}


async def test_what_is_assigned_while_the_daemon_stops_is_not_read() -> None:
    group = filled("a", "b")
    async with member(group, takes_s=4.0) as it:
        group.assign("a")
        await it.until(lambda: len(it.function.batches) == 1)
        it.runner.stop()
        group.assign("b")
        await it.until(it.task.done, 5.0)
    assert it.function.seen == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [GONE, SourceUnavailable("no broker answers")], ids=["gone", "unavailable"])
async def test_a_membership_that_ends_resolves_what_was_read_and_says_why(error: Exception) -> None:
    group = filled("a")
    with pytest.raises(ExceptionGroup) as raised:
        async with member(group, takes_s=2.0) as it:
            group.assign("a")
            await it.until(lambda: len(it.function.batches) == 1)
            group.fail(error)
            await it.until(it.task.done, 3.0)
    assert raised.value.exceptions == (error,)
    assert group.cursors == {"a": 3}


async def test_latest_uses_the_ends_that_were_kept_as_the_mapping_was_enabled() -> None:
    group = filled("a")
    store = MemoryStore(group.clock)
    async with member(group, start=Latest(), store=store) as it:
        enabled_at = group.clock.now()
        await it.clock.advance(1.0)
    async with member(group, start=Latest(), store=store):
        pass
    assert group.joined == [(At(enabled_at), True), (At(enabled_at), False)]


async def test_partitions_may_share_batches() -> None:
    group = filled("a", "b", count=2)
    async with member(group, policy=StreamPolicy(share_batches=True)) as it:
        group.assign("a", "b")
        await it.until(lambda: group.cursors == {"a": 1, "b": 101})
        assert it.function.batches == [[0, 1, 100, 101]]
        group.put(stream_record(2, partition="a"), stream_record(200, partition="c"))
        group.assign("c")
        await it.until(lambda: group.cursors == {"a": 2, "b": 101, "c": 200})
        done = group.revoke("a")
        await it.until(done.is_set)
        group.put(stream_record(3, partition="a"), stream_record(102, partition="b"))
        await it.until(lambda: group.cursors["b"] == 102)
        assert 3 not in it.function.seen


async def test_in_a_shared_batch_each_partition_is_retried_from_its_own_first_failure() -> None:
    group = filled("a", "b", count=2)
    failing = {1}

    def answer(batch: list[int]) -> Outcome:
        named = [{"itemIdentifier": str(n)} for n in batch if n in failing]
        failing.clear()
        return Success(f'{{"batchItemFailures":{named}}}'.replace("'", '"').encode(), "r")

    policy = StreamPolicy(share_batches=True, item_failures=True)
    async with member(group, by_numbers(answer), policy=policy) as it:
        group.assign("a", "b")
        await it.until(lambda: group.cursors == {"a": 1, "b": 101})
        assert it.function.batches == [[0, 1, 100, 101], [1]]


async def test_an_answer_that_cannot_be_published_is_a_failure() -> None:
    answers = [Success(b'"bad"', "r1"), Success(b'"good"', "r2")]
    group = filled("a", count=1, outputs=FakeOutputs(refused=b'"bad"'))
    async with member(group, lambda event: answers.pop(0)) as it:
        group.assign("a")
        await it.until(lambda: group.cursors.get("a") == 0)
        assert it.function.batches == [[0], [0]]
    assert group.outputs is not None
    assert group.outputs.taken == [b'"good"']


@examples(60)
@given(
    moves=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.1, 6.0)), max_size=12),
    share=st.booleans(),
)
async def test_nothing_is_lost_and_order_holds_over_any_rebalances(
    moves: list[tuple[str, bool, float]], share: bool
) -> None:
    group = filled("a", "b", "c", count=12)
    held: set[str] = set()
    async with member(group, takes_s=1.0, policy=StreamPolicy(share_batches=share)) as it:
        for partition, soft, wait_s in moves:
            if partition in held:
                done = group.revoke(partition, within_s=3.0 if soft else 0.0)
                await it.until(done.is_set, 10.0)
                held.discard(partition)
            else:
                group.assign(partition)
                held.add(partition)
            for _ in range(int(wait_s / 0.1)):
                await it.clock.advance(0.1)
        group.assign(*({"a", "b", "c"} - held))
        await it.until(lambda: group.cursors == {"a": 11, "b": 111, "c": 211})
    for nth in range(3):
        seen = [n for n in it.function.seen if n // 100 == nth]
        assert [*dict.fromkeys(seen)] == [*range(100 * nth, 100 * nth + 12)]


async def test_a_revocation_is_honoured_while_an_assignment_waits_for_what_runs() -> None:
    group = filled("a", "b")
    policy = StreamPolicy(share_batches=True)
    async with member(group, takes_s=300.0, policy=policy) as it:
        group.assign("a")
        await it.until(lambda: len(it.function.batches) == 1)
        group.assign("b")
        await it.clock.advance(1.0)
        done = group.revoke("a", within_s=10.0)
        await it.until(done.is_set, within_s=10.5)
        await it.until(lambda: any(n >= 100 for n in it.function.seen), within_s=1.0)
        assert len(it.runner._units) == 1
    assert group.refused == []


async def test_what_is_lost_of_shared_partitions_leaves_the_others_read() -> None:
    group = filled("a", "b")
    async with member(group, policy=StreamPolicy(share_batches=True)) as it:
        group.assign("a", "b")
        await it.until(lambda: group.cursors == {"a": 9, "b": 109})
        done = group.revoke("a", within_s=0.0)
        group.put(stream_record(110, partition="b"))
        await it.until(lambda: group.cursors.get("b") == 110, within_s=10.0)
        assert done.is_set()
