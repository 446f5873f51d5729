"""What the pool does with environments that have no work: freezing, retirement, memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from millstream.contract.functions import Success
from millstream.runtime.pool import UNAVAILABLE
from tests.runtime.fakes import FakeSandbox, function, pool_rig

EIGHT_MB = partial(FakeSandbox, memory_mb=8)


# ---- freezing


async def test_what_is_idle_for_a_moment_is_frozen_once(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        await it.answer()
        assert it.sandbox.made[0].freezes == 0
        await it.clock.advance(0.11)
        assert it.sandbox.made[0].freezes == 1
        await it.clock.advance(10.0)
        assert it.sandbox.made[0].freezes == 1


async def test_what_is_busy_is_never_frozen(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        await it.begin(1, 30.0)
        await it.clock.advance(29.0)
        assert it.sandbox.made[0].freezes == 0


async def test_what_is_used_again_and_again_is_not_frozen(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        for _ in range(100):
            await it.answer()
            await it.clock.advance(0.03)
        assert it.sandbox.made[0].freezes == 0


async def test_a_frozen_environment_is_used_and_frozen_again(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        for _ in range(3):
            assert await it.answer() == 0
            await it.clock.advance(1.0)
        assert it.sandbox.made[0].freezes == 3


async def test_of_several_those_without_work_are_frozen(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        await it.run(3)
        for _ in range(10):
            used = await it.answer()
            await it.clock.advance(0.03)
        assert [made.number for made in it.sandbox.made if not made.frozen] == [used]


async def test_nothing_is_frozen_if_that_is_wanted(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, freeze_after_s=None) as it:
        await it.answer()
        await it.clock.advance(60.0)
        assert it.sandbox.made[0].freezes == 0


async def test_without_environments_nobody_looks(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, function(), idle_s=10.0) as it:
        assert it.clock.sleepers == 0
        await it.answer()
        await it.clock.settle()
        assert it.clock.sleepers == 2
        await it.clock.advance(12.0)
        assert it.sandbox.open == []
        assert it.clock.sleepers == 0


# ---- retirement


async def test_what_is_unused_is_ended(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, idle_s=60.0) as it:
        await it.run(3)
        await it.clock.advance(50.0)
        used = await it.answer()
        await it.clock.advance(15.0)
        assert [made.number for made in it.sandbox.open] == [used]
        await it.clock.advance(60.0)
        assert it.sandbox.open == []


async def test_an_old_environment_is_ended_after_its_invocation_even_if_it_is_always_busy(
    tmp_path: Path,
) -> None:
    async with pool_rig(tmp_path, max_age_s=100.0) as it:
        seen = []
        for _ in range(5):
            (task,) = await it.begin(1, 30.0)
            await it.clock.advance(30.0)
            outcome = task.result()
            assert isinstance(outcome, Success)
            seen.append(int(outcome.payload))
        assert seen == [0, 0, 0, 0, 1]


async def test_an_old_environment_is_ended_while_it_is_idle(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, max_age_s=100.0) as it:
        await it.answer()
        await it.clock.advance(99.0)
        assert len(it.sandbox.open) == 1
        await it.clock.advance(2.0)
        assert it.sandbox.open == []


async def test_environments_of_one_moment_do_not_grow_old_at_one_moment(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, max_age_s=100.0, chances=(0.0, 0.5, 1.0)) as it:
        await it.run(3)
        left = []
        for by_s in (92.0, 10.0, 10.0):
            await it.clock.advance(by_s)
            left.append(len(it.sandbox.open))
        assert left == [2, 1, 0]


# ---- memory


async def test_before_the_budget_is_passed_what_was_used_longest_ago_is_ended(tmp_path: Path) -> None:
    async with pool_rig(
        tmp_path, function("f"), function("g"), function("h"), sandbox=EIGHT_MB, memory_mb=80
    ) as it:
        await it.answer(name="f")
        await it.answer(name="g")  # its guess of 64 MB and 8 are within 80
        await it.clock.advance(1.0)
        await it.answer(name="h")  # 16 and 64, too
        assert len(it.sandbox.open) == 3
        await it.clock.advance(1.0)
        await it.answer(name="f")
        await it.begin(9, 10.0, name="h")
        assert sorted(made.function.name for made in it.sandbox.open) == ["f"] + ["h"] * 9
        await it.begin(1, 10.0, name="h")
        assert {made.function.name for made in it.sandbox.open} == {"h"}
        assert it.pool.held_mb == 80.0


async def test_what_busy_environments_leave_no_memory_for_is_throttled(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, sandbox=EIGHT_MB, memory_mb=20) as it:
        await it.answer()
        tasks = await it.begin(3)
        assert [task.result() for task in tasks if task.done()] == [UNAVAILABLE]
        assert it.state().throttles == {"ServiceException": 1}
        await it.clock.advance(1.0)
        assert len(await it.run(2)) == 2


async def test_the_first_environment_of_a_function_is_made_whatever_the_others_hold(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, function("f"), function("g"), sandbox=EIGHT_MB, memory_mb=8) as it:
        await it.begin(1, 10.0, name="f")
        tasks = await it.begin(2, 10.0, name="g")
        assert [task.result() for task in tasks if task.done()] == [UNAVAILABLE]
        assert it.pool.held_mb == 128.0  # both are guessed until they were weighed


async def test_what_grew_beyond_the_budget_is_ended_while_it_is_idle(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, sandbox=EIGHT_MB, memory_mb=30, freeze_after_s=None) as it:
        await it.answer()
        await it.run(3)
        it.sandbox.made[2].memory_kb = 20 * 1024
        await it.clock.advance(2.0)
        assert len(it.sandbox.open) == 2
        assert it.pool.held_mb <= 30


async def test_many_environments_are_weighed_in_turns(tmp_path: Path) -> None:
    async with pool_rig(tmp_path, freeze_after_s=None) as it:
        await it.run(100)
        for made in it.sandbox.made:
            made.memory_kb = 1024
        await it.clock.advance(1.0)
        assert it.state().held_mb == 64 + 36 * 64
        await it.clock.advance(1.0)
        assert it.state().held_mb == 100


async def test_frozen_ones_are_weighed_too_but_seldom(tmp_path: Path) -> None:
    async with pool_rig(tmp_path) as it:
        await it.run(3)
        await it.clock.advance(0.2)
        assert it.state().frozen == 3
        for made in it.sandbox.made:
            made.memory_kb = 1024
        await it.clock.advance(1.0)
        assert it.state().held_mb == 2 + 64
        await it.clock.advance(1.0)
        assert it.state().held_mb == 3


async def test_while_the_host_is_short_of_memory_idle_environments_are_ended_by_halves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool_rig(tmp_path) as it:
        await it.begin(1, 10.0)
        await it.run(5)
        it.short = True
        left = []
        for _ in range(4):
            await it.clock.advance(1.0)
            left.append(it.pool.idle("f"))
        assert left == [2, 1, 0, 0]
        assert it.state().busy == 1
        assert [r.message for r in caplog.records if "short of memory" in r.message] == [
            "host is short of memory, idle environments are ended"
        ]
        it.short = False
        await it.answer()
        await it.clock.advance(10.0)
        assert it.pool.idle("f") == 1 + 1
