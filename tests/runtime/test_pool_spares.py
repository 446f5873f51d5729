"""Functions with `snap_start`: one environment is loaded ahead, taken when none is free, and replaced."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest

from millstream.contract.functions import Success, Throttled
from tests.fakes import FAILURE
from tests.runtime.fakes import FakeSandbox, PoolRig, function, pool_rig

SNAP = function(snap_start=True)


def prepared(it: PoolRig) -> list[bool]:
    return [made.prepared for made in it.sandbox.made]


async def test_one_environment_is_loaded_before_any_invocation(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP, function("g")) as it:
        await it.clock.settle()
        assert [(made.function.name, made.prepared) for made in it.sandbox.made] == [("f", True)]
        assert it.pool.idle("f") == 1


async def test_what_was_loaded_ahead_is_used_first_and_another_is_made(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP) as it:
        await it.clock.settle()
        assert await it.answer() == 0
        await it.clock.settle()
        assert prepared(it) == [True, True]


async def test_a_free_environment_is_used_before_the_spare(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP) as it:
        await it.clock.settle()
        assert [await it.answer() for _ in range(3)] == [0, 0, 0]
        await it.clock.settle()
        assert len(it.sandbox.made) == 2


async def test_an_invocation_waits_for_the_spare_that_is_being_loaded(tmp_path: Path) -> None:
    slow = partial(FakeSandbox, prepared_s=5.0)
    async with pool_rig(tmp_path, SNAP, sandbox=slow) as it:
        await it.clock.settle()
        (task,) = await it.begin(1, 0)
        await it.clock.advance(4.9)
        assert not task.done()
        await it.clock.advance(0.1)
        outcome = task.result()
        assert isinstance(outcome, Success)
        assert outcome.payload == b"0"


async def test_the_first_invocation_waits_for_the_spare_that_is_being_made(tmp_path: Path) -> None:
    slow = partial(FakeSandbox, creation_s=1.0)
    async with pool_rig(tmp_path, SNAP, sandbox=slow) as it:
        tasks = await it.begin(2, 0)
        await it.clock.advance(1.0)
        assert all(task.done() for task in tasks)
        assert len(it.sandbox.made) == 2


async def test_an_invocation_does_not_wait_for_a_spare_that_cannot_be_made(tmp_path: Path) -> None:
    slow = partial(FakeSandbox, creation_s=1.0, full=True)
    async with pool_rig(tmp_path, SNAP, sandbox=slow) as it:
        (task,) = await it.begin(1, 0)
        it.sandbox.full = False
        await it.clock.advance(2.0)
        assert task.done()


async def test_more_invocations_than_spares_have_environments_of_their_own(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP) as it:
        await it.clock.settle()
        assert len(set(await it.run(3))) == 3


async def test_a_waiting_invocation_that_is_cut_off_ends_the_spare(tmp_path: Path) -> None:
    slow = partial(FakeSandbox, prepared_s=5.0)
    async with pool_rig(tmp_path, SNAP, sandbox=slow) as it:
        await it.clock.settle()
        (task,) = await it.begin(1, 0)
        task.cancel()
        await it.clock.advance(6.0)
        assert it.sandbox.made[0].closed == 1
        assert await it.answer() == 1


async def test_a_spare_outlives_idleness_and_is_replaced_when_it_is_old(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP, idle_s=10.0, max_age_s=100.0) as it:
        await it.clock.settle()
        await it.clock.advance(60.0)
        assert [made.closed for made in it.sandbox.made] == [0]
        await it.clock.advance(60.0)
        assert [made.closed for made in it.sandbox.made] == [1, 0]
        assert prepared(it) == [True, True]


async def test_a_spare_that_died_is_replaced(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP) as it:
        await it.clock.settle()
        it.sandbox.made[0].alive = False
        await it.clock.advance(2.0)
        assert [made.closed for made in it.sandbox.made] == [1, 0]
        it.sandbox.made[1].alive = False
        assert await it.answer() == 2


async def test_a_spare_is_frozen_until_it_is_taken(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP, freeze_after_s=0.05) as it:
        await it.clock.settle()
        await it.clock.advance(0.2)
        assert it.sandbox.made[0].frozen
        assert await it.answer() == 0


async def test_no_spare_is_made_above_the_reserved_concurrency(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, function(snap_start=True, reserved_concurrency=1)) as it:
        await it.clock.settle()
        assert await it.answer() == 0
        await it.clock.advance(5.0)
        assert len(it.sandbox.made) == 1


async def test_a_function_that_may_not_run_has_no_spare(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, function(snap_start=True, reserved_concurrency=0)) as it:
        await it.clock.advance(5.0)
        assert it.sandbox.made == []


async def test_no_spare_is_made_above_the_budget(tmp_path: Path) -> None:
    sandbox = partial(FakeSandbox, memory_mb=60)
    async with pool_rig(tmp_path, SNAP, sandbox=sandbox, memory_mb=100) as it:
        await it.clock.settle()
        assert await it.answer() == 0
        await it.clock.advance(30.0)
        assert [made.closed for made in it.sandbox.made] == [0]
        assert it.pool.held_mb == 60


async def test_another_function_takes_the_memory_of_a_spare(tmp_path: Path) -> None:
    sandbox = partial(FakeSandbox, memory_mb=60)
    async with pool_rig(tmp_path, SNAP, function("g"), sandbox=sandbox, memory_mb=100) as it:
        await it.clock.settle()
        assert await it.answer(name="g") == 1
        assert it.sandbox.made[0].closed == 1


async def test_a_host_short_of_memory_keeps_no_spare(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP) as it:
        await it.clock.settle()
        it.short = True
        await it.clock.advance(5.0)
        assert it.sandbox.open == []
        it.short = False
        await it.clock.advance(60.0)
        assert len(it.sandbox.open) == 1


async def test_a_failed_load_is_tried_again_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = partial(FakeSandbox, init_failure=FAILURE)
    with caplog.at_level(logging.WARNING):
        async with pool_rig(tmp_path, SNAP, sandbox=broken) as it:
            await it.clock.advance(10.0)
            assert len(it.sandbox.made) > 2
            assert it.sandbox.open == []
            it.sandbox.init_failure = None
            await it.clock.advance(60.0)
            assert len(it.sandbox.open) == 1
    said = [record.message for record in caplog.records]
    assert said == ["snapshot not made, it is tried again"]


async def test_an_invocation_does_not_wait_for_what_cannot_be_loaded_ahead(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, SNAP, sandbox=partial(FakeSandbox, full=True)) as it:
        await it.clock.settle()
        assert isinstance(await it.invoke(), Throttled)
        it.sandbox.full = False
        assert isinstance(await it.invoke(), Success)
