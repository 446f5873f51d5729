"""The part of the state stores' kit on clocks: what is set forth or back changes nobody's lease."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contract.store_values import LONG_S, OWNER, ROW, SHORT_S, Opens, checkpoint, taken, until

HOUR_S = 3600.0


class ClockKit:
    """Tests of `StoreKit`, which says how to open a store."""

    def set_clock(self, monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
        """Have the store's own clock go wrong by `by_s` from now on."""
        raise NotImplementedError

    @pytest.fixture
    def clock_set(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        return lambda by_s: self.set_clock(monkeypatch, by_s)

    @pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
    async def test_a_clock_that_is_set_takes_nothing_from_a_daemon_that_lives(
        self, opens: Opens, clock_set: Callable[[float], None], by_s: float
    ) -> None:
        async with opens() as store, opens() as other:
            await store.put_mapping(ROW)
            held = await taken(store)
            await store.announce("u1", OWNER, LONG_S)
            await store.attend(OWNER, ["u1"], LONG_S)
            for _ in range(2):
                clock_set(by_s)
                for looks in (other, store):
                    assert await looks.take("u1", "p", "daemon-2", LONG_S) is None
                    (row,) = await looks.partitions("u1")
                    assert (row.owner, row.epoch) == (OWNER, held.epoch)
                    assert list(await looks.announce("u1", "daemon-2", 0.0)) == [OWNER]
                    assert list(await looks.attendants("u1")) == [OWNER]
                    await looks.forget("u1", ["p"])
                assert list(await store.renew([held], LONG_S)) == [held]
                await store.announce("u1", OWNER, LONG_S)
                await store.attend(OWNER, ["u1"], LONG_S)
                by_s = -by_s
            await store.commit(held, checkpoint("7"))

    @pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
    async def test_a_clock_that_is_set_keeps_nothing_for_a_daemon_that_is_dead(
        self, opens: Opens, clock_set: Callable[[float], None], by_s: float
    ) -> None:
        async with opens() as store, opens() as other:
            await store.put_mapping(ROW)
            stale = await taken(store, ttl_s=SHORT_S)
            await store.announce("u1", OWNER, SHORT_S)
            await store.attend(OWNER, ["u1"], SHORT_S)
            clock_set(by_s)

            async def alone() -> bool:
                members = await other.announce("u1", "daemon-2", LONG_S)
                return list(members) == ["daemon-2"] and not await other.attendants("u1")

            await until(alone)
            held = await until(lambda: other.take("u1", "p", "daemon-2", LONG_S))
            assert held.epoch > stale.epoch
            assert list(await store.renew([stale], LONG_S)) == []
