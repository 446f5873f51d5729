"""The part of the state stores' kit on leases: who holds them, and who may move a cursor."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import LeaseLost
from millstream.contract.records import Position
from millstream.contract.state import Lease, PartitionRow, StateStore
from tests.contract.store_values import (
    LONG_S,
    OTHER,
    OWNER,
    ROW,
    SHORT_S,
    WITHIN_S,
    Opens,
    checkpoint,
    lease,
    taken,
    until,
)
from tests.examples import examples


class LeaseKit:
    """Tests of `StoreKit`, which says how to open a store."""

    async def test_a_lease_outlives_the_store_object(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            assert held == lease(epoch=1)
        async with opens() as store:
            assert list(await store.partitions("u1")) == [PartitionRow("p", OWNER, 1, None, False)]
            await store.commit(held, checkpoint("7"))

    async def test_a_lease_that_is_held_is_not_given_to_another(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            assert await store.take("u1", "p", "daemon-2", LONG_S) is None
            await store.commit(held, checkpoint("7"))

    async def test_an_owner_takes_its_own_lease_anew_under_a_new_epoch(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            first = await taken(store)
            second = await taken(store)
            assert second.epoch > first.epoch
            with pytest.raises(LeaseLost):
                await store.commit(first, checkpoint("7"))
            await store.commit(second, checkpoint("8"))

    async def test_a_lease_that_has_run_out_goes_to_whoever_asks(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            stale = await taken(store, ttl_s=SHORT_S)
            await store.commit(stale, checkpoint("7"))
            held = await until(lambda: store.take("u1", "p", "daemon-2", LONG_S))
            assert held.epoch > stale.epoch
            assert await store.cursor(held) == "7"
            with pytest.raises(LeaseLost):
                await store.commit(stale, checkpoint("99"))
            assert await store.cursor(held) == "7"

    async def test_a_lease_that_has_run_out_untaken_is_still_its_owners(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store, ttl_s=SHORT_S)

            async def shown_free() -> bool:
                (row,) = await store.partitions("u1")
                return row.owner is None

            await until(shown_free)
            await store.commit(held, checkpoint("7"))
            assert list(await store.renew([held], LONG_S)) == [held]
            assert await store.take("u1", "p", "daemon-2", LONG_S) is None
            assert list(await store.partitions("u1")) == [PartitionRow("p", OWNER, 1, Position("7"), False)]

    async def test_a_released_lease_is_free_at_once_and_writes_nothing(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            await store.commit(held, checkpoint("7"))
            await store.release(held)
            await store.release(held)
            assert list(await store.partitions("u1")) == [PartitionRow("p", None, 1, Position("7"), False)]
            with pytest.raises(LeaseLost):
                await store.commit(held, checkpoint("8"))
            assert list(await store.renew([held], LONG_S)) == []
            assert (await taken(store, owner="daemon-2")).epoch > held.epoch

    async def test_a_stale_release_takes_nothing_from_the_new_owner(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            stale = await taken(store)
            held = await taken(store)
            await store.release(stale, ended=True)
            assert list(await store.renew([held], LONG_S)) == [held]
            await store.commit(held, checkpoint("7"))

    async def test_renewal_keeps_what_is_held_and_tells_what_is_lost(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            kept = [await taken(store, f"p{number}", ttl_s=1.0) for number in range(20)]
            stale = await taken(store, "stale")
            await taken(store, "stale")
            released = await taken(store, "released")
            await store.release(released)
            unknown = lease(partition="unknown")
            forged = lease(partition="p0", owner="daemon-2", epoch=kept[0].epoch)
            asked = [stale, *kept, released, unknown, forged]
            assert sorted(await store.renew(asked, LONG_S), key=str) == sorted(kept, key=str)
            assert list(await store.renew([], LONG_S)) == []

    async def test_a_renewed_lease_lasts_from_the_renewal_on(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            renewed, left = await taken(store, "p", ttl_s=SHORT_S), await taken(store, "q", ttl_s=SHORT_S)
            await store.renew([renewed], LONG_S)
            await until(lambda: store.take("u1", left.partition, "daemon-2", LONG_S))
            assert await store.take("u1", renewed.partition, "daemon-2", LONG_S) is None

    async def test_thousands_of_leases_are_renewed_at_once(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = [await taken(store, f"p{number}") for number in range(3)]
            unknown = [lease(partition=f"q{number}") for number in range(3000)]
            assert set(await store.renew([*unknown, *held], LONG_S)) == set(held)

    async def test_a_partition_that_has_ended_is_never_taken_again(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            await store.commit(held, checkpoint("7"))
            await store.release(held, ended=True)
            assert await store.take("u1", "p", OWNER, LONG_S) is None
            assert await store.take("u1", "p", "daemon-2", LONG_S) is None
            with pytest.raises(LeaseLost):
                await store.commit(held, checkpoint("8"))
            assert list(await store.renew([held], LONG_S)) == []
        async with opens() as store:
            assert list(await store.partitions("u1")) == [PartitionRow("p", None, 1, Position("7"), True)]

    async def test_what_is_not_leased_can_be_forgotten(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            ended, free, kept = [await taken(store, name) for name in ("ended", "free", "kept")]
            elsewhere = await taken(store, "free", mapping="u2")
            await store.release(ended, ended=True)
            await store.release(elsewhere)
            for held in (free, kept):
                await store.commit(held, checkpoint("7", held.partition))
            await store.release(free)
            await store.forget("u1", ["kept", "free", "ended", "never-there"])
            await store.forget("u1", [])
            assert [row.partition for row in await store.partitions("u1")] == ["kept"]
            assert [row.partition for row in await store.partitions("u2")] == ["free"]
            assert await store.cursor(kept) == "7"
            assert await store.cursor(await taken(store, "free")) is None

    async def test_partitions_are_listed_by_mapping(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            await taken(store, "p")
            await taken(store, "q", mapping="u2", owner="daemon-2")
            assert list(await store.partitions("u1")) == [PartitionRow("p", OWNER, 1, None, False)]
            assert list(await store.partitions("u2")) == [PartitionRow("q", "daemon-2", 1, None, False)]

    async def test_each_partition_that_two_daemons_race_for_is_won_once(self, opens: Opens) -> None:
        names = [f"p{number}" for number in range(50)]
        won: dict[str, list[str]] = {name: [] for name in names}

        async def race(store: StateStore, owner: str, order: list[str]) -> None:
            for name in order:
                if await store.take("u1", name, owner, LONG_S) is not None:
                    won[name].append(owner)

        async with opens() as one, opens() as two:
            await one.put_mapping(ROW)
            await two.mappings()
            async with asyncio.TaskGroup() as group:
                group.create_task(race(one, "a", names))
                group.create_task(race(two, "b", names))
                group.create_task(race(one, "c", names[25:] + names[:25]))
                group.create_task(race(two, "d", names[::-1]))
            holders = {row.partition: [row.owner] for row in await one.partitions("u1")}
        assert all(len(owners) == 1 for owners in won.values())
        assert holders == won

    async def test_of_all_owners_at_most_one_can_commit_a_partition(self, opens: Opens) -> None:
        """Drawn histories of takes, renewals, releases and lapses, against a model of who holds the lease."""
        async with opens() as store, opens() as other:
            await store.put_mapping(ROW)
            await other.mappings()
            loop = asyncio.get_running_loop()
            numbers = itertools.count()

            @examples(30, database=None)
            @given(st.lists(st.tuples(st.sampled_from(MOVES), st.sampled_from("ab")), max_size=8))
            def histories(moves: list[tuple[str, str]]) -> None:
                stores = {"a": store, "b": other}
                played = play(stores, f"h{next(numbers)}", moves)
                asyncio.run_coroutine_threadsafe(played, loop).result(WITHIN_S)

            thread = BlockingClient("histories", 1)
            await thread.call(histories)
            thread.close()

    async def test_a_cursor_outlives_the_store_object(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            await store.commit(held, checkpoint("7"))
            await store.commit(held, checkpoint("10"))
        async with opens() as store:
            assert await store.cursor(held) == "10"

    async def test_each_partition_of_each_mapping_has_its_own_cursor(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            first, second = await taken(store), await taken(store, "q")
            third = await taken(store, mapping="u2")
            await store.commit(first, checkpoint("1"))
            await store.commit(second, checkpoint("2", "q"))
            await store.commit(third, checkpoint("3"))
            assert [await store.cursor(held) for held in (first, second, third)] == ["1", "2", "3"]

    async def test_a_partition_may_have_any_name(self, opens: Opens) -> None:
        names = ["a:b", "%s %(x)s :y ? $1", "né \U0001f600", 'it\'s "quoted"; --', "x" * 1000]
        async with opens() as store:
            await store.put_mapping(ROW)
            for name in names:
                held = await taken(store, name)
                await store.commit(held, checkpoint(name, name))
                assert list(await store.renew([held], LONG_S)) == [held]
                assert await store.cursor(held) == name
            assert {row.partition for row in await store.partitions("u1")} == set(names)

    async def test_commits_that_come_at_once_are_each_answered_for_themselves(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            stale = [await taken(store, f"p{number}") for number in range(0, 1200, 3)]
            held = [await taken(store, f"p{number}") for number in range(1200)]
            async with asyncio.TaskGroup() as group:
                both = {each: group.create_task(commits(store, each)) for each in [*stale, *held]}
            assert {each for each, task in both.items() if task.result()} == set(held)
            assert all(row.position == str(row.epoch) for row in await store.partitions("u1"))

    async def test_of_commits_at_once_the_last_one_stays(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(store.commit(held, checkpoint(str(number))))
            assert await store.cursor(held) == "99"

    async def test_a_cancelled_commit_takes_none_of_the_others_with_it(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = [await taken(store, f"p{number}") for number in range(30)]
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                tasks = [group.create_task(commits(store, each)) for each in held]
                await asyncio.sleep(0)
                for task in tasks[::3]:
                    task.cancel()
            kept = {task_lease for task_lease, task in zip(held, tasks, strict=True) if not task.cancelled()}
            assert len(kept) == 20
            written = {row.partition for row in await store.partitions("u1") if row.position is not None}
            assert {each.partition for each in kept} <= written

    async def test_a_cancelled_commit_is_not_written_later(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = [await taken(store, name) for name in ("first", "second", "third")]
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                first, second = [group.create_task(commits(store, each)) for each in held[:2]]
                await asyncio.sleep(0)
                second.cancel()
            assert first.result()
            await store.commit(held[2], checkpoint("1", "third"))
            assert await store.cursor(held[1]) is None

    @pytest.mark.parametrize("position", ["a\0b", "\ud800"])
    async def test_a_position_that_cannot_be_kept_is_refused(self, opens: Opens, position: str) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            with pytest.raises(ValueError, match=r"NUL|surrogates"):
                await store.commit(held, checkpoint(position))
            await store.commit(held, checkpoint("5"))

    async def test_a_checkpoint_of_another_partition_is_refused(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            with pytest.raises(ValueError, match=r"partition|lease"):
                await store.commit(await taken(store), checkpoint("5", "q"))


MOVES = ("take", "take_briefly", "renew", "release", "commit")


async def play(stores: Mapping[str, StateStore], partition: str, moves: Sequence[tuple[str, str]]) -> None:
    """Play a history on one partition; after each move, try a commit under every lease ever given."""
    given_out: list[Lease] = []
    holder: Lease | None = None  # who may write, by the model
    lasting = False  # not to be taken by the other
    for move, owner in moves:
        store = stores[owner]
        match move:
            case "take" | "take_briefly":
                ttl_s = LONG_S if move == "take" else 0.0
                got = await store.take("u1", partition, owner, ttl_s)
                assert (got is None) == (holder is not None and lasting and holder.owner != owner)
                if got is not None:
                    assert all(got.epoch > before.epoch for before in given_out)
                    holder, lasting = got, ttl_s > 0
                    given_out.append(got)
            case "renew":
                mine = [held for held in given_out if held.owner == owner]
                kept = [holder] if holder is not None and holder.owner == owner else []
                assert list(await store.renew(mine, LONG_S)) == kept
                lasting = lasting or bool(kept)
            case "release":
                for held in given_out:
                    if held.owner == owner:
                        await store.release(held)
                if holder is not None and holder.owner == owner:
                    holder = None
        for held in given_out:
            assert await commits(stores[held.owner], held) == (held == holder)


async def commits(store: StateStore, held: Lease) -> bool:
    try:
        await store.commit(held, checkpoint(str(held.epoch), held.partition))
    except LeaseLost:
        return False
    return True
