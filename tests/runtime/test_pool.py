"""The pool: which environment runs what, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from millstream.contract.functions import FunctionFailed, Success, Throttled
from millstream.runtime.concurrency import ACCOUNT, RESERVED, RESERVED_RATE
from millstream.runtime.pool import UNAVAILABLE
from tests.runtime.fakes import FakeSandbox, assert_nothing_is_left, function, pool_rig


async def test_the_environment_that_was_used_last_is_used_next(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        assert sorted(await it.run(3)) == [0, 1, 2]
        last = await it.answer()
        assert [await it.answer() for _ in range(3)] == [last] * 3


async def test_functions_do_not_share_environments(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, function("f"), function("g")) as it:
        assert await it.answer(name="f") != await it.answer(name="g")
        assert [made.function.name for made in it.sandbox.made] == ["f", "g"]


async def test_a_failure_is_an_answer_and_the_environment_goes_on(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        assert isinstance(await it.invoke(-1), FunctionFailed)
        assert await it.answer() == 0


async def test_what_died_in_its_invocation_is_gone_before_the_caller_goes_on(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        assert isinstance(await it.invoke(-2), FunctionFailed)
        assert it.sandbox.open == []
        assert await it.answer() == 1


async def test_what_died_while_it_was_idle_is_not_used(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        await it.answer()
        it.sandbox.made[0].alive = False
        assert await it.answer() == 1


async def test_what_died_while_it_was_idle_is_ended_without_being_asked_for(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        await it.answer()
        it.sandbox.made[0].alive = False
        await it.clock.advance(2.0)
        assert it.sandbox.open == []


async def test_the_environment_of_a_cancelled_invocation_is_never_used_again(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        (task,) = await it.begin(1)
        task.cancel()
        await it.clock.settle()
        assert it.sandbox.open == []
        assert it.ledger.running("f") == 0
        assert await it.answer() == 1


async def test_a_cold_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, sandbox=partial(FakeSandbox, creation_s=1.0), memory_mb=100) as it:
        (task,) = await it.begin(1)
        task.cancel()
        await it.clock.advance(2.0)
        assert it.sandbox.made == []
        assert it.state().held_mb == 0
        (task,) = await it.begin(1, 0)
        await it.clock.advance(1.0)
        assert isinstance(task.result(), Success)


async def test_an_environment_that_cannot_be_made_is_a_throttle(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, sandbox=partial(FakeSandbox, full=True)) as it:
        assert await it.invoke() == UNAVAILABLE
        assert it.ledger.running("f") == 0
        it.sandbox.full = False
        assert await it.answer() == 0


async def test_a_closed_pool_makes_nothing(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        await it.answer()
    assert await it.invoke() == UNAVAILABLE
    assert len(it.sandbox.made) == 1


async def test_what_is_made_while_the_pool_closes_is_closed(tmp_path: Path) -> None:
    slow = partial(FakeSandbox, creation_s=1000.0)
    async with asyncio.TaskGroup() as group:
        async with pool_rig(tmp_path, sandbox=slow, checked=False) as it:
            task = group.create_task(it.invoke())
            await it.clock.settle()
        await it.clock.advance(1000.0)
    assert task.result() == UNAVAILABLE
    assert_nothing_is_left(it)


@pytest.mark.parametrize(
    ("reserved", "account", "reason"), [(2, 1000, RESERVED), (0, 1000, RESERVED), (None, 2, ACCOUNT)]
)
async def test_above_its_concurrency_a_function_is_throttled(
    tmp_path: Path, reserved: int | None, account: int, reason: str
) -> None:
    async with pool_rig(tmp_path, function(reserved_concurrency=reserved), account=account) as it:
        tasks = await it.begin(3)
        throttled = [t.result() for t in tasks if t.done()]
        assert throttled == [o for o in throttled if isinstance(o, Throttled) and o.reason == reason]
        assert len(throttled) == (3 if reserved == 0 else 1)


async def test_above_its_rate_a_function_is_throttled_for_a_while(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, function(reserved_concurrency=1)) as it:
        assert [await it.answer() for _ in range(10)] == [0] * 10
        throttled = await it.invoke()
        assert isinstance(throttled, Throttled)
        assert throttled.reason == RESERVED_RATE
        await it.clock.advance(throttled.retry_after_s + 0.1)
        assert await it.answer() == 0


async def test_a_function_grows_by_a_thousand_environments_and_then_by_a_hundred_a_second(
    tmp_path: Path,
) -> None:
    async with pool_rig(tmp_path, account=3000) as it:
        tasks = await it.begin(1005, 10.0)
        throttled = [task.result() for task in tasks if task.done()]
        assert [o.reason for o in throttled if isinstance(o, Throttled)] == [ACCOUNT] * 5
        await it.clock.advance(0.1)
        tasks = await it.begin(15, 10.0)
        assert sum(task.done() for task in tasks) == 5
        assert len(it.sandbox.made) == 1010


async def test_the_state_of_a_function_counts_what_happened(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, function(reserved_concurrency=3, memory_size_mb=256)) as it:
        await it.run(2)
        await it.clock.advance(1.0)
        await it.invoke(-1)
        await it.begin(1)
        await it.clock.settle()
        await it.begin(3)
        state = it.state()
        assert (state.busy, state.idle, state.frozen) == (3, 0, 0)
        assert (state.invocations, state.errors) == (6, 1)
        assert state.throttles == {RESERVED: 1}
        assert (state.runtime, state.memory_size_mb, state.reserved) == ("python3.11", 256, 3)


async def test_idle_and_frozen_environments_are_told_apart(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        await it.run(3)
        await it.clock.advance(1.0)
        await it.answer()
        state = it.state()
        assert (state.busy, state.idle, state.frozen) == (0, 1, 2)
        assert it.pool.idle("f") == 3
