"""Who has fallen silent: never a holder that renews, and in time one that does not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from millstream.store.silence import Mark, Seen, Watch, look

MARK = Mark("a", 1, 0, 7.0)


@pytest.mark.parametrize(
    ("found", "since"),
    [
        (MARK, 10.0),
        (replace(MARK, beat=1), 16.0),
        (replace(MARK, epoch=2), 16.0),
        (replace(MARK, owner="b"), 16.0),
        (replace(MARK, lasts_s=3.0), 16.0),
    ],
)
def test_only_a_mark_that_is_as_before_keeps_the_time_at_which_it_was_seen_first(
    found: Mark, since: float
) -> None:
    assert look({"p": Seen(MARK, 10.0)}, {"p": found}, 16.0) == {"p": Seen(found, since)}


@pytest.mark.parametrize(("now", "left_s"), [(10.0, 7.0), (16.5, 0.5), (17.0, 0.0), (90.0, -73.0)])
def test_a_mark_is_believed_for_as_long_as_its_holder_said(now: float, left_s: float) -> None:
    watch = Watch()
    watch.saw("m", {"p": MARK}, 10.0)
    assert watch.left_s("m", "p", now) == left_s
    assert watch.silent("m", now) == ({"p": MARK} if left_s <= 0 else {})
    assert watch.silent_one("m", "p", now) == (MARK if left_s <= 0 else None)


def test_what_is_gone_is_forgotten_and_what_was_never_seen_is_not_silent() -> None:
    watch = Watch()
    watch.saw("m", {"p": MARK, "q": MARK}, 10.0)
    watch.saw("m", {"q": MARK}, 11.0)
    watch.saw("m", {"p": MARK, "q": MARK}, 18.0)
    assert watch.silent("m", 18.0) == {"q": MARK}
    assert watch.silent_one("m", "never", 99.0) is None
    assert watch.left_s("other", "p", 99.0) is None
    watch.saw("m", {}, 19.0)
    assert watch.silent("m", 99.0) == {}


def test_one_of_them_is_noted_without_the_others() -> None:
    watch = Watch()
    watch.saw("m", {"p": MARK}, 10.0)
    watch.saw_one("m", "q", MARK, 16.0)
    watch.saw_one("m", "p", MARK, 16.0)
    assert watch.silent("m", 17.0) == {"p": MARK}


@dataclass
class Table:
    """One lease in a store without a clock: what its statements do, and when it was really renewed."""

    mark: Mark = MARK
    renewed_at: float = 0.0
    taken: list[tuple[float, float]] = field(default_factory=list)  # (unrenewed for, of a lease that lasts)

    def renew(self, mine: Mark, now: float) -> Mark | None:
        """The new mark, if the lease is still its holder's."""
        if (mine.owner, mine.epoch) != (self.mark.owner, self.mark.epoch):
            return None
        self.mark, self.renewed_at = replace(self.mark, beat=self.mark.beat + 1), now
        return self.mark

    def take(self, owner: str, over: Mark | None, now: float) -> Mark | None:
        """A lease over another's, on the condition of that one's mark."""
        if over is None or (over.epoch, over.beat) != (self.mark.epoch, self.mark.beat):
            return None
        self.taken.append((now - self.renewed_at, over.lasts_s))
        self.mark, self.renewed_at = Mark(owner, over.epoch + 1, over.beat, 7.0), now
        return self.mark


steps = st.tuples(
    st.sampled_from(["holder renews", "other looks", "other looks, and is held up", "other takes"]),
    st.sampled_from([0.0, 2.0, 6.9, 7.0]),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(steps, max_size=30))
def test_no_lease_is_taken_that_was_renewed_within_its_length(drawn: list[tuple[str, float]]) -> None:
    """Each daemon's monotonic clock has its own beginning; what one looks at it may note much later."""
    table, now = Table(), 0.0
    began = {"a": 0.0, "b": -1000.0}
    watches = {name: Watch() for name in began}
    leases = {"a": MARK}
    held_up: list[Mark] = []
    for what, for_s in drawn:
        holder = table.mark.owner
        other = "b" if holder == "a" else "a"
        watch = watches[other]
        match what:
            case "holder renews":
                leases[holder] = table.renew(leases[holder], now) or leases[holder]
            case "other looks, and is held up":
                held_up.append(table.mark)
            case "other looks":
                for mark in [*held_up, table.mark]:
                    watch.saw("m", {"p": mark}, now + began[other])
                held_up.clear()
            case "other takes":
                silent = watch.silent_one("m", "p", now + began[other])
                if (taken := table.take(other, silent, now)) is not None:
                    leases[other] = taken
        now += for_s
    assert all(unrenewed_s >= lasts_s - 1e-6 for unrenewed_s, lasts_s in table.taken)


@given(st.lists(st.floats(0.0, 2.0), max_size=8), st.floats(0.0, 2.0))
def test_a_dead_holders_lease_is_had_one_length_after_the_next_look(
    alive: list[float], next_s: float
) -> None:
    table, watch, now = Table(), Watch(), 0.0
    mark = MARK
    for wait_s in alive:
        mark = table.renew(mark, now) or mark
        watch.saw("m", {"p": table.mark}, now)
        now += wait_s
    died, now = now, now + next_s
    watch.saw("m", {"p": table.mark}, now)
    while (left_s := watch.left_s("m", "p", now) or 0.0) > 0:
        now += min(2.0, left_s)
        watch.saw("m", {"p": table.mark}, now)
    assert now <= died + next_s + MARK.lasts_s + 1e-6
    assert table.take("b", watch.silent_one("m", "p", now), now) is not None
