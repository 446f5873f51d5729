"""What a state store must do with who runs a mapping, and which stream it reads. Part of the store kit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.contract.errors import LeaseLost
from tests.contract.store_values import (
    LONG_S,
    OTHER,
    OWNER,
    ROW,
    SHORT_S,
    STATUS,
    Opens,
    checkpoint,
    taken,
    until,
)


class IdentityKit:
    """The suite; `opens` is the store kit's fixture."""

    async def test_a_daemons_successor_has_its_leases_and_statuses_at_once(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_status(OWNER, [STATUS])
            await store.announce("u1", OWNER, LONG_S)
            await store.attend(OWNER, ["u1"], LONG_S)
            held = await taken(store)
            await store.commit(held, checkpoint("7"))
            await store.succeed(OWNER, "next")
            (row,) = await store.partitions("u1")
            assert (row.owner, row.epoch, row.position) == ("next", held.epoch + 1, "7")
            assert list(await store.statuses("next")) == [STATUS]
            assert list(await store.statuses(OWNER)) == []
            assert list(await store.announce("u1", "other", 0.0)) == []
            assert list(await store.attendants("u1")) == []
            with pytest.raises(LeaseLost):
                await store.commit(held, checkpoint("8"))
            assert await store.take("u1", "p", "next", LONG_S) is not None

    async def test_nothing_is_left_by_a_daemon_that_never_ran(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            held = await taken(store)
            await store.succeed("nobody", "next")
            assert list(await store.renew([held], LONG_S)) == [held]

    async def test_a_retired_mapping_keeps_all_and_is_retired_no_more_once_declared(
        self, opens: Opens
    ) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.commit(await taken(store), checkpoint("7"))
            await store.retire("u1")
            (once,) = await store.mappings()
            assert once.retired_at is not None
            await store.retire("u1")
            assert list(await store.mappings()) == [once]
            assert await store.put_mapping(replace(ROW, uuid="new")) == ROW
            (row,) = await store.partitions("u1")
            assert row.position == "7"

    async def test_a_source_that_is_called_by_another_name_is_the_same_mapping(self, opens: Opens) -> None:
        arn = "arn:aws:sqs:us-east-1:000000000000:orders"
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.name_source("u1", arn)
            await store.name_source("nobody", arn)
            called = replace(ROW, source=arn)
            assert await store.put_mapping(replace(called, uuid="new")) == called
            assert list(await store.mappings()) == [called]

    async def test_those_who_run_a_mapping_are_known_while_they_say_so(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            await store.attend("a", ["u1", "u2", "never-there"], LONG_S)
            await store.attend("b", ["u1"], SHORT_S)
            assert list(await store.attendants("u2")) == ["a"]

            async def alone() -> bool:
                return list(await store.attendants("u1")) == ["a"]

            await until(alone)
            await store.attend("a", ["u1"], 0.0)
            assert list(await store.attendants("u1")) == []
            assert list(await store.attendants("u2")) == ["a"]

    async def test_another_stream_of_the_same_name_is_read_anew_and_under_new_leases(
        self, opens: Opens
    ) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            await store.put_mapping(OTHER)
            assert not await store.adopt("u1", "made in 2025")
            held, elsewhere = await taken(store), await taken(store, mapping="u2")
            await store.commit(held, checkpoint("7"))
            await store.commit(elsewhere, checkpoint("9"))
            await store.release(await taken(store, "ended"), ended=True)
            assert not await store.adopt("u1", "made in 2025")
            assert await store.cursor(held) == "7"
            assert await store.adopt("u1", "made in 2026")
            assert not await store.adopt("u1", "made in 2026")
            with pytest.raises(LeaseLost):
                await store.commit(held, checkpoint("8"))
            for partition in ("p", "ended"):
                again = await taken(store, partition)
                assert again.epoch > held.epoch
                assert await store.cursor(again) is None
            assert await store.cursor(elsewhere) == "9"

    async def test_how_long_a_partition_is_missing_counts_over_restarts(self, opens: Opens) -> None:
        async with opens() as store:
            await store.put_mapping(ROW)
            for partition in ("p", "q"):
                await store.release(await taken(store, partition), ended=True)
            await store.note_missing("u1", ["p", "q", "never-there"], [])
        async with opens() as store:

            async def missing() -> bool:
                return all((row.missing_s or 0) > SHORT_S for row in await store.partitions("u1"))

            await until(missing)
            before = {row.partition: row.missing_s for row in await store.partitions("u1")}
            await store.note_missing("u1", ["p"], ["q"])
            after = {row.partition: row.missing_s for row in await store.partitions("u1")}
            assert after["q"] is None
            assert after["p"] is not None
            assert before["p"] is not None
            assert after["p"] >= before["p"]
