"""Provisioned concurrency: made ahead, kept at its number, used first."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from millstream.contract.functions import Success, Throttled
from millstream.runtime.concurrency import ACCOUNT, RESERVED
from millstream.runtime.provisioning import INIT_FAILURE
from tests.fakes import FAILURE
from tests.runtime.fakes import FakeSandbox, PoolRig, function, pool_rig

TWO = function(provisioned_concurrency=2)


def provisioned(it: PoolRig) -> tuple[int, int, str | None]:
    state = it.state()
    return state.provisioned_ready, state.provisioned_wanted, state.provisioned_status


async def test_provisioned_environments_are_initialised_before_any_invocation(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO, function("g")) as it:
        await it.clock.settle()
        assert [(made.function.name, made.prepared) for made in it.sandbox.made] == [("f", True)] * 2
        assert provisioned(it) == (2, 2, "READY")
        assert it.state("g").provisioned_status is None


async def test_at_most_four_of_all_functions_are_initialised_at_once(tmp_path: Path) -> None:
    slow = partial(FakeSandbox, prepared_s=10.0)
    specs = [function(name, provisioned_concurrency=6) for name in ("f", "g")]
    async with pool_rig(tmp_path, *specs, sandbox=slow) as it:
        made = []
        for _ in range(4):
            await it.clock.settle()
            made.append((len(it.sandbox.made), sum(m.prepared for m in it.sandbox.made)))
            await it.clock.advance(10.0)
        assert made == [(4, 0), (8, 4), (12, 8), (12, 12)]
        assert provisioned(it) == (6, 6, "READY")


async def test_provisioned_environments_are_used_first(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO) as it:
        await it.clock.settle()
        assert sorted(await it.run(3)) == [0, 1, 2]
        assert it.state().spillovers == 1
        for _ in range(3):
            assert sorted(await it.run(2)) == [0, 1]
        assert it.state().spillovers == 1


async def test_an_environment_is_told_whether_it_is_provisioned(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO) as it:
        await it.clock.settle()
        await it.run(3)
        assert [made.function.provisioned_concurrency for made in it.sandbox.made] == [2, 2, 0]


async def test_until_they_are_ready_invocations_run_on_demand(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO, sandbox=partial(FakeSandbox, prepared_s=60.0)) as it:
        await it.clock.settle()
        assert await it.run(1) == [2]
        assert provisioned(it) == (0, 2, "IN_PROGRESS")
        assert it.state().spillovers == 1
        await it.clock.advance(60.0)
        assert provisioned(it) == (2, 2, "READY")
        assert await it.answer() in (0, 1)


async def test_what_is_provisioned_to_the_whole_reservation_leaves_nothing_on_demand(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, function(reserved_concurrency=2, provisioned_concurrency=2)) as it:
        await it.clock.settle()
        tasks = await it.begin(3)
        throttled = [task.result() for task in tasks if task.done()]
        assert [o.reason for o in throttled if isinstance(o, Throttled)] == [RESERVED]
        assert len(it.sandbox.made) == 2


async def test_what_others_provision_is_not_in_the_pool(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO, function("g"), account=3) as it:
        await it.clock.settle()
        tasks = await it.begin(2, name="g")
        throttled = [task.result() for task in tasks if task.done()]
        assert [o.reason for o in throttled if isinstance(o, Throttled)] == [ACCOUNT]
        assert len(await it.run(2)) == 2


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "busy"])
async def test_one_that_dies_is_replaced(tmp_path: Path, idle: bool) -> None:
    async with pool_rig(tmp_path, TWO) as it:
        await it.clock.settle()
        if idle:
            it.sandbox.made[0].alive = False
        else:
            await it.invoke(-2)
        await it.clock.advance(2.0)
        assert provisioned(it) == (2, 2, "READY")
        assert len(it.sandbox.open) == 2
        assert len(it.sandbox.made) == 3


async def test_the_environment_of_a_cancelled_invocation_is_replaced(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO) as it:
        await it.clock.settle()
        (task,) = await it.begin(1)
        task.cancel()
        await it.clock.settle()
        assert provisioned(it) == (2, 2, "READY")
        assert len(it.sandbox.made) == 3


async def test_they_are_not_ended_for_having_no_work_nor_for_the_memory_of_others(tmp_path: Path) -> None:
    eight = partial(FakeSandbox, memory_mb=8)
    async with pool_rig(tmp_path, TWO, function("g"), sandbox=eight, idle_s=10.0, memory_mb=20) as it:
        await it.clock.advance(100.0)
        it.short = True
        await it.clock.advance(10.0)
        await it.answer(name="g")
        assert sorted(made.number for made in it.sandbox.open) == [0, 1, 2]


async def test_they_are_frozen_as_the_others_are(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO) as it:
        await it.clock.advance(1.0)
        assert [made.freezes for made in it.sandbox.made] == [1, 1]
        assert it.state().frozen == 2


@pytest.mark.parametrize("wanted", [0.0, 15.0], ids=["idle", "busy"])
async def test_old_ones_are_used_until_others_have_taken_their_places(tmp_path: Path, wanted: float) -> None:
    slow = partial(FakeSandbox, prepared_s=5.0)
    async with pool_rig(tmp_path, TWO, sandbox=slow, max_age_s=100.0) as it:
        await it.clock.advance(94.0)
        tasks = await it.begin(2, wanted)
        least = 2
        for _ in range(40):
            await it.clock.advance(0.5)
            least = min(least, it.state().provisioned_ready)
        assert least == 2
        assert [made.number for made in it.sandbox.open] == [2, 3]
        assert it.state().spillovers == 0
        assert all(isinstance(task.result(), Success) for task in tasks)


async def test_an_init_phase_that_fails_is_said_once_and_tried_again_ever_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = partial(FakeSandbox, init_failure=FAILURE)
    async with pool_rig(tmp_path, function(provisioned_concurrency=1), sandbox=failing) as it:
        await it.clock.settle()
        assert provisioned(it) == (0, 1, "FAILED")
        assert it.state().provisioned_reason == INIT_FAILURE
        await it.clock.advance(600.0)
        tries = len(it.sandbox.made)
        assert 10 <= tries <= 25
        assert it.sandbox.open == []
        said = [record for record in caplog.records if "provisioned environment not made" in record.message]
        assert [record.why for record in said] == [INIT_FAILURE]  # type: ignore[attr-defined]  # an extra
        it.sandbox.init_failure = None
        await it.clock.advance(70.0)
        assert provisioned(it) == (1, 1, "READY")
        assert it.state().provisioned_reason == ""


async def test_a_host_that_makes_none_now_is_asked_again(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO, sandbox=partial(FakeSandbox, full=True)) as it:
        await it.clock.settle()
        assert provisioned(it) == (0, 2, "FAILED")
        it.sandbox.full = False
        await it.clock.advance(5.0)
        assert provisioned(it) == (2, 2, "READY")


async def test_a_pool_that_closes_while_it_initialises_leaves_nothing(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, TWO, sandbox=partial(FakeSandbox, prepared_s=1e6)) as it:
        await it.clock.settle()
        assert len(it.sandbox.open) == 2
